"""Contrast of positions: slices at the same height of the body attract, of one patient or of several; others repel.

The global contrast of Chaitanya et al., NeurIPS 2020, arXiv:2006.10511: volumes are cut into partitions along an axis, in
which all of them are taken to show the same anatomy. `across` False is its strategy GD-, True is GD.
Differs: with `parts` 0, distances along the axis replace the partitions, so that no border runs through an organ; in GD
every two views of a partition attract; the mean over pairs is taken, where the paper's sums are over a fixed number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from medssl.errors import UserError
from medssl.methods.projector import projector
from medssl.methods.relations import pairwise_nce, same
from medssl.recipe import Axis, Count, Positive, Weight, Whole
from medssl.trunks import Trunk
from medssl.views import Views
from medssl.views.crops import SAME_PLACE, part_of

if TYPE_CHECKING:
    from medssl.methods.method import Bank


class PositionContrast(nn.Module):
    """Each pair of views at one position against the views elsewhere; those between are neither.

    `along` is an axis of the volume. Positions are shares of its extent: with `parts` n, two are the same in the same of n
    equal parts and elsewhere in another; with 0, they are the same below `near` and elsewhere from `apart` on.
    Known: ln(1 + n) when all features are equal and n are elsewhere, e.g. ln 28 for three volumes of four parts thrice.
    """

    dense, views, taught = False, 2, ""
    masked, small = False, False
    family, compares = "contrastive", "views at one position along an axis attract; those elsewhere repel"

    def __init__(
        self,
        trunk: Trunk,
        *,
        weight: Weight = 1.0,
        parts: Whole = 0,
        near: float = 0.05,
        apart: float = 0.15,
        along: Axis = 2,
        across: bool = True,
        temperature: Positive = 0.1,
        width: Count = 128,
    ) -> None:
        super().__init__()
        if not 0 < near <= apart < 1:
            raise UserError(f"method.position: near {near} and apart {apart} must be shares, 0 < near <= apart < 1")
        self.weight, self.temperature, self.across = weight, temperature, across
        self.parts, self.near, self.apart, self.along = parts, near, apart, along
        self.project = projector(trunk.dim, width)

    def check(self, views: Views, slices: int) -> None:
        """Nothing; raises UserError for views that have no places along one volume."""
        check_places("position", self.along, views, slices)

    def forward(self, bank: Bank) -> torch.Tensor:
        """The weighted loss of one step."""
        z = bank.gathered(self.project(bank.features().pooled))
        scan = torch.arange(len(z), device=z.device) % bank.all_scans
        place = bank.gathered(bank.batch.where[..., self.along].flatten().to(z.device))
        return self.weight * pairwise_nce(z, *self.relation(scan, place), self.temperature)

    def relation(self, scan: torch.Tensor, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(positive, ignore) over rows that are of scans (R,) at places (R,) along the axis, from 0 to 1."""
        itself = torch.eye(len(scan), dtype=torch.bool, device=scan.device)
        distance = (place[:, None] - place[None]).abs()
        if self.parts:
            part = part_of(place, self.parts)
            together, elsewhere = same(part), ~same(part)
        else:
            together, elsewhere = distance < self.near, distance >= self.apart
        if self.across:
            positive = together & ~itself
        else:
            positive = same(scan) & (distance < SAME_PLACE if self.parts else together) & ~itself
        return positive, ~positive & ~elsewhere


def check_places(term: str, along: int, views: Views, slices: int) -> None:
    """Nothing; raises UserError for views of two volumes, whose places are no places along one, and for views that all are
    at one place, because volumes have one slice at most.
    """
    if views.partner != "none":
        raise UserError(
            f"views.partner: {views.partner}, but {term} asks about places along one volume, and two have none in common; "
            "set it to none"
        )
    if along == 2 and slices == 1:
        raise UserError(
            f"method.{term}.along: 2, but the volumes have one slice, and all views are at one place across it; use 0 or 1"
        )
