"""Variance, invariance, covariance: two views of a scan agree, and no direction of the embedding dies.

Bardes et al., ICLR 2022, arXiv:2105.04906. It needs no negatives, so small batches serve it well.
Differs: the projector normalises by layer; with more than two views the mean over their pairs is taken.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import nn

from medssl.errors import UserError
from medssl.methods.projector import projector
from medssl.recipe import Count, Weight
from medssl.trunks import Trunk

if TYPE_CHECKING:
    from medssl.methods.method import Bank

TINY_VARIANCE = 1e-4
"""Added to a variance before its root, whose slope at zero is infinite."""


class VICReg(nn.Module):
    """Agreement of views, a spread of at least 1 along each direction over the scans, and no correlation of directions.

    Known: 0.99 times `variance` when all features are equal; 0 when views agree and directions spread, uncorrelated.
    """

    dense, views, taught = False, 2, ""
    masked, small = False, False
    family, compares = "contrastive", "views of a scan agree; directions over all scans spread"

    def __init__(
        self,
        trunk: Trunk,
        *,
        weight: Weight = 1.0,
        invariance: Weight = 25.0,
        variance: Weight = 25.0,
        covariance: Weight = 1.0,
        width: Count = 128,
    ) -> None:
        super().__init__()
        self.weight, self.parts = weight, (invariance, variance, covariance)
        self.project = projector(trunk.dim, width)

    def forward(self, bank: Bank) -> torch.Tensor:
        """The weighted loss of one step."""
        views = bank.gathered(self.project(bank.features().pooled).float()).unflatten(0, (-1, bank.all_scans))
        pairs = [vicreg(a, b, *self.parts) for a, b in combinations(views, 2)]
        return self.weight * torch.stack(pairs).mean()


def vicreg(
    a: torch.Tensor, b: torch.Tensor, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0
) -> torch.Tensor:
    """The loss of two views' embeddings (B, E). Raises UserError for fewer than two scans: they have no spread."""
    if len(a) < 2:
        raise UserError(f"pretrain.batch: {len(a)}, but vicreg compares scans; use 2 or more, 8 or more is better")
    together = (a - b).square().mean()
    spread = sum((1 - (x.var(0) + TINY_VARIANCE).sqrt()).relu().mean() for x in (a, b)) / 2
    return invariance * together + variance * spread + covariance * (_correlated(a) + _correlated(b))


def _correlated(x: torch.Tensor) -> torch.Tensor:
    """The squares of the covariances between directions, summed, for each direction."""
    centred = x - x.mean(0)
    with torch.autocast(x.device.type, enabled=False):  # two sums are subtracted, of which bfloat16 keeps three digits
        matrix = centred.T @ centred / (len(x) - 1)
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / x.shape[1]
