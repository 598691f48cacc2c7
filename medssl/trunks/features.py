"""What every trunk gives, and the contract that heads and methods rely on."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch


class Features(NamedTuple):
    """What a trunk saw. `pyramid` runs from fine to coarse, each (B, width, *grid); `pooled` is (B, dim)."""

    pyramid: tuple[torch.Tensor, ...]
    pooled: torch.Tensor


class Trunk(Protocol):
    """An encoder of 2D or 3D views, an nn.Module with these facts about itself.

    Calling it with a mask (B, *cells), True = hidden, hides those cells from it.
    """

    @property
    def dims(self) -> int:
        """2 or 3."""

    @property
    def channels(self) -> int:
        """Values a voxel holds."""

    @property
    def dim(self) -> int:
        """Width of `pooled`."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level of the pyramid."""

    @property
    def strides(self) -> tuple[tuple[int, ...], ...]:
        """Voxels that a cell of each level covers, along each axis."""

    @property
    def kernels(self) -> tuple[tuple[int, ...], ...]:
        """Odd extents, in cells of each level along each axis, of the convolutions that suit it."""

    @property
    def cell(self) -> tuple[int, ...]:
        """Voxels that a cell of the mask covers, along each axis."""

    @property
    def fills(self) -> bool:
        """Whether what it gives of hidden cells is made from seen ones; if not, it is one learned value for all."""

    def __call__(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> Features:
        """Features of views (B, C, *S)."""
