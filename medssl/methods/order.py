"""Order verification: are views told in their order, three along a body or two visits in time?

The order task of TOV-VICReg: Goulao and Oliveira, 2022, arXiv:2209.10901.
Differs from its released code: right and wrong orders are equally frequent, so that "always wrong" is no answer; all views
are altered by one law, so that the alteration does not tell which of them is which; along a body, which has no direction of
time, both directions are right. In time only one is, and two visits are enough to ask about it: three would leave out the
many patients who came twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn import functional

from medssl.errors import UserError
from medssl.methods.position import check_places
from medssl.methods.projector import projector
from medssl.recipe import Axis, Weight
from medssl.trunks import Trunk
from medssl.views import Views

if TYPE_CHECKING:
    from medssl.methods.method import Bank

RIGHT = {"place": torch.tensor([[0, 1, 2], [2, 1, 0]]), "visit": torch.tensor([[0, 1]])}
"""Right orders of three places, of which 1 is between 0 and 2, and of two visits, of which 0 was the first."""

WRONG = {"place": torch.tensor([[1, 0, 2], [0, 2, 1], [1, 2, 0], [2, 0, 1]]), "visit": torch.tensor([[1, 0]])}
"""The others."""


class Order(nn.Module):
    """Cross-entropy of whether a scan's first views are in order: by "place" three along an axis, by "visit" two in time.

    Places are `along` an axis of the volume; scans of which two are nearer than `apart` (a share of the volume) are left
    out: their order is no matter of anatomy. Visits are those of `views.partner: follow_up`, which draws every second view
    at the same place on another day; scans without another dated visit are left out. Whatever else changes with the years,
    such as a protocol, tells their order as well.
    Known: ln 2 when nothing is learned.
    """

    dense, views, taught = False, 3, ""
    masked, small = False, False
    family, compares = "predictive", "three views of a scan with their order along an axis"

    def __init__(
        self,
        trunk: Trunk,
        *,
        weight: Weight = 1.0,
        by: Literal["place", "visit"] = "place",
        along: Axis = 2,
        apart: float = 0.05,
    ) -> None:
        super().__init__()
        self.weight, self.by, self.along, self.apart = weight, by, along, apart
        if by == "visit":
            self.views, self.compares = 2, "two visits of a patient with their order in time"
        self.judge = projector(self.views * trunk.dim, 1, hidden=trunk.dim)

    def check(self, views: Views, slices: int) -> None:
        """Nothing; raises UserError for views that have no places along one volume, or are not of two visits."""
        if (self.by == "visit") != (views.partner == "follow_up"):
            remedy = {"place": "set by to visit, or views.partner to none",
                      "visit": "set views.partner to follow_up, which is another day at the same place"}  # fmt: skip
            raise UserError(f"method.order.by: {self.by}, but views.partner: {views.partner}; {remedy[self.by]}")
        if self.by == "place":
            check_places("order", self.along, views, slices)

    def forward(self, bank: Bank) -> torch.Tensor:
        """The weighted loss of one step; 0 without a scan whose views are far enough apart."""
        logit, ordered = self.asked(bank)
        if not len(logit):
            return bank.features().pooled.sum() * 0
        return self.weight * functional.binary_cross_entropy_with_logits(logit, ordered)

    def asked(self, bank: Bank) -> tuple[torch.Tensor, torch.Tensor]:
        """The answer for each scan that can be asked about, as a logit, and whether its views are in order (0 or 1)."""
        scans = bank.all_scans
        views = bank.gathered(bank.features().pooled.float()).unflatten(0, (-1, scans))[: self.views]
        along = bank.batch.days if self.by == "visit" else bank.batch.where[..., self.along]
        place, number = bank.gathered(along.flatten().to(views.device)).view(-1, scans)[: self.views].sort(dim=0)
        gap = place.diff(dim=0)  # nan where a day is unknown, and then neither
        clear = (gap > 0 if self.by == "visit" else gap >= self.apart).all(0)
        ordered = torch.rand(scans) < 0.5
        right, wrong = (of[self.by][torch.randint(len(of[self.by]), (scans,))] for of in (RIGHT, WRONG))
        told = number.T.cpu().gather(1, torch.where(ordered[:, None], right, wrong)).to(views.device)
        chosen = views.transpose(0, 1).gather(1, told[..., None].expand(-1, -1, views.shape[2]))
        return self.judge(chosen.flatten(1))[clear, 0], ordered.to(views)[clear]
