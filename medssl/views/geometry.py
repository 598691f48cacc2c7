"""One matrix, one interpolation: the values of a volume at the voxels of a view."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch.nn import functional

MARGIN = 2
"""Voxels read around a view's box, so that interpolation at its rim has neighbours."""


def bounding_box(matrix: np.ndarray, grid: tuple[int, int, int], shape: tuple[int, int, int]) -> tuple[np.ndarray, ...]:
    """Start and stop of the part of the volume that a view needs; at least one voxel along each axis."""
    corners = np.array([[i, j, k, 1] for i in (0, grid[0] - 1) for j in (0, grid[1] - 1) for k in (0, grid[2] - 1)])
    places = (corners @ matrix.T)[:, :3]
    start = np.clip(np.floor(places.min(0)).astype(int) - MARGIN, 0, np.array(shape) - 1)
    stop = np.clip(np.ceil(places.max(0)).astype(int) + MARGIN + 1, start + 1, np.array(shape))
    return start, stop


def sample(
    box: np.ndarray, matrix: np.ndarray, grid: tuple[int, int, int], order: Literal["bilinear", "nearest"] = "bilinear"
) -> torch.Tensor:
    """Values (C, *grid) of `box` (C, I, J, K) at the view's voxels; `matrix` maps view voxel to box voxel.

    Outside the box is each channel's lowest value (nearest: 0), which is what the volume's empty rim holds.
    """
    values = torch.from_numpy(np.ascontiguousarray(box, dtype=np.float32))
    fill = values.amin((1, 2, 3), keepdim=True) if order == "bilinear" else values.new_zeros(())
    axes = [torch.arange(n, dtype=torch.float64) for n in grid]
    index = torch.stack([*torch.meshgrid(*axes, indexing="ij"), torch.ones(grid, dtype=torch.float64)], dim=-1)
    place = index @ torch.from_numpy(matrix[:3]).T
    size = torch.tensor(box.shape[1:], dtype=torch.float64)
    # An axis of one voxel has no extent to normalise by; half a voxel either side of it is the voxel itself.
    scaled = torch.where(size > 1, 2 * place / (size - 1).clamp(min=1) - 1, 2 * place)
    # grid_sample wants the last array axis first.
    found = functional.grid_sample(
        (values - fill)[None], scaled.flip(-1)[None].float(), mode=order, padding_mode="zeros", align_corners=True
    )
    return found[0] + fill
