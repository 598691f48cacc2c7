"""The norm of what a mask leaves seen, as one operation: a sparse network has one after every convolution.

Tian et al., ICLR 2023, arXiv:2301.03580. Written out, autograd would pass over every voxel some twenty times and keep most
of what it made; this passes over it about as often as torch's own norms, and keeps one number a voxel.
"""

# B batch, C channels, G groups, *S space
from __future__ import annotations

from typing import Any

import torch


def norm_of_seen(
    x: torch.Tensor, there: torch.Tensor, groups: int, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """x (B, C, *S) normed by the mean and variance of its seen voxels, groups of channels together; zero elsewhere.

    `there` (B, 1, *S) is 1 where a voxel is seen, of which each row has some; x may hold anything elsewhere.
    """
    return _NormOfSeen.apply(x, there, groups, weight, bias, eps)


class _NormOfSeen(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        there: torch.Tensor,
        groups: int,
        weight: torch.Tensor,
        bias: torch.Tensor,
        eps: float,
    ) -> torch.Tensor:
        flat, mask = _wide(x).flatten(2) * _wide(there).flatten(2), _wide(there).flatten(2)
        count = mask.sum((1, 2)).view(-1, 1, 1) * (x.shape[1] // groups)
        mean = _by_group(flat.sum(2), groups) / count[:, :, 0]
        flat.addcmul_(mean[..., None], mask, value=-1)
        scale = (_by_group(flat.square().sum(2), groups) / count[:, :, 0] + eps).rsqrt_()[..., None]
        flat.mul_(scale)
        ctx.groups, ctx.shape, ctx.dtype = groups, x.shape, x.dtype
        ctx.save_for_backward(flat, mask, count, scale, weight)
        shown = torch.addcmul(_wide(bias).view(1, -1, 1) * mask, flat, _wide(weight).view(1, -1, 1))
        return shown.to(x.dtype).view(x.shape)

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> Any:
        flat, mask, count, scale, weight = ctx.saved_tensors
        given = _wide(slope).flatten(2) * mask
        of_bias, of_weight = given.sum(2), (given * flat).sum(2)
        known = _wide(weight)
        # What the mean and the variance, which depend on all voxels of a group, take off again.
        mean, spread = (_by_group(part * known, ctx.groups)[..., None] / count for part in (of_bias, of_weight))
        given.mul_(known.view(1, -1, 1)).addcmul_(mean, mask, value=-1).addcmul_(flat, spread, value=-1).mul_(scale)
        back = given.to(ctx.dtype).view(ctx.shape)
        return back, None, None, of_weight.sum(0).to(weight.dtype), of_bias.sum(0).to(weight.dtype), None


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _by_group(each: torch.Tensor, groups: int) -> torch.Tensor:
    """The sum over the channels of a group, for each of its channels (B, C)."""
    return each.unflatten(1, (groups, -1)).sum(2, keepdim=True).expand(-1, -1, each.shape[1] // groups).flatten(1)
