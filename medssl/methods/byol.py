"""Prediction of the teacher: from one view, what the averaged network says of the other.

Grill et al., NeurIPS 2020, arXiv:2006.07733. Differs: norms by layer; with more than two views, all ordered pairs.
"""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from medssl.methods.projector import projector
from medssl.recipe import Count, Weight
from medssl.trunks import Trunk

if TYPE_CHECKING:
    from medssl.methods.method import Bank


class BYOL(nn.Module):
    """2 - 2 cos(prediction, teacher's projection of another view).

    Known: 0 when they agree, 2 when they are orthogonal, 4 when they are opposite.
    """

    dense, views, taught = False, 2, "project"
    masked, small = False, False
    family, compares = "distilled", "views of a scan with the teacher's of its other views"

    def __init__(self, trunk: Trunk, *, weight: Weight = 1.0, width: Count = 128) -> None:
        super().__init__()
        self.weight = weight
        self.project, self.predict = projector(trunk.dim, width), projector(width, width)

    def forward(self, bank: Bank) -> torch.Tensor:
        """The weighted loss of one step."""
        guess = self.predict(self.project(bank.features().pooled)).float().unflatten(0, (-1, bank.scans))
        told = bank.averaged(self)(bank.features(teacher=True).pooled).float().unflatten(0, (-1, bank.scans))
        pairs = [functional.cosine_similarity(guess[a], told[b]).mean() for a, b in permutations(range(len(guess)), 2)]
        return self.weight * (2 - 2 * torch.stack(pairs).mean())
