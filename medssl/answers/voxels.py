"""What models say of every voxel of a volume: a label map, or a map of candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pandas as pd
import torch

from medssl.answers.ensemble import Ensemble
from medssl.answers.grids import Drawing, Place, candidates_on, change, place_of
from medssl.answers.windows import Grid, Slab, blended, turned, ways, windows
from medssl.atomic import replacing
from medssl.errors import UserError
from medssl.heads import Detect, Segment
from medssl.heads.candidates import candidates
from medssl.store import Store
from medssl.views.geometry import sample


class Found(NamedTuple):
    """A map (I, J, K) on the prepared grid, the same as it is to be written, on a grid `place`, and a note on that."""

    prepared: np.ndarray
    written: np.ndarray
    place: Place
    note: str


def label_maps(models: Ensemble, store: Store, row: pd.Series, place: Place) -> Found:
    """The structures found in the volume of a `row` of the store's table, by their numbers; to be written on `place`."""
    volume_id, prepared, structures = (
        row["volume_id"],
        place_of(row, "prepared_"),
        cast(Segment, models.head).structures,
    )
    found, drawing = np.zeros(prepared.shape, np.uint8), None
    for slab in _slabs(models, store, volume_id):
        slab.of(found)[...] = slab.values.argmax(0).to(torch.uint8).cpu().numpy()
        if not place.is_(prepared):
            drawing = drawing or Drawing(place, prepared, slab.axis)
            drawing.add(slab)
    if drawing is None:
        return Found(found, found, prepared, "")
    return Found(found, drawing.labels, place, change(found, prepared, drawing.labels, place, structures))


def detection_maps(models: Ensemble, store: Store, row: pd.Series, place: Place) -> Found:
    """The candidates found in the volume of a `row`, each of one confidence, 0 elsewhere; to be written on `place`, or on
    the prepared grid where there would not be the same candidates: who counts lesions must find as many.
    """
    prepared = place_of(row, "prepared_")
    probability = np.empty(prepared.shape, np.float32)
    for slab in _slabs(models, store, row["volume_id"]):
        slab.of(probability)[...] = slab.values[0].cpu().numpy()
    found = candidates(probability, cast(Detect, models.head).by)
    if place.is_(prepared):
        return Found(found, found, prepared, "")
    there, lost = candidates_on(place, found, prepared)
    return Found(found, found, prepared, lost) if lost else Found(found, there, place, "")


def _slabs(models: Ensemble, store: Store, volume_id: str) -> Iterator[Slab]:
    """Probabilities of each class for every voxel of a prepared volume, slab after slab."""
    return blended(
        viewer(models, store, volume_id), models.probabilities, store.shape(volume_id), models.crops.grid,
        overlap=models.overlap, flips=models.flips,
    )  # fmt: skip


def viewer(models: Ensemble, store: Store, volume_id: str) -> Callable[[Grid], torch.Tensor]:
    """A function from the first voxel of a window, which may lie outside, to what is seen in it (C, I, J, K)."""
    if models.crops.mm:
        raise UserError("views.mm: voxels are judged on the prepared grid; set the spacing in prepare, not in views")
    shape, size = store.shape(volume_id), models.crops.grid

    def view(start: Grid) -> torch.Tensor:
        low = [max(begin, 0) for begin in start]
        high = [min(begin + width, n) for begin, width, n in zip(start, size, shape, strict=True)]
        place = np.eye(4)
        place[:3, 3] = np.subtract(start, low)
        return sample(store.read(volume_id, "image", low, high), place, size)  # beyond the volume as trainings see it

    return view


def likeliest(models: Ensemble, store: Store, volume_id: str) -> tuple[float, Grid]:
    """How likely a volume is to hold a finding (0 to 1): the likeliest of all windows that cover it, each looked at in all
    ways; and the first voxel of that window, which may lie outside.
    """
    view, size = viewer(models, store, volume_id), models.crops.grid
    found: list[tuple[float, Grid]] = []
    for window in windows(store.shape(volume_id), size, models.overlap):
        seen = view(window.start)[None]
        each = [models.probabilities(turned(seen, mirrored))[0] for mirrored in ways(models.flips)]
        found.append((float(torch.stack(each).mean()), window.start))
    return max(found, key=lambda one: one[0])


def save_map(path: Path, found: np.ndarray, affine: np.ndarray) -> None:
    """Nothing; the NIfTI `path` holds a map (I, J, K) in its place in the world."""
    import nibabel as nib

    with replacing(path) as part:
        named = part.with_name(f"{part.name}.nii.gz")
        nib.save(nib.Nifti1Image(found, affine), named)
        named.replace(part)
