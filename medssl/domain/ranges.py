"""What the headers of a run's training volumes said, and which volumes lie too far outside of that to be answered.

A network answers whatever it is given. What was never among its training volumes - another modality, slices twice as
thick, half the anatomy - is to be told before it answers, not found out afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medssl.atomic import write_json
from medssl.domain.refusals import Refused, refused
from medssl.errors import UserError
from medssl.store.fingerprint import source_extent
from medssl.views import Crops

NAME = "trained_on.json"
"""Of the file in a run's folder."""

FORMAT = 1

LEEWAY = 1.5
"""Factor by which a voxel may be finer or coarser, and a picture smaller, than those of all training volumes."""

COVERED = 0.9
"""Share of a view's extent, or of the smallest training volume's where that is less, that a volume must have."""

ASKED = (
    "modality", "role", "channels", "channel_facts", "shape", "spacing", "affine", "prepared_shape", "prepared_affine",
)  # fmt: skip
"""Columns of a store that say what its volumes are like: of a million, all 60 would take gigabytes."""

Row = Mapping[Any, Any]
Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Training volumes of one modality, `flat` ones (pictures) by themselves: the least and the most of what they had.

    `spacing_mm` is of their sources, along the prepared axes; `shape` is prepared; `pixels` are along the longest side of
    their sources. Of pictures no millimetres are told: their pixels are put on one grid whatever they measure.
    """

    modality: str
    flat: bool
    volumes: int
    roles: tuple[str, ...]
    channels: tuple[int, ...]
    spacing_mm: tuple[Range, ...]
    shape: tuple[Range, ...]
    pixels: Range

    @property
    def name(self) -> str:
        """As a sentence calls them."""
        return f"{self.modality} {form_of(self.flat)}"


@dataclass(frozen=True)
class Ranges:
    """The kinds of volumes that a model was trained on, and the ids of those volumes and of all from which the weights that
    it began with were learned. Ids are made of the volumes' content.
    """

    kinds: tuple[Kind, ...]
    volumes: frozenset[str]

    @property
    def modalities(self) -> tuple[str, ...]:
        """DICOM codes, sorted."""
        return tuple(sorted({kind.modality for kind in self.kinds}))

    def roles(self, modality: str) -> tuple[str, ...]:
        """What the volumes of a modality were to their studies, sorted."""
        return tuple(sorted({role for kind in self.kinds if kind.modality == modality for role in kind.roles}))

    def other_kind(self, row: Row) -> Refused | None:
        """Why a cohort's volume is of no kind that the model was trained on; None where it is of one."""
        modality, flat, role = row["modality"], is_flat(row), row["role"]
        if modality not in self.modalities:
            return refused(
                row["volume_id"], "OTHER_MODALITY", f"modality {modality}, trained on {' and '.join(self.modalities)}"
            )
        kind = self._kind(modality, flat)
        if kind is None:
            known = " and ".join(one.name for one in self.kinds if one.modality == modality)
            return refused(row["volume_id"], "OTHER_FORM", f"one of {modality} {form_of(flat)}, trained on {known}")
        if role not in kind.roles:
            return refused(row["volume_id"], "OTHER_ROLE", f"role {role!r}, trained on {_listed(kind.roles)}")
        return None

    def outside(self, row: Row, crops: Crops) -> Refused | None:
        """Why a prepared volume of a known kind lies outside of the ranges; None where it does not. `crops` are the
        model's views.
        """
        kind = self._kind(row["modality"], is_flat(row))
        assert kind is not None
        return next(_faults(row, kind, crops), None)

    def _kind(self, modality: str, flat: bool) -> Kind | None:
        return next((kind for kind in self.kinds if (kind.modality, kind.flat) == (modality, flat)), None)


def is_flat(row: Row) -> bool:
    """Whether a volume is one picture."""
    return len(row["shape"]) == 3 and int(row["shape"][2]) == 1


def form_of(flat: bool) -> str:
    """What pictures and volumes are called."""
    return "pictures" if flat else "volumes"


