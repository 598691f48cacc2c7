"""One matrix, one interpolation: the values of a volume at the voxels of a view."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numba
import numpy as np
import torch

from medssl.store.shards import CHUNK
from medssl.views.bend import shift_of_grid
from medssl.views.crops import STRAIGHT

MARGIN = 2
"""Voxels read around a view's box, so that interpolation at its rim has neighbours."""

WHOLE = 1e-9
"""Voxels by which places may miss those of the volume that they are: a spacing times one over it is not always 1."""


def bounding_box(
    matrix: np.ndarray, grid: tuple[int, int, int], shape: tuple[int, int, int], bend: torch.Tensor = STRAIGHT
) -> tuple[np.ndarray, ...]:
    """Start and stop of the part of the volume that a view needs; at least one voxel along each axis."""
    reach = bend.abs().amax((1, 2, 3)).tolist() if bend.numel() else [0, 0, 0]
    ends = [(-more, n - 1 + more) for n, more in zip(grid, reach, strict=True)]
    corners = np.array([[i, j, k, 1] for i in ends[0] for j in ends[1] for k in ends[2]])
    places = (corners @ matrix.T)[:, :3]
    start = np.clip(np.floor(places.min(0)).astype(int) - MARGIN, 0, np.array(shape) - 1)
    stop = np.clip(np.ceil(places.max(0)).astype(int) + MARGIN + 1, start + 1, np.array(shape))
    return start, stop


def joined(boxes: Sequence[tuple[np.ndarray, ...]]) -> tuple[list[tuple[np.ndarray, ...]], list[int]]:
    """The boxes (start, stop) to read, and for each of `boxes` the number of the one that holds it.

    Boxes are read as one where no more chunks are decoded so than by reading each: two small views at the ends of a large
    volume are not.
    """
    reads: list[tuple[np.ndarray, ...]] = []
    which = []
    for start, stop in boxes:
        for number, (low, high) in enumerate(reads):
            both = np.minimum(low, start), np.maximum(high, stop)
            if _chunks(*both) <= _chunks(low, high) + _chunks(start, stop):
                reads[number] = both
                break
        else:
            number = len(reads)
            reads.append((start, stop))
        which.append(number)
    return reads, which


