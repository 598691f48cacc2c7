"""Contrast of regions: the same region of two alterations of a slice attracts, the other regions of both repel.

The local contrast of Chaitanya et al., NeurIPS 2020, arXiv:2006.10511, for the decoder, after the trunk has learned by
`position`. `across` False is their strategy LR, True is LD: the same region of slices of one partition in different volumes
attracts, too.
Differs: regions tile the view, each is known by the mean of its vectors at the decoder's end, and all others are negatives,
where theirs are thirteen patches of a coarser map with five neighbours each; in LD every two slices of a partition attract,
both ways; the mean over pairs is taken. `local` is the same idea for views that differ in place.
"""

# M maps (views of all scans), K regions of each
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from medssl.errors import UserError
from medssl.methods.relations import pairwise_nce, same
from medssl.recipe import Count, Positive, Weight
from medssl.trunks import Trunk
from medssl.trunks.decoder import Decoder
from medssl.trunks.resenc import CONV
from medssl.views import Views

if TYPE_CHECKING:
    from medssl.methods.method import Bank

POOL = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


class RegionContrast(nn.Module):
    """Each region of a view against its like in another view; the negatives are the other regions of these two.

    `grid` is the number of regions along each axis of a view, or one number for all axes. `parts` is as many as views.parts:
    views v and v + `parts` are alterations of one slice. Two views show the same where they are cut at the same place, which
    is asked of the recipe (see `check`). Where in the view a region is, padding tells: on noise, regions are found all the
    same. Weak alterations therefore teach little.
    Known: ln(2 k - 1) for k regions that all look the same, e.g. ln 11 for six.
    """

    dense, taught = True, ""
    masked, small = False, False
    family, compares = "contrastive", "a region in views of one place attracts itself; their other regions repel"

    def __init__(
        self,
        trunk: Trunk,
        *,
        weight: Weight = 1.0,
        grid: tuple[Count, ...] = (3,),
        parts: Count = 1,
        across: bool = False,
        temperature: Positive = 0.1,
        width: Count = 128,
    ) -> None:
        super().__init__()
        self.grid = grid * trunk.dims if len(grid) == 1 else grid
        if len(self.grid) != trunk.dims or math.prod(self.grid) < 2:
            raise UserError(
                f"method.regions.grid: {list(grid)} are no regions of {trunk.dims}D views; give a number for each axis, or "
                "one for all, of two regions or more, e.g. [3]"
            )
        self.weight, self.parts, self.across, self.temperature = weight, parts, across, temperature
        self.views = 2 * parts
        self.pool = POOL[trunk.dims](self.grid)
        inside = Decoder(trunk).width
        conv = CONV[trunk.dims]
        self.head = nn.Sequential(conv(inside, inside, 1), nn.ReLU(), conv(inside, width, 1))

    def check(self, views: Views, slices: int) -> None:
        """Nothing; raises UserError for views that are not cut at the same place."""
        crops, flat = views.crops, len(views.crops.size) == 2 and slices > 1
        for name, given, wanted in (
            ("partner", views.partner, "none"), ("turn", crops.turn, 0), ("zoom", crops.zoom, 0),
            ("flips", list(crops.flips), []), ("bend_mm", crops.bend_mm, 0), ("apart_mm", crops.apart_mm, 0),
        ):  # fmt: skip
            if given != wanted:
                raise UserError(
                    f"views.{name}: {given}, but regions are compared by where in the view they are; set it to {wanted}"
                )
        if crops.overlap < 1 and not crops.centre:
            raise UserError(
                f"views.overlap: {crops.overlap:g}, but regions compares views of one place; set it to 1, or views.centre "
                "to true"
            )
        if self.across and not crops.centre:
            raise UserError(
                "views.centre: False, but regions.across compares volumes at one place in each; set it to true"
            )
        if flat and crops.parts != self.parts:
            raise UserError(
                f"views.parts: {crops.parts}, but method.regions.parts: {self.parts}; set both to the number of slices that "
                "are looked at in a volume, 1 or more"
            )
        if not flat and self.parts > 1:
            raise UserError(f"method.regions.parts: {self.parts}, but views are of no slices of a volume; set it to 1")
        if any(many > voxels for many, voxels in zip(self.grid, crops.size, strict=True)):
            raise UserError(
                f"method.regions.grid: {list(self.grid)} regions of views of {list(crops.size)} voxels; use fewer"
            )

    def forward(self, bank: Bank) -> torch.Tensor:
        """The weighted loss of one step."""
        regions = self.head(self.pool(bank.dense()))
        z = bank.gathered(regions.flatten(2).transpose(1, 2))
        first, second = self.compared(len(z), bank.all_scans, z.device)
        both = torch.cat([z[first], z[second]], 1)
        region = torch.arange(z.shape[1], device=z.device).repeat(2)
        itself = torch.eye(len(region), dtype=torch.bool, device=z.device)
        return self.weight * pairwise_nce(both, same(region) & ~itself, itself, self.temperature)

    def compared(self, maps: int, scans: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Numbers (P,) and (P,) of the maps that are compared, of so many; map v * scans + b is view v of scan b."""
        number = torch.arange(maps, device=device)
        alike = same(number // scans % self.parts)
        together = alike if self.across else alike & same(number % scans)
        first, second = together.triu(1).nonzero().unbind(1)
        return first, second
