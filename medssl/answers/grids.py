"""Maps on the grid of the volume that was read, of what was found on the grid that it was prepared on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.ndimage import find_objects, label

from medssl.answers.windows import Grid, Slab
from medssl.evaluate.detection import TOUCHING
from medssl.resample import HALF_MAXIMUM_WIDTH
from medssl.volume import Volume

PLANES = 16
"""Planes of a map that are drawn at a time."""

RADIUS = 4
"""Standard deviations beyond which smoothing against aliasing does not look."""

SAME_MM = 1e-4
"""Difference between two matrices, in mm, that is none."""


class Place(NamedTuple):
    """A grid: its shape, and the matrix from its voxels to RAS+ mm."""

    shape: Grid
    affine: np.ndarray

    def is_(self, other: Place) -> bool:
        """Whether another grid is the same."""
        return self.shape == other.shape and np.allclose(self.affine, other.affine, rtol=0, atol=SAME_MM)


class Block(NamedTuple):
    """Planes first to stop of a map, and the planes low to high of the slabs that they need."""

    first: int
    stop: int
    low: int
    high: int


def place_of(row: pd.Series, prefix: str = "") -> Place:
    """The grid of the volume that a row of a store's table was prepared from (of several channels, that of the first);
    with the prefix "prepared_", of the prepared volume.
    """
    i, j, k = (int(n) for n in row[f"{prefix}shape"])
    return Place((i, j, k), np.array(row[f"{prefix}affine"], dtype=np.float64).reshape(4, 4))


class Drawing:
    """A label map on a grid, drawn from slabs of probabilities on another as they come, the likeliest class everywhere.

    The probabilities of each class are interpolated linearly, and averaged where the map's voxels are wider; what lies
    beyond the slabs' grid is background. Of the slabs no more is kept than planes still to be drawn need.
    """

    def __init__(self, place: Place, slabs: Place, axis: int) -> None:
        self.place, self.slabs, self.axis = place, slabs, axis
        to_slabs = (np.linalg.inv(slabs.affine) @ place.affine)[axis]
        self.along = int(np.abs(to_slabs[:3]).argmax())
        self.blocks = _blocks(to_slabs, self.along, place.shape, slabs.shape[axis])
        self.labels = np.zeros(place.shape, np.uint8)
        self.held, self.first = np.empty(0, np.float32), 0

    def add(self, slab: Slab) -> None:
        """Nothing; all is drawn that needs no later slab."""
        values = slab.values.cpu().numpy()
        self.held = np.concatenate([self.held, values], self.axis + 1) if self.held.size else values.copy()
        while self.blocks and self.blocks[0].high <= self.first + self.held.shape[self.axis + 1]:
            self._draw(self.blocks.pop(0))
        first = min((block.low for block in self.blocks), default=self.first)
        self.held, self.first = self._planes(first, self.first + self.held.shape[self.axis + 1]).copy(), first

    def _planes(self, low: int, high: int) -> np.ndarray:
        return self.held[_planes(self.axis + 1, low - self.first, high - self.first)]

    def _draw(self, block: Block) -> None:
        shape, there, here = list(self.place.shape), np.eye(4), np.eye(4)
        shape[self.along], there[self.along, 3], here[self.axis, 3] = block.stop - block.first, block.first, block.low
        part = Volume(self._planes(block.low, block.high), self.slabs.affine @ here)
        values = part.resample_to(shape, self.place.affine @ there, "linear", 0).voxels
        best, target = values[0].copy(), self.labels[_planes(self.along, block.first, block.stop)]
        for number in range(1, len(values)):
            target[values[number] > best] = number
            np.maximum(best, values[number], out=best)


def _planes(axis: int, first: int, stop: int) -> tuple[slice, ...]:
    return (*[slice(None)] * axis, slice(first, stop))


def _blocks(to_slabs: np.ndarray, along: int, shape: Grid, planes: int) -> list[Block]:
    """The blocks of a map, in the order in which what they need has come."""
    ends = [sorted((0.0, step * (n - 1))) for step, n in zip(to_slabs[:3], shape, strict=True)]
    aside = [sum(end[side] for axis, end in enumerate(ends) if axis != along) + to_slabs[3] for side in (0, 1)]
    margin = math.ceil(RADIUS * float(np.linalg.norm(to_slabs[:3])) / HALF_MAXIMUM_WIDTH) + 2
    blocks = []
    for first in range(0, shape[along], PLANES):
        stop = min(first + PLANES, shape[along])
        low, high = sorted((first * to_slabs[along], (stop - 1) * to_slabs[along]))
        low = min(max(math.floor(low + aside[0]) - margin, 0), planes - 1)
        blocks.append(Block(first, stop, low, min(max(math.ceil(high + aside[1]) + margin, low + 1), planes)))
    return sorted(blocks, key=lambda block: block.high)


def candidates_on(place: Place, found: np.ndarray, prepared: Place) -> tuple[np.ndarray, str]:
    """A detection map on another grid by nearest neighbours, and what is wrong with it: candidates that were lost, merged
    with others or parted.
    """
    numbers, count = label(found > 0, TOUCHING)
    confidence = np.zeros(count + 1, np.float32)
    confidence[numbers] = found
    numbers = numbers.astype(np.min_scalar_type(count))
    there = Volume(numbers[None], prepared.affine).resample_to(place.shape, place.affine, "nearest", 0).voxels[0]
    again, regions = label(there > 0, TOUCHING)
    own = np.zeros(regions + 1, there.dtype)
    own[again] = there
    same = regions == count == len(np.unique(own[1:])) and (own[again] == there).all()
    lost = "" if same else f"{count} candidates would be {regions} regions on the source's grid, not one for each"
    return confidence[there], lost


def change(before: np.ndarray, prepared: Place, after: np.ndarray, place: Place, structures: Sequence[str]) -> str:
    """How regions and volumes of the structures of a label map changed on another grid; "" where nothing was found."""
    told = []
    there = [_measured(labels, len(structures)) for labels in (before, after)]
    voxel = abs(np.linalg.det(place.affine[:3, :3]) / np.linalg.det(prepared.affine[:3, :3]))
    for name, (regions, voxels), (regions_there, voxels_there) in zip(structures, *there, strict=True):
        if voxels or voxels_there:
            percent = round(100 * (voxels_there * voxel / voxels - 1), 1) if voxels else 0.0
            volume = f"{percent + 0.0:+.1f} %" if voxels else "new"  # never -0.0
            told.append(f"{name}: regions {regions} to {regions_there}, volume {volume}")
    return "; ".join(told)


def _measured(labels: np.ndarray, structures: int) -> list[tuple[int, int]]:
    """How many regions and how many voxels each structure has."""
    boxes = [*find_objects(labels, structures)]
    inside = [None if box is None else labels[box] == number for number, box in enumerate(boxes, 1)]
    return [(0, 0) if one is None else (int(label(one, TOUCHING)[1]), int(one.sum())) for one in inside]
