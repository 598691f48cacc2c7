"""The receipt of an indexed archive: what is in it, what was left out and why, and what does not fit together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from medssl.archive.reasons import REASONS

SHOWN = 3
"""How many pseudonyms of things that do not fit are listed."""

PACKAGES = ("medssl", "nibabel", "numpy", "pyarrow", "pydicom")
"""What the content of a cohort depends on."""


@dataclass(frozen=True, kw_only=True)
class Unmatched:
    """Things without a counterpart: how many, and the pseudonyms of the first of them."""

    count: int = 0
    first: tuple[str, ...] = ()


def unmatched(names: Iterable[str]) -> Unmatched:
    """The count and the first few of some pseudonyms."""
    names = list(names)
    return Unmatched(count=len(names), first=tuple(names[:SHOWN]))


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What an archive holds: counts by level, why things were left out, and what the reader should know.

    `patients`, `studies` and `volumes` are those that can be used; a patient of whom nothing can be used counts in
    `patients_left_out`. Rows of the table and volumes are listed by pseudonym, label maps by that of their file.
    """

    files: int
    volumes: int
    studies: int
    patients: int
    patients_left_out: int
    by_modality: dict[str, int]
    files_left_out: dict[str, int]
    series_left_out: dict[str, int]
    masks: int
    labels: dict[str, int]
    splits: dict[str, int]
    table_rows_without_image: Unmatched = field(default_factory=Unmatched)
    volumes_without_table_row: Unmatched = field(default_factory=Unmatched)
    label_maps_without_image: Unmatched = field(default_factory=Unmatched)
    volumes_without_label_map: Unmatched = field(default_factory=Unmatched)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {name}" for name, count in self.by_modality.items())
        lines = [f"{self.volumes} volumes ({kinds or 'none'}) of {self.patients} patients in {self.files} files"]
        for what, reasons in ("files", self.files_left_out), ("series", self.series_left_out):
            lines += [f"  left out: {count} {what}, {code}. {REASONS[code]}" for code, count in reasons.items()]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def counts(values: Iterable[Any]) -> dict[str, int]:
    """How often each value occurs, sorted by it."""
    return {str(value): count for value, count in sorted(Counter(values).items(), key=lambda item: str(item[0]))}


def described(
    volumes: Sequence[dict[str, Any]],
    people: Sequence[dict[str, Any]],
    labels: Sequence[dict[str, Any]],
    reasons: Sequence[str],
) -> dict[str, Any]:
    """The receipt's counts, from the rows of the tables and each file's own reason ("": none)."""
    kept = [row for row in volumes if row["status"] != "excluded"]
    there = sum(person["n_volumes"] > 0 for person in people)
    return {
        "files": len(reasons), "volumes": len(kept), "patients": there, "patients_left_out": len(people) - there,
        "studies": len({row["study_pid"] for row in kept} - {""}), "masks": sum(bool(row["has_mask"]) for row in kept),
        "by_modality": counts(row["modality"] for row in kept), "files_left_out": counts(filter(None, reasons)),
        "series_left_out": counts(row["reason"] for row in volumes if row["status"] == "excluded"),
        "labels": counts(row["name"] for row in labels), "splits": counts(row["split"] for row in kept),
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of the packages that read and write."""
    from importlib import metadata

    return {name: metadata.version(name) for name in PACKAGES}
