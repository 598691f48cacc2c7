"""The rows of the manifest's tables. Only numbers, pseudonyms and words from closed lists or the user's table go in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.archive.headers import Header
from medssl.archive.scanners import SIDES, VIEWS, listed
from medssl.manifest.card import KEYS, PLACED, Card, source_of
from medssl.manifest.demographics import UNKNOWN, age_band, age_of, agreed, sex_of
from medssl.manifest.labels import Rule
from medssl.manifest.pseudonyms import pseudonym

if TYPE_CHECKING:
    from medssl.archive.series import Stack

OLDEST_TOLD = 90.0
"""Years at which ages are capped: so few people are older that an exact age identifies (HIPAA Safe Harbor)."""

Row = dict[str, Any]

Beside = tuple[str, int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """A file as it was read: its checksums (None: not asked for, or not to be had) and its header, or why it has none.

    `beside` are the further files that the image is in: name in the same folder, size, time of change and checksum.
    With `guessed`, nothing but the file's name says whose it is.
    """

    path: Path
    size: int
    crc32c: int | None
    digest: str
    header: Header | None
    reason: str
    beside: tuple[Beside, ...] = ()
    guessed: bool = False


def relative_name(path: Path, archive: Path) -> str:
    """A file's path below the archive as text; bytes that are not text (UTF-8) are written as escapes."""
    return path.relative_to(archive).as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def instance_row(file: File, key: bytes, series_reason: str, archive: Path) -> Row:
    """The row of a file; its own reason, or that of the series it belongs to."""
    header, reason = file.header, file.reason or series_reason
    return {
        "instance_pid": pseudonym(key, "instance", relative_name(file.path, archive)),
        "series_pid": pseudonym(key, "series", header.series_uid) if header else "",
        "study_pid": pseudonym(key, "study", header.study_uid) if header else "",
        "patient_pid": pseudonym(key, "patient", header.patient_id) if header else "",
        "size": file.size,
        "crc32c": file.crc32c,
        "sop_class_uid": header.sop_class_uid if header else "",
        "transfer_syntax": _registered(header.transfer_syntax) if header else "",
        "modality": header.modality if header else "",
        "parse_path": header.parse_path if header else "",
        "flags": " ".join(header.flags) if header else "",
        "n_frames": header.n_frames if header else 0,
        "status": "excluded" if reason else "ok",
        "reason": reason,
    }


def _registered(uid: str) -> str:
    """The uid if it is one of DICOM's own list, "" for any other text."""
    return uid if re.fullmatch(r"1\.2\.840\.10008\.[0-9.]{1,40}", uid) else ""


def volume_row(volume_id: str, stack: Stack, key: bytes, told: Mapping[str, str], split: str, *, has_mask: bool) -> Row:
    """The row of a volume or of a series left out, but for its days; `told` is what the clinical table says of it."""
    first = stack.headers[0]
    affine = stack.affine
    left_out = stack.status == "excluded"
    return {
        "volume_id": volume_id,
        "series_pid": pseudonym(key, "series", first.series_uid),
        "study_pid": pseudonym(key, "study", first.study_uid),
        "frame_pid": pseudonym(key, "frame", first.frame_of_reference),
        "patient_pid": pseudonym(key, "patient", first.patient_id),
        "split": "excluded" if left_out else split,
        "modality": stack.modality,
        "role": told.get("role") or stack.role,
        "site": told.get("site") or _site(key, first.institution),
        "scanner": told.get("scanner") or f"{first.manufacturer} {first.model}".strip() or UNKNOWN,
        "body_part": first.body_part or UNKNOWN,
        "laterality": listed(told.get("laterality") or first.laterality, SIDES) or UNKNOWN,
        "view_position": listed(told.get("view_position") or first.view_position, VIEWS) or UNKNOWN,
        "shape": [int(n) for n in stack.shape],
        "spacing": [] if affine is None else [math.hypot(*affine[:3, axis]) for axis in range(3)],
        "affine": [] if affine is None else [float(value) for value in affine.ravel()],
        "orientation": _orientation(stack),
        "spacing_source": stack.spacing_source,
        "n_sources": len({header.path for header in stack.headers}),
        "source_kind": first.kind,
        "age_years": _age(told, first),
        "age_source": "table" if age_of(told.get("age_years", "")) > 0 else first.age_source or "none",
        "intent": first.intent or UNKNOWN,
        "lossy": any(header.lossy for header in stack.headers),
        "has_mask": has_mask and not left_out,
        "split_by": stack.split_by,
        "status": stack.status,
        "reason": stack.reason,
    }


