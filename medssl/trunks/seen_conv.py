"""What a mask leaves seen, gathered: a sparse network computes on the seen cells and on nothing else.

Where a hidden cell is held at zero, as in SparK (Tian et al., ICLR 2023, arXiv:2301.03580), a dense convolution spends as
much on it as on any other. Here a level of the network is (N, C, *p): the N seen cells of all rows of the batch one after
the other, each a block of p voxels, which shrinks from level to level while N stays. A convolution needs a margin around
each block: voxels of neighbours that are seen, zeros elsewhere. Differs from SparK, which multiplies by the mask: the same
numbers, at a cost that falls with the share that is hidden.

Channels are last in memory, so that a voxel is a row to copy and convolutions need not reorder.
"""

# B batch, N seen cells of all rows, C channels, *S space, *p voxels of a cell
from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from medssl.views.masks import cell_of

CONVOLVE: dict[int, Any] = {2: functional.conv2d, 3: functional.conv3d}

Sizes = tuple[int, ...]


class Seen:
    """The cells where `mask` (B, *grid) is True, some in each row, and the ways between dense tensors and their blocks."""

    def __init__(self, mask: torch.Tensor) -> None:
        self.mask, self.row = mask, mask.nonzero()[:, 0]
        self._near: dict[tuple[Sizes, Sizes, Sizes], tuple[torch.Tensor, torch.Tensor]] = {}

    def gathered(self, x: torch.Tensor) -> torch.Tensor:
        """The blocks (N, C, *p) of x (B, C, *S), which may hold anything elsewhere."""
        cell = cell_of(tuple(self.mask.shape[1:]), tuple(x.shape[2:]))
        return _windows(x.movedim(1, -1), cell, cell)[self.mask].contiguous().movedim(-1, 1)

    def placed(self, blocks: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """The dense tensor (B, C, *S) of the blocks, with `value` (C,) in hidden cells."""
        return _Placed.apply(blocks.movedim(1, -1), value.to(blocks.dtype), self.mask).movedim(-1, 1)

    def summed(self, each: torch.Tensor) -> torch.Tensor:
        """The sum of `each` (N, C) over the seen cells of a row (B, C)."""
        return each.new_zeros(len(self.mask), each.shape[1]).index_add(0, self.row, each)

    def convolved(self, blocks: torch.Tensor, conv: nn.Conv2d | nn.Conv3d) -> torch.Tensor:
        """What `conv`, whose padding is half its odd kernels, makes of the blocks (N, C, *p / stride)."""
        before = tuple(n // 2 for n in conv.kernel_size)
        after = tuple(max(n + 1 - step, 0) for n, step in zip(before, conv.stride, strict=True))
        if max(before) > 0:
            here, there = self._neighbours(tuple(blocks.shape[2:]), before, after)
            blocks = _Margin.apply(blocks.movedim(1, -1), _padding(before, after), here, there).movedim(-1, 1)
        return CONVOLVE[blocks.ndim - 2](blocks, conv.weight, conv.bias, conv.stride)

    def _neighbours(self, cell: Sizes, before: Sizes, after: Sizes) -> tuple[torch.Tensor, torch.Tensor]:
        """The number of every seen voxel of a margin, among those of blocks with margins and among those without."""
        if (key := (cell, before, after)) not in self._near:
            number = torch.arange(len(self.row) * torch.Size(cell).numel(), device=self.mask.device)
            dense = _Placed.apply(number.view(-1, *cell, 1), number.new_tensor([-1]), self.mask)
            size = tuple(map(sum, zip(cell, before, after, strict=True)))
            wide = _windows(functional.pad(dense, (0, 0, *_padding(before, after)), value=-1), size, cell)[self.mask]
            own = tuple(slice(n, n + voxels) for n, voxels in zip(before, cell, strict=True))
            wide[:, *own] = -1
            here = (wide.flatten() >= 0).nonzero()[:, 0]
            self._near[key] = here, wide.flatten()[here]
        return self._near[key]


class _Placed(torch.autograd.Function):
    """A dense tensor (B, *S, C) of `value` (C,), but for the blocks (N, *p, C) where `mask` (B, *grid) is True."""

    @staticmethod
    def forward(ctx: Any, blocks: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        ctx.cell = cell = tuple(blocks.shape[1:-1])
        ctx.save_for_backward(mask)
        size = [n * cells for n, cells in zip(cell, mask.shape[1:], strict=True)]
        dense = value.expand(len(mask), *size, -1).clone()
        _windows(dense, cell, cell)[mask] = blocks
        return dense

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> Any:
        (mask,), each = ctx.saved_tensors, slope
        for axis in reversed(range(1, mask.ndim)):
            each = each.unflatten(axis, (mask.shape[axis], -1)).sum(axis + 1)
        return _windows(slope, ctx.cell, ctx.cell)[mask].contiguous(), each[~mask].sum(0), None


class _Margin(torch.autograd.Function):
    """Blocks (N, *p, C) with zeros around them, but voxels of number `there` also at number `here` of the result."""

    @staticmethod
    def forward(
        ctx: Any, blocks: torch.Tensor, padding: Sizes, here: torch.Tensor, there: torch.Tensor
    ) -> torch.Tensor:
        ctx.padding = padding
        ctx.save_for_backward(here, there)
        wide = functional.pad(blocks, (0, 0, *padding)).contiguous()
        _rows(wide).index_copy_(0, here, _rows(blocks).index_select(0, there))
        return wide

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> Any:
        here, there = ctx.saved_tensors
        back = functional.pad(slope, (0, 0, *(-n for n in ctx.padding))).contiguous()
        _rows(back).index_add_(0, there, _rows(slope).index_select(0, here))
        return back, None, None, None


def _windows(x: torch.Tensor, size: Sizes, step: Sizes) -> torch.Tensor:
    """Views of x (B, *S, C) of that size, one every `step` voxels (B, *grid, *size, C)."""
    for axis, (voxels, far) in enumerate(zip(size, step, strict=True), 1):
        x = x.unfold(axis, voxels, far)
    return x.movedim(len(size) + 1, -1)


def _padding(before: Sizes, after: Sizes) -> Sizes:
    """As torch's pad takes it: from the last axis to the first."""
    return tuple(n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair)


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, x.shape[-1])
