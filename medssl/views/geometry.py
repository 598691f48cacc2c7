"""One matrix, one interpolation: the values of a volume at the voxels of a view."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from medssl.views.bend import shift_of_grid
from medssl.views.crops import STRAIGHT

NEAR_RIM = 1e-3
"""Voxels from a box's rim within which rounding might take a place beyond it."""

EXACT = 1 << 24
"""Whole numbers that float32 holds."""

CACHED = 1 << 15
"""Voxels interpolated at a time."""

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

    Outside the box is each channel's lowest value (nearest: 0), which is what the volume's empty rim holds; an axis of one
    voxel has no outside.
    """
    linear, start = matrix[:3, :3].copy(), matrix[:3, 3].copy()
    for axis, n in enumerate(box.shape[1:]):
        if n == 1:
            linear[axis], start[axis] = 0, 0
    if order == "nearest":
        return _nearest(box, linear, start, grid, bend)
    turned = bend.numel() or np.any(linear - np.diag(np.diag(linear)))
    channels = [torch.from_numpy(channel) for channel in box]
    if turned:
        return torch.stack([_anywhere(channel, linear, start, grid, bend) for channel in channels])
    return torch.stack([_along_axes(channel, np.diag(linear), start, grid) for channel in channels])


def _along_axes(values: torch.Tensor, step: np.ndarray, start: np.ndarray, grid: tuple[int, int, int]) -> torch.Tensor:
    """Trilinear interpolation (*grid) of one channel (I, J, K), one axis after the other, which without a turn is that of
    all at once; whole voxels are copied.
    """
    values = values.float()
    fill = values.amin()
    for axis, n in enumerate(grid):
        place, size = start[axis] + step[axis] * np.arange(n), values.shape[axis]
        if place.min() < 0 or place.max() > size - 1:
            rim = fill.expand([1 if a == axis else m for a, m in enumerate(values.shape)])
            values = torch.cat([rim, values, rim], axis)
            place, size = np.clip(place, -1, size) + 1, size + 2
        lower = np.minimum(np.floor(place).astype(np.int64), max(size - 2, 0))
        share = torch.from_numpy(place - lower).float().view([-1 if a == axis else 1 for a in range(3)])
        below = values.index_select(axis, torch.from_numpy(lower))
        if share.any():
            below = torch.lerp(below, values.index_select(axis, torch.from_numpy(lower + 1)), share)
        values = below
    return values


def _anywhere(
    values: torch.Tensor, linear: np.ndarray, start: np.ndarray, grid: tuple[int, int, int], bend: torch.Tensor
) -> torch.Tensor:
    """Trilinear interpolation (*grid) of one channel (I, J, K), a few planes at a time, which stay in the processor's cache.

    The eight neighbours are gathered by one index: torch's own kernel for volumes goes voxel by voxel.
    """
    moved = shift_of_grid(torch.tensordot(torch.from_numpy(linear), bend, dims=1), grid) if bend.numel() else None
    low, high = _reach(linear, start, grid, moved)
    inside = (low >= NEAR_RIM).all() and (high <= np.array(values.shape) - 1 - NEAR_RIM).all()
    values = values if values.dtype == torch.float16 else values.float()  # half as much to fetch
    values, start = (values.contiguous(), start) if inside else (_with_rim(values), start + 1)
    i, j, k = (np.multiply.outer(linear[:, axis], np.arange(n)) for axis, n in enumerate(grid))
    rows = torch.from_numpy((i + start[:, None])[:, :, None] + j[:, None, :]).float()[..., None]
    last = torch.from_numpy(k).float()[:, None, None, :]
    flat, (across, along) = values.view(-1), values.stride()[:2]
    whole = torch.float32 if len(flat) < EXACT else torch.float64
    corners = [flat[a * across + b * along + c :] for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    planes = max(1, CACHED // (grid[1] * grid[2]))
    found, buffer = torch.empty(grid), torch.empty(8, planes * grid[1] * grid[2])
    fetched = torch.empty_like(buffer, dtype=values.dtype) if values.dtype != buffer.dtype else buffer
    for first in range(0, grid[0], planes):
        some = slice(first, first + planes)
        place = (rows[:, some] + last if moved is None else rows[:, some] + last + moved[:, some].float()).flatten(1)
        if not inside:
            for one, n in zip(place, values.shape, strict=True):
                one.clamp_(0, n - 2)
        lower = place.floor()
        (u, v, w), (a, b, c) = place.sub_(lower), lower.to(whole)
        index = a.mul_(across).add_(b, alpha=along).add_(c).to(torch.int32 if len(flat) < 1 << 31 else torch.int64)
        for corner, one in zip(corners, fetched[:, : len(index)], strict=True):
            torch.index_select(corner, 0, index, out=one)
        near = buffer[:, : len(index)].copy_(fetched[:, : len(index)])
        for gap, share in ((1, w), (2, v), (4, u)):  # edges, then faces, then the cell
            for one in range(0, 8, 2 * gap):
                near[one].lerp_(near[one + gap], share)
        found[some].view(-1).copy_(near[0])
    return found


def _with_rim(values: torch.Tensor) -> torch.Tensor:
    """The channel with its lowest value around it, one voxel before and two behind."""
    i, j, k = values.shape
    wide = torch.empty(i + 3, j + 3, k + 3, dtype=values.dtype)
    inner = wide[1:-2, 1:-2, 1:-2].copy_(values)
    fill = inner.amin()
    for axis in range(3):
        wide.narrow(axis, 0, 1).fill_(fill)
        wide.narrow(axis, -2, 2).fill_(fill)
    return wide


def _reach(
    linear: np.ndarray, start: np.ndarray, grid: tuple[int, int, int], moved: torch.Tensor | None
) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest place along each axis of the box."""
    ends = linear * (np.array(grid) - 1)
    low, high = start + np.minimum(ends, 0).sum(1), start + np.maximum(ends, 0).sum(1)
    if moved is None:
        return low, high
    return low + moved.amin((1, 2, 3)).numpy(), high + moved.amax((1, 2, 3)).numpy()


def _nearest(
    box: np.ndarray, linear: np.ndarray, start: np.ndarray, grid: tuple[int, int, int], bend: torch.Tensor
) -> torch.Tensor:
    """The values of the nearest voxels, 0 outside."""
    values = torch.from_numpy(box).float().contiguous()
    size = np.array(box.shape[1:], dtype=float)
    index = torch.from_numpy(np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij")).astype(float))
    if bend.numel():
        index += shift_of_grid(bend, grid)
    place = torch.tensordot(torch.from_numpy(linear), index, dims=1) + torch.from_numpy(start).view(3, 1, 1, 1)
    # grid_sample wants the last array axis first, and places from -1 to 1.
    scaled = place * torch.from_numpy(2 / np.maximum(size - 1, 1)).view(3, 1, 1, 1) - 1
    found = scaled.flip(0).permute(1, 2, 3, 0)[None].float()
    return functional.grid_sample(values[None], found, mode="nearest", padding_mode="zeros", align_corners=True)[0]
