"""Order verification: of three views of a body, is the one that is told second between the other two?

The order task of TOV-VICReg: Goulao and Oliveira, 2022, arXiv:2209.10901.
Differs from its released code: right and wrong orders are equally frequent, so that "always wrong" is no answer; all three
views are altered by one law, so that the alteration does not tell which of them is the middle; along a body, which has no
direction of time, both directions are right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from medssl.methods.projector import projector
from medssl.recipe import Axis, Weight
from medssl.trunks import Trunk

if TYPE_CHECKING:
    from medssl.methods.method import Bank

RIGHT = torch.tensor([[0, 1, 2], [2, 1, 0]])
WRONG = torch.tensor([[1, 0, 2], [0, 2, 1], [1, 2, 0], [2, 0, 1]])
"""Orders of three places, of which 1 is between 0 and 2."""


class Order(nn.Module):
    """Cross-entropy of whether the first three views are in order `along` an axis.

    Scans whose views are nearer to each other than `apart` (a share of the volume) are left out: their order is no
    matter of anatomy.
    Known: ln 2 when nothing is learned.
    """

    dense, views, taught = False, 3, ""
    masked, small = False, False
    family, compares = "predictive", "three views of a scan with their order along an axis"

    def __init__(self, trunk: Trunk, *, weight: Weight = 1.0, along: Axis = 2, apart: float = 0.05) -> None:
        super().__init__()
        self.weight, self.along, self.apart = weight, along, apart
        self.judge = projector(3 * trunk.dim, 1, hidden=trunk.dim)

    def forward(self, bank: Bank) -> torch.Tensor:
        """The weighted loss of one step; 0 without a scan whose views are far enough apart."""
        logit, ordered = self.asked(bank)
        if not len(logit):
            return bank.features().pooled.sum() * 0
        return self.weight * functional.binary_cross_entropy_with_logits(logit, ordered)

    def asked(self, bank: Bank) -> tuple[torch.Tensor, torch.Tensor]:
        """The answer for each scan that can be asked about, as a logit, and whether its views are in order (0 or 1)."""
        scans = bank.all_scans
        views = bank.gathered(bank.features().pooled.float()).unflatten(0, (-1, scans))[:3]
        where = bank.gathered(bank.batch.where[..., self.along].flatten().to(views.device)).view(-1, scans)
        place, number = where[:3].sort(dim=0)
        clear = (place.diff(dim=0) >= self.apart).all(0).to(views.device)
        ordered = torch.rand(scans) < 0.5
        right, wrong = (of[torch.randint(len(of), (scans,))] for of in (RIGHT, WRONG))
        told = number.T.cpu().gather(1, torch.where(ordered[:, None], right, wrong)).to(views.device)
        chosen = views.transpose(0, 1).gather(1, told[..., None].expand(-1, -1, views.shape[2]))
        return self.judge(chosen.flatten(1))[clear, 0], ordered.to(views)[clear]
