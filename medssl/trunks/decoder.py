"""U-Net decoder: from any trunk's pyramid back to a vector for each voxel.

Ronneberger et al., MICCAI 2015, arXiv:1505.04597. Differs: grids are read from the features, so one decoder serves a
residual pyramid with anisotropic strides and kernels and a plain ViT, whose two levels share one stride and which is then
enlarged twofold at a time down to the voxels.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional

from medssl.trunks.features import Features, Trunk
from medssl.trunks.resenc import Residual

FINEST_WIDTH = 16
"""Least channels of a level that the trunk's pyramid does not have (ViT)."""


class Decoder(nn.Module):
    """Vectors (B, width, *S) from a trunk's features. Each level is enlarged, joined with the next finer and mixed."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        dims, widths = trunk.dims, list(trunk.widths)
        self.mode = "trilinear" if dims == 3 else "bilinear"
        self.mixes = nn.ModuleList(
            Residual(dims, coarse + own, own, (1,) * dims, kernel=kernel)
            for (own, coarse), kernel in zip(itertools.pairwise(widths), trunk.kernels[:-1], strict=True)
        )
        self.finish = nn.ModuleList()
        self.width = widths[0]
        for _ in range((max(trunk.strides[0]) - 1).bit_length()):
            narrow = max(self.width // 2, FINEST_WIDTH)
            self.finish.append(Residual(dims, self.width, narrow, (1,) * dims))
            self.width = narrow

    def forward(self, features: Features, size: torch.Size | tuple[int, ...]) -> torch.Tensor:
        """One vector for each voxel of a view of `size`."""
        *finer, y = features.pyramid
        for level, mix in zip(finer[::-1], list(self.mixes)[::-1], strict=True):
            y = mix(torch.cat([self._enlarge(y, tuple(level.shape[2:])), level], dim=1))
        for mix in self.finish:
            y = mix(self._enlarge(y, tuple(min(2 * n, full) for n, full in zip(y.shape[2:], size, strict=True))))
        return y

    def _enlarge(self, y: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
        return y if tuple(y.shape[2:]) == size else functional.interpolate(y, size=size, mode=self.mode)