def label_rows(volume_id: str, told: Mapping[str, str], rules: Mapping[str, Rule], card: Card) -> list[Row]:
    """A row for each label that the table gives a volume."""
    if not told:
        return []
    values = {name: rule(told) for name, rule in rules.items()}
    return [
        {"volume_id": volume_id, "name": name, "value": value, "source": f"{card.name}: {rules[name].column}"}
        for name, value in values.items()
        if not math.isnan(value)
    ]


def patient_rows(
    volumes: list[Row],
    stacks: list[tuple[Stack, dict[str, str]]],
    suspects: Mapping[str, str],
    key: bytes,
    card: Card,
) -> list[Row]:
    """A row for each patient, sorted. The table's word counts before the header's; two that differ are unknown.

    `suspects` are ids that may be of several people, and why; `suspect` is "no" for the others.
    """
    heard: dict[str, list[tuple[Row, Header, dict[str, str]]]] = {}
    for row, (stack, told) in zip(volumes, stacks, strict=True):
        heard.setdefault(row["patient_pid"], []).append((row, stack.headers[0], told))
    return [
        {**_patient(pid, entries, card), "suspect": suspects.get(entries[0][1].patient_id, "no")}
        for pid, entries in sorted(heard.items())
    ]


def _patient(pid: str, entries: list[tuple[Row, Header, dict[str, str]]], card: Card) -> Row:
    kept = [row for row, _, _ in entries if row["status"] != "excluded"]
    sex, sex_source = _first_word(
        [sex_of(t.get("sex", "")) for _, _, t in entries], [sex_of(h.sex) for _, h, _ in entries],
        source_of(card, "sex"),
    )  # fmt: skip
    race, race_source = _first_word([t.get("race", "") for _, _, t in entries], [], source_of(card, "race"))
    ethnicity, ethnicity_source = _first_word(
        [t.get("ethnicity", "") for _, _, t in entries], [], source_of(card, "ethnicity")
    )
    ages = [row["age_years"] for row, _, _ in entries if not math.isnan(row["age_years"])]
    age = min(ages) if ages else math.nan
    further = sorted(set(card.columns) - PLACED - {*KEYS, card.key})
    return {
        "patient_pid": pid, "sex": sex, "race": race,
        "ethnicity": ethnicity,
        "age_years": age, "age_band": age_band(age, card.age_bands), "site": agreed(row["site"] for row, _, _ in entries),
        "split": kept[0]["split"] if kept else "excluded", "sex_source": sex_source, "race_source": race_source,
        "ethnicity_source": ethnicity_source, "race_scheme": _scheme(card, "race", race_source),
        "ethnicity_scheme": _scheme(card, "ethnicity", ethnicity_source),
        "n_studies": len({row["study_pid"] for row in kept}), "n_volumes": len(kept),
        **{name: agreed(told.get(name, "") for _, _, told in entries) for name in further},
    }  # fmt: skip


def _scheme(card: Card, name: str, source: str) -> str:
    """The list that a race or ethnicity was chosen from; words of different lists are not to be compared."""
    return card.schemes.get(name, "not stated") if source != "none" else "none"


def _first_word(table: list[str], header: list[str], column: str) -> tuple[str, str]:
    """What the table says, else what the header says, and which of the two it was: the column of the card, or "header"."""
    for source, values in (column, table), ("header", header):
        if any(value and value.lower() != UNKNOWN for value in values):
            return agreed(values), source
    return UNKNOWN, "none"


def _age(told: Mapping[str, str], header: Header) -> float:
    years = age_of(told.get("age_years", ""))
    return min(header.age_years if math.isnan(years) else years, OLDEST_TOLD)


def _site(key: bytes, institution: str) -> str:
    """A hospital's name identifies: where only the header names it, the site is a short pseudonym."""
    return f"site-{pseudonym(key, 'site', institution)[:6]}" if institution else UNKNOWN


def _orientation(stack: Stack) -> str:
    """Axis codes such as RAS, of the axis that each array axis is nearest to."""
    if stack.affine is None or not stack.oriented:
        return UNKNOWN
    import nibabel as nib

    return "".join(nib.aff2axcodes(stack.affine))