def _chunks(start: np.ndarray, stop: np.ndarray) -> int:
    return int(np.prod(-(-stop // CHUNK) - start // CHUNK))


def sample(
    box: np.ndarray,
    matrix: np.ndarray,
    grid: tuple[int, int, int],
    order: Literal["bilinear", "nearest"] = "bilinear",
    bend: torch.Tensor = STRAIGHT,
) -> torch.Tensor:
    """Values (C, *grid) of `box` (C, I, J, K) at the view's voxels, bent; `matrix` maps view voxel to box voxel.

    Outside the box is each channel's lowest value (nearest: 0), which is what the volume's empty rim holds; an axis of one
    voxel has no outside. What is as near to two voxels has the value of the one behind. Whole voxels are copied.
    """
    linear, start = matrix[:3, :3].copy(), matrix[:3, 3].copy()
    for axis, n in enumerate(box.shape[1:]):
        if n == 1:
            linear[axis], start[axis] = 0, 0
    if not bend.numel() and (part := _whole(box, linear, start, grid)) is not None:
        return part
    shift = np.empty((3, 0, 0, 0))
    if bend.numel():
        moved = shift_of_grid(torch.tensordot(torch.from_numpy(linear), bend, dims=1), grid)
        shift = moved.contiguous().numpy()
    found = torch.empty(len(box), *grid)
    for channel, out in zip(box, found.numpy(), strict=True):
        values = torch.from_numpy(channel).float()
        values = values.expand([max(n, 2) for n in values.shape]).contiguous()  # so that there is a cell to be in
        fill = 0.0 if order == "nearest" else values.amin().item()
        _interpolate(values.numpy(), linear, start, shift, order == "nearest", fill, out)
    return found


def _whole(box: np.ndarray, linear: np.ndarray, start: np.ndarray, grid: tuple[int, int, int]) -> torch.Tensor | None:
    """The values (C, *grid) of a view whose voxels are those of the box, some axes of it mirrored; None of any other."""
    step = np.round(np.diag(linear))
    missed = max(np.abs(linear - np.diag(step)).max(), np.abs(start - np.round(start)).max())
    if missed > WHOLE or (np.abs(step) != (np.array(box.shape[1:]) > 1)).any():
        return None
    ends = np.stack([start, start + step * (np.array(grid) - 1)]).round().astype(int)
    low, high = ends.min(0), ends.max(0) + 1
    if (low < 0).any() or (high > box.shape[1:]).any() or (high - low != grid).any():
        return None
    part = torch.from_numpy(box[:, *(slice(a, b) for a, b in zip(low, high, strict=True))])
    return part.to(torch.float32, copy=True).flip([axis + 1 for axis in range(3) if step[axis] < 0])


compiled = numba.njit(nogil=True, fastmath={"contract"}, inline="always")
"""Turns a loop over voxels into machine code: torch's own ways take up to five times as long.

Nothing is reordered, so that a view is the same on any processor that rounds a product and a sum at once. The loop is
compiled as this file is imported, in a second, and so before workers are forked; it is not kept on the disk, where a full
or shared one may hand out what another processor cannot run.
"""


@compiled
def _rim(values: np.ndarray, a: int, b: int, c: int, v: float, w: float, fill: float) -> float:
    """As `_face` of four voxels, of which those outside are `fill`."""
    return _face(
        _at(values, a, b, c, fill), _at(values, a, b, c + 1, fill),
        _at(values, a, b + 1, c, fill), _at(values, a, b + 1, c + 1, fill), v, w,
    )  # fmt: skip


@compiled
def _at(values: np.ndarray, a: int, b: int, c: int, fill: float) -> float:
    if 0 <= a < values.shape[0] and 0 <= b < values.shape[1] and 0 <= c < values.shape[2]:
        return values[a, b, c]
    return fill


@compiled
def _face(v00: float, v01: float, v10: float, v11: float, v: float, w: float) -> float:
    """The value between four."""
    low, high = v00 + w * (v01 - v00), v10 + w * (v11 - v10)
    return low + v * (high - low)


@numba.njit(
    "(float32[:, :, ::1], float64[:, ::1], float64[::1], float64[:, :, :, ::1], boolean, float64, float32[:, :, ::1])",
    nogil=True, fastmath={"contract"},
)  # fmt: skip
def _interpolate(
    values: np.ndarray,
    linear: np.ndarray,
    start: np.ndarray,
    shift: np.ndarray,
    nearest: bool,
    fill: float,
    found: np.ndarray,
) -> None:
    """Nothing; `found` (*grid) is what one channel (I, J, K) holds at the places of a matrix and its shifts, if any."""
    bent, beyond = shift.size > 0, np.float32(fill)
    last_i, last_j, last_k = values.shape[0] - 1, values.shape[1] - 1, values.shape[2] - 1
    di, dj, dk = linear[0, 2], linear[1, 2], linear[2, 2]
    for x in range(found.shape[0]):
        for y in range(found.shape[1]):
            i0, j0, k0 = start[0], start[1], start[2]
            i0 += linear[0, 0] * x + linear[0, 1] * y
            j0 += linear[1, 0] * x + linear[1, 1] * y
            k0 += linear[2, 0] * x + linear[2, 1] * y
            for z in range(found.shape[2]):
                i, j, k = i0 + di * z, j0 + dj * z, k0 + dk * z
                if bent:
                    i, j, k = i + shift[0, x, y, z], j + shift[1, x, y, z], k + shift[2, x, y, z]
                if nearest:
                    i, j, k = math.floor(i + 0.5), math.floor(j + 0.5), math.floor(k + 0.5)
                a, b, c = math.floor(i), math.floor(j), math.floor(k)
                v, w = np.float32(j - b), np.float32(k - c)
                if 0 <= a < last_i and 0 <= b < last_j and 0 <= c < last_k:
                    low = _face(
                        values[a, b, c], values[a, b, c + 1], values[a, b + 1, c], values[a, b + 1, c + 1], v, w
                    )
                    a += 1
                    high = _face(
                        values[a, b, c], values[a, b, c + 1], values[a, b + 1, c], values[a, b + 1, c + 1], v, w
                    )
                    a -= 1
                elif a < -1 or a > last_i or b < -1 or b > last_j or c < -1 or c > last_k:
                    found[x, y, z] = beyond
                    continue
                else:
                    low = _rim(values, a, b, c, v, w, beyond)
                    high = _rim(values, a + 1, b, c, v, w, beyond)
                found[x, y, z] = low + np.float32(i - a) * (high - low)
