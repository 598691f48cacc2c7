"""The norm of what a mask leaves seen, as one operation: a sparse network has one after every convolution.

Tian et al., ICLR 2023, arXiv:2301.03580. Written out, autograd would keep most of what it makes on the way; this passes over
each voxel about as often as torch's own norms, and keeps one number a voxel.
"""

# B batch, N seen cells of all rows, C channels, G groups, *p voxels of a cell, V their number
from __future__ import annotations

from typing import Any

import torch

from medssl.trunks.seen_conv import Seen


def norm_of_seen(
    blocks: torch.Tensor, seen: Seen, groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """The blocks (N, C, *p) normed by the mean and variance of all that is seen of a row, groups of channels together."""
    return _NormOfSeen.apply(blocks, seen, groups, weight, bias, eps)


class _NormOfSeen(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, blocks: torch.Tensor, seen: Seen, groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float
    ) -> torch.Tensor:
        flat = _flat(blocks)
        count = seen.summed(torch.full_like(flat[:, 0, :1], flat.shape[1] * flat.shape[2] // groups))
        flat = flat - (_by_group(seen.summed(flat.sum(1)), groups) / count)[seen.row, None]
        square = _by_group(seen.summed(flat.square().sum(1)), groups) / count
        scale = (square + eps).rsqrt()
        ctx.seen, ctx.groups = seen, groups
        ctx.save_for_backward(flat, count, scale, weight)
        return _shaped(torch.addcmul(_wide(bias), flat, (scale * _wide(weight))[seen.row, None]), blocks)

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> Any:
        (flat, count, scale, weight), seen, given = ctx.saved_tensors, ctx.seen, _flat(slope)
        of_bias, of_weight = seen.summed(given.sum(1)), seen.summed((given * flat).sum(1)) * scale
        known = _wide(weight)
        # What the mean and the variance, which depend on all voxels of a group, take off again.
        mean, spread = (_by_group(part * known, ctx.groups) / count * scale for part in (of_bias, of_weight))
        back = torch.addcmul(-mean[seen.row, None], given, (scale * known)[seen.row, None])
        back.addcmul_(flat, (spread * scale)[seen.row, None], value=-1)
        return (
            _shaped(back, slope), None, None, of_weight.sum(0).to(weight.dtype), of_bias.sum(0).to(weight.dtype), None
        )  # fmt: skip


def _flat(blocks: torch.Tensor) -> torch.Tensor:
    """(N, V, C), without copying where channels are last in memory."""
    return _wide(blocks).movedim(1, -1).flatten(1, -2)


def _shaped(flat: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return flat.to(like.dtype).unflatten(1, like.shape[2:]).movedim(-1, 1)


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _by_group(each: torch.Tensor, groups: int) -> torch.Tensor:
    """The sum over the channels of a group, for each of its channels (B, C)."""
    return each.unflatten(1, (groups, -1)).sum(2, keepdim=True).expand(-1, -1, each.shape[1] // groups).flatten(1)
