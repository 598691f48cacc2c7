"""What every trunk gives, and the contract that heads and methods rely on."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch


class Features(NamedTuple):
    """What a trunk saw. `pyramid` runs from fine to coarse, each (B, width, *grid); `pooled` is (B, dim)."""

    pyramid: tuple[torch.Tensor, ...]
    pooled: torch.Tensor


class Trunk(Protocol):
    """An encoder of 2D or 3D views. Calling it with a mask (B, *cells), True = hidden, hides those cells from it."""

    dims: int
    """2 or 3."""
    channels: int
    """Values a voxel holds."""
    dim: int
    """Width of `pooled`."""
    widths: tuple[int, ...]
    """Channels of each level of the pyramid."""
    strides: tuple[tuple[int, ...], ...]
    """Voxels that a cell of each level covers, along each axis."""
    cell: tuple[int, ...]
    """Voxels that a cell of the mask covers, along each axis."""

    def __call__(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> Features: ...

    def parameters(self, recurse: bool = True) -> object: ...
