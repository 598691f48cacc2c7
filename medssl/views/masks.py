"""Which cells of a trunk's grid are hidden. True means hidden."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

from medssl.errors import UserError
from medssl.processes import own, rows_in_all

FLAT = 1e-3
"""Standard deviation below which a cell of a prepared volume holds nothing but air."""

NOISE, DARK = 9.0, 0.1
"""Air that was given noise: cells of up to so many times the least variance of a view, and as dark as the darkest of these,
up to this share of how far the means of its cells lie apart."""


@dataclass(frozen=True, kw_only=True)
class Masking:
    """The law by which cells are hidden: a share of `ratio`, the same number in every row.

    `kind` "random": each cell by itself; "block": cubes of `extent` cells; "cluster": connected patches about `extent`
    cells wide; "plane": whole slabs of `extent` cells across `axis`. The last cube or slab may be hidden in part, so that
    all rows hide equally many. With `tissue`, cells of air are hidden last: there is nothing to learn from rebuilding air.
    `seen` says how the number of cells left is made whole: "rounded" (SparK) or "floor" (MAE), at least one. `fill` says
    what the trunk sees in their place: "token", its own sign for hidden, or "another", the same cells of another patient's
    scan (Atito et al., 2021, arXiv:2104.03602, SiT), and is not told which.
    """

    ratio: float = 0.6
    kind: Literal["random", "block", "cluster", "plane"] = "random"
    extent: int = 2
    axis: int = 0
    tissue: bool = False
    seen: Literal["rounded", "floor"] = "rounded"
    fill: Literal["token", "another"] = "token"

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise UserError(f"method.mask.ratio: {self.ratio} is not between 0 and 1")
        if self.extent < 1:
            raise UserError(f"method.mask.extent: {self.extent} is not a positive number of cells")

    def count(self, cells: int) -> int:
        """How many of `cells` are hidden; at least one is hidden and one is seen."""
        left = cells * (1 - self.ratio)
        # 10 * (1 - 0.9) is 0.9999999999999998: what is whole but for rounding is whole.
        whole = round(left) if self.seen == "rounded" or math.isclose(left, round(left)) else math.floor(left)
        return cells - min(max(whole, 1), cells - 1)

    def draw(self, x_RCS: torch.Tensor, cell: tuple[int, ...], scans: int | None = None) -> torch.Tensor:
        """Mask (R, *grid) for views of cells of `cell` voxels, by torch's own random numbers on the CPU.

        The rows are of so many `scans`, views first; None: of as many as there are rows.
        """
        rows, grid = rows_in_all(len(x_RCS)), tuple(n // c for n, c in zip(x_RCS.shape[2:], cell, strict=True))
        if math.prod(grid) < 2:
            raise UserError(
                f"views.size: {tuple(x_RCS.shape[2:])} is one cell of {cell} voxels, of which none can be hidden and seen; "
                "enlarge views.size, or take a trunk with smaller strides or patches"
            )
        # Each cell has a score; those with the highest ones are hidden. Neighbours that share scores go together.
        score = self._score(rows, grid)
        score = own(score + 1e-6 * torch.rand(rows, *grid), scans or len(x_RCS))
        if self.tissue:
            score = score + 10 * _has_tissue(x_RCS, cell).cpu()
        rank = score.flatten(1).argsort(dim=1, descending=True).argsort(dim=1)
        return (rank < self.count(rank.shape[1])).reshape(-1, *grid).to(x_RCS.device)

    def _score(self, rows: int, grid: tuple[int, ...]) -> torch.Tensor:
        if self.kind == "random":
            return torch.rand(rows, *grid)
        if self.kind == "plane":
            if self.axis not in range(len(grid)):
                raise UserError(f"method.mask.axis: {self.axis}, but views have {len(grid)} axes; use 0..")
            slabs = torch.rand(rows, -(-grid[self.axis] // self.extent)).repeat_interleave(self.extent, 1)
            shape = [rows, *[1] * len(grid)]
            shape[self.axis + 1] = grid[self.axis]
            return slabs[:, : grid[self.axis]].reshape(shape).expand(rows, *grid)
        if self.kind == "block":
            score = torch.rand(rows, *(-(-n // self.extent) for n in grid))
            for axis, n in enumerate(grid):
                score = score.repeat_interleave(self.extent, axis + 1).narrow(axis + 1, 0, n)
            return score
        smooth = functional.avg_pool2d if len(grid) == 2 else functional.avg_pool3d
        noise = torch.rand(rows, 1, *(n + self.extent - 1 for n in grid))
        return smooth(noise, self.extent, 1)[:, 0]


def strangers(patient: torch.Tensor) -> torch.Tensor:
    """For each scan (B,) the number of one drawn among those of other patients; of its own patient if there are none.

    Raises UserError for a single scan.
    """
    if len(patient) < 2:
        raise UserError(
            "pretrain.batch: 1, but the method shows each scan another (method.mask.fill, method.local.across); "
            "set it to 2 or more"
        )
    score = torch.rand(len(patient), len(patient)).to(patient.device)
    score = score + 2.0 * (patient[:, None] != patient[None])
    return score.fill_diagonal_(-1).argmax(1)


def _has_tissue(x_RCS: torch.Tensor, cell: tuple[int, ...]) -> torch.Tensor:
    """Whether a cell (R, *grid) holds more than the darkest quiet ones of its view, in any channel."""
    pooled = functional.avg_pool2d if len(cell) == 2 else functional.avg_pool3d
    axes = tuple(range(2, x_RCS.ndim))
    x = x_RCS.float() - x_RCS.float().amin(axes, keepdim=True)  # squares of air are small then, and round little
    mean = pooled(x, cell)
    variance = (pooled(x.square(), cell) - mean.square()).clamp(min=0)
    quiet = variance <= (NOISE * variance.amin(axes, keepdim=True)).clamp(min=FLAT**2)
    darkest = torch.where(quiet, mean, torch.inf).amin(axes, keepdim=True)
    reach = mean.amax(axes, keepdim=True) - mean.amin(axes, keepdim=True)
    return (~quiet | (mean > darkest + DARK * reach)).any(1)


def spread(mask: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """The mask (B, *grid) as voxels (B, 1, *size); every cell covers a block. `size` is a multiple of the grid."""
    for axis, voxels in enumerate(cell_of(tuple(mask.shape[1:]), size)):
        mask = mask.repeat_interleave(voxels, dim=axis + 1)
    return mask[:, None]


def cell_of(grid: tuple[int, ...], size: tuple[int, ...]) -> tuple[int, ...]:
    """How many voxels of `size` a cell of the grid has along each axis. Raises ValueError where it is not whole."""
    for axis, (cells, voxels) in enumerate(zip(grid, size, strict=True)):
        if voxels % cells:
            raise ValueError(f"axis {axis}: {voxels} voxels do not divide into {cells} cells; change views.size")
    return tuple(voxels // cells for cells, voxels in zip(grid, size, strict=True))
