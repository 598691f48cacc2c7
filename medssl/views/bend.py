"""A smooth bend of a view: where each of its voxels comes from, beside its matrix. Part of the one interpolation.

Free-form deformation by cubic B-splines (Rueckert et al., IEEE TMI 1999): displacements of a coarse grid of control points
over the view, in view voxels. A voxel x is taken from to_mm (x + shift(x)). Any place has its shift in closed form, and
bends that could fold are refused, so that places go both ways.
"""

# N places, G control points along an axis
from __future__ import annotations

import numpy as np
import torch

from medssl.errors import UserError

CELLS = 3
"""Stretches between knots along each axis of a view: enough to bend it, too few to tear organs apart."""

STEEPEST = 0.75
"""The most by which shifts may differ, over the distance of the places shifted (maximum norm): below 1 nothing folds."""

ROUNDS = 100
"""Rounds of going back; each leaves at most `STEEPEST` of the error: 1e-12 of it in the end."""


def grid_of(size: tuple[int, ...]) -> tuple[int, int, int]:
    """A view's grid: its size, with a third axis of length one in 2D."""
    i, j, *k = size
    return i, j, k[0] if k else 1


def draw_bend(mm: float, step_mm: np.ndarray, grid: tuple[int, int, int], rng: np.random.Generator) -> torch.Tensor:
    """Control points (3, G, G, G), each moved by up to `mm` along each axis; G is 1 along an axis of one voxel.

    `step_mm` is the view's spacing. Raises UserError when such a bend could fold.
    """
    long = [axis for axis, n in enumerate(grid) if n > 1]
    slope = 2 * mm * sum(CELLS / ((grid[axis] - 1) * step_mm[axis]) for axis in long)
    if slope > STEEPEST:
        extent = " x ".join(f"{n * step:.0f}" for n, step in zip(grid, step_mm, strict=True))
        raise UserError(
            f"views.bend_mm: {mm} could fold a view of {extent} mm; give at most {0.9 * mm * STEEPEST / slope:.2g}"
        )
    points = [CELLS + 3 if n > 1 else 1 for n in grid]
    drawn = rng.uniform(-mm, mm, (3, *points)) / np.reshape(step_mm, (3, 1, 1, 1))
    drawn[[axis for axis in range(3) if axis not in long]] = 0
    return torch.from_numpy(drawn)


def weights(place: torch.Tensor, voxels: int) -> torch.Tensor:
    """What each control point along an axis of so many voxels counts (N, G) at places (N,); beyond the rim as at it."""
    if voxels == 1:
        return torch.ones_like(place)[:, None]
    t = (place / (voxels - 1)).clamp(0, 1) * CELLS
    cell = t.floor().clamp(max=CELLS - 1)
    f = t - cell
    four = torch.stack([(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3], 1) / 6
    column = cell.long()[:, None] + torch.arange(4, device=place.device)
    return torch.zeros(len(place), CELLS + 3, dtype=place.dtype, device=place.device).scatter(1, column, four)


def shift(bend: torch.Tensor, place: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """The shifts (N, 3) of places (N, 3) in view voxels."""
    i, j, k = (weights(place[:, axis], n) for axis, n in enumerate(grid))
    return torch.einsum("cxyz,nx,ny,nz->nc", bend, i, j, k)


def shift_of_grid(bend: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """The shifts (3, *grid) of all voxels of a view."""
    for axis, n in enumerate(grid):
        every = torch.arange(n, dtype=bend.dtype)
        bend = torch.movedim(torch.tensordot(bend, weights(every, n), dims=([axis + 1], [1])), -1, axis + 1)
    return bend


def bent(bend: torch.Tensor, place: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """The places (N, 4) or (N, 3) to which a view's matrix is to be applied; the same ones without a bend."""
    if not bend.numel():
        return place
    return torch.cat([place[:, :3] + shift(bend, place[:, :3], grid), place[:, 3:]], 1)


def unbent(bend: torch.Tensor, place: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """The places of which `bent` gives `place`."""
    if not bend.numel():
        return place
    found = place[:, :3]
    for _ in range(ROUNDS):
        found = place[:, :3] - shift(bend, found, grid)
    return torch.cat([found, place[:, 3:]], 1)
