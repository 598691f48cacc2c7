"""One matrix, one interpolation: the values of a volume at the voxels of a view."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from medssl.views.bend import shift_of_grid
from medssl.views.crops import STRAIGHT

MARGIN = 2
"""Voxels read around a view's box, so that interpolation at its rim has neighbours."""


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


def sample(
    box: np.ndarray,
    matrix: np.ndarray,
    grid: tuple[int, int, int],
    order: Literal["bilinear", "nearest"] = "bilinear",
    bend: torch.Tensor = STRAIGHT,
) -> torch.Tensor:
    """Values (C, *grid) of `box` (C, I, J, K) at the view's voxels, bent; `matrix` maps view voxel to box voxel.

    Outside the box is each channel's lowest value (nearest: 0), which is what the volume's empty rim holds.
    """
    values = torch.from_numpy(box).float().contiguous()
    fill = values.amin((1, 2, 3), keepdim=True) if order == "bilinear" else values.new_zeros(())
    # grid_sample wants the last array axis first, and places from -1 to 1. An axis of one voxel has no extent to
    # normalise by; half a voxel either side of it is the voxel itself.
    size = np.array(box.shape[1:], dtype=float)
    scaled = matrix[:3] * np.where(size > 1, 2 / np.maximum(size - 1, 1), 2)[:, None]
    scaled[:, 3] -= size > 1
    i, j, k = (np.multiply.outer(scaled[::-1, axis], np.arange(n)) for axis, n in enumerate(grid))
    rows, last = torch.from_numpy((i + scaled[::-1, 3:])[:, :, None] + j[:, None, :]), torch.from_numpy(k)
    place = torch.empty(3, *grid)
    for plane in range(grid[0]):  # one by one: summed in float64, rounded once, and never out of the processor's cache
        place[:, plane] = rows[:, plane, :, None] + last[:, None, :]
    if bend.numel():  # the matrix acts on few control points, not on all voxels
        place += shift_of_grid(torch.tensordot(torch.from_numpy(scaled[::-1, :3].copy()), bend, dims=1), grid)
    found = functional.grid_sample(
        (values - fill)[None], place.permute(1, 2, 3, 0)[None], mode=order, padding_mode="zeros", align_corners=True
    )
    return found[0].add_(fill)