def _faults(row: Row, kind: Kind, crops: Crops) -> Iterator[Refused]:
    shape, spacing = source_extent(row)
    prepared, mm = (np.array(row[f"prepared_{name}"], dtype=float) for name in ("shape", "spacing"))
    volume_id, channels = row["volume_id"], int(row["channels"])
    if channels not in kind.channels:
        yield refused(volume_id, "OTHER_CHANNELS", f"{channels} channels, trained on {_listed(kind.channels)}")
    if kind.flat:
        if shape.max() < kind.pixels[0] / LEEWAY:
            yield refused(
                volume_id, "TOO_FEW_PIXELS",
                f"{shape.max():g} pixels along the longest side, trained on {_between(kind.pixels)}",
            )  # fmt: skip
        return
    for axis, (size, known) in enumerate(zip(spacing, kind.spacing_mm, strict=True)):
        if not known[0] / LEEWAY <= size <= known[1] * LEEWAY:
            what = f"voxels of {size:.3g} mm along {'IJK'[axis]}, trained on {_between(known)} mm (leeway {LEEWAY:g})"
            yield refused(volume_id, "SPACING_OUTSIDE", what)
    for axis, (count, seen) in enumerate(zip(prepared, _view(crops, mm), strict=True)):
        wanted = min(seen, kind.shape[axis][0])
        if count < COVERED * wanted:
            what = f"{count:g} voxels along {'IJK'[axis]} when prepared, trained on {_between(kind.shape[axis])}"
            yield refused(volume_id, "TOO_FEW_SLICES", f"{what}, and a view has {seen:g}")


def _view(crops: Crops, mm: np.ndarray) -> np.ndarray:
    """Voxels of a volume, of `mm` each, that a view reaches over along each axis."""
    reach = np.array(crops.grid, dtype=float)
    if crops.mm:
        reach[: len(crops.mm)] = np.array(crops.mm) / mm[: len(crops.mm)]
    return reach


def _between(known: Range) -> str:
    low, high = known
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _listed(known: tuple[Any, ...]) -> str:
    return " and ".join(repr(one) for one in known)


def ranges_of(rows: pd.DataFrame) -> Ranges:
    """The ranges of training volumes, rows of a store; of none, no kind."""
    kinds: dict[tuple[str, bool], list[Row]] = {}
    for row in rows.sort_values("volume_id")[[name for name in ASKED if name in rows]].to_dict("records"):
        kinds.setdefault((row["modality"], is_flat(row)), []).append(row)
    return Ranges(tuple(_kind_of(*key, kinds[key]) for key in sorted(kinds)), frozenset(rows["volume_id"]))


def _kind_of(modality: str, flat: bool, rows: list[Row]) -> Kind:
    extents = [source_extent(row) for row in rows]
    channels = [row["channel_facts"] for row in rows if row.get("channel_facts") is not None]
    return Kind(
        modality=modality,
        flat=flat,
        volumes=len(rows),
        roles=tuple(sorted({row["role"] for row in rows} | {one["role"] for facts in channels for one in facts})),
        channels=tuple(sorted({int(row["channels"]) for row in rows})),
        spacing_mm=_ranges([spacing for _, spacing in extents]),
        shape=_ranges([row["prepared_shape"] for row in rows]),
        pixels=_ranges([[shape.max()] for shape, _ in extents])[0],
    )


def _ranges(values: list[Any]) -> tuple[Range, ...]:
    table = np.array([list(one) for one in values], dtype=float)
    return tuple((float(low), float(high)) for low, high in zip(table.min(0), table.max(0), strict=True))


def write_ranges(run: Path, rows: pd.DataFrame, start: Path | str | None = None) -> None:
    """Nothing; `run` tells what the volumes of `rows`, from which it learns, are like, and which these are and those of
    `start`, the run that it begins with.

    Of a folder of weights, and of a run of before this was kept, nobody knows.
    """
    ranges, before = ranges_of(rows), frozenset[str]()
    if start is not None and (Path(start) / NAME).is_file():
        before = read_ranges(Path(start)).volumes
    kinds = [asdict(kind) for kind in ranges.kinds]
    write_json(run / NAME, {"format": FORMAT, "kinds": kinds, "volumes": sorted(ranges.volumes | before)})


def read_ranges(run: Path) -> Ranges:
    """What a run's training volumes were like. Raises UserError for a run of before this was kept."""
    path = run / NAME
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{run}: does not tell what its training volumes were like ({NAME} is missing), so that others could not be "
            "refused; run medssl finetune again with its recipe and store: it adds that and trains nothing anew"
        ) from None
    except ValueError as error:
        raise UserError(
            f"{path}: not JSON ({error}); delete it and run its training again, which writes it anew"
        ) from None
    if told.get("format") != FORMAT:
        raise UserError(
            f"{path}: format {told.get('format')}, this medssl reads {FORMAT}; run its training again, which writes it anew"
        )
    return Ranges(tuple(_read_kind(kind) for kind in told["kinds"]), frozenset(told["volumes"]))


def _read_kind(told: dict[str, Any]) -> Kind:
    pairs = {key: tuple((low, high) for low, high in told[key]) for key in ("spacing_mm", "shape")}
    lists = {key: tuple(told[key]) for key in ("roles", "channels", "pixels")}
    return Kind(**{**told, **pairs, **lists})
