"""Contrast of places: the same millimetre seen in two views attracts, other places repel.

The local contrast of Chaitanya et al., NeurIPS 2020, arXiv:2006.10511, with exact positions in place of image
partitions: every view carries its voxel-to-mm matrix, so the same place is known after any rotation, scale and crop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from medssl.methods.relations import info_nce, same
from medssl.trunks import Trunk
from medssl.trunks.decoder import Decoder
from medssl.trunks.resenc import CONV
from medssl.views.bend import bent, grid_of, unbent

if TYPE_CHECKING:
    from medssl.methods.method import Bank

NO_BENDS = torch.empty(2, 0)


class LocalContrast(nn.Module):
    """InfoNCE over `points` places a scan that lie in its first two views.

    Negatives are places of the same scan further than `apart_mm` away; nearer ones are neither. Other scans give no
    negatives: the same organ of another patient should be allowed to look the same.
    Views should be half as wide as the volume or less. Where both show the same part of it, a place is known by where in the
    view it is, which padding and learned positions tell: on noise, places of views of the whole are found all the same.
    Known: ln(2 n - 1) for n places that all look the same, each further than `apart_mm` from the others.
    """

    dense, views, taught = True, 2, ""
    family, compares = "contrastive", "one mm of a scan in two views attracts; its mm further away repel"

    def __init__(
        self,
        trunk: Trunk,
        *,
        weight: float = 1.0,
        points: int = 128,
        apart_mm: float = 6.0,
        temperature: float = 0.1,
        width: int = 32,
    ) -> None:
        super().__init__()
        self.weight, self.points, self.apart_mm, self.temperature = weight, points, apart_mm, temperature
        self.head = CONV[trunk.dims](Decoder(trunk).width, width, 1)

    def forward(self, bank: Bank) -> torch.Tensor:
        """The weighted loss of one step; 0 for a scan whose views share fewer than two places."""
        embedding = self.head(bank.dense()).float()
        first, second = embedding[: bank.scans], embedding[bank.scans : 2 * bank.scans]
        losses = []
        for row in range(bank.scans):
            to_mm, size = bank.batch.to_mm[:2, row].double(), tuple(embedding.shape[2:])
            bend = bank.batch.bend[:2, row].double() if bank.batch.bend.numel() else bank.batch.bend.expand(2, 0)
            here, there = shared_places(to_mm, size, self.points, bend)
            if len(here) < 2:
                losses.append(embedding[row].sum() * 0)
                continue
            with torch.autocast(to_mm.device.type, enabled=False):
                mm = bent(bend[0], here, grid_of(size)) @ to_mm[0].T
            z = torch.cat([at(first[row], here), at(second[row], there)])
            place = torch.arange(len(here), device=z.device).repeat(2)
            distance = torch.cdist(mm[:, :3], mm[:, :3]).repeat(2, 2)
            positive = same(place) & ~torch.eye(len(place), dtype=torch.bool, device=z.device)
            ignore = (distance < self.apart_mm).to(z.device) & ~positive
            losses.append(info_nce(z, positive, ignore, self.temperature))
        return self.weight * torch.stack(losses).mean()


def shared_places(
    to_mm: torch.Tensor, size: tuple[int, ...], points: int, bend: torch.Tensor = NO_BENDS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Voxel places (n, 4) in the first view and in the second of the same millimetres; n <= points lie in both.

    `bend` are the control points of both views (2, 3, G, G, G), or (2, 0).
    In 2D, a place lies in the second view if it is within half a slice of it.
    """
    dims = len(size)
    here = torch.zeros(4 * points, 4, dtype=to_mm.dtype, device=to_mm.device)
    here[:, 3] = 1
    limit = torch.tensor(size, dtype=to_mm.dtype, device=to_mm.device) - 1
    here[:, :dims] = torch.rand(4 * points, dims, dtype=to_mm.dtype).to(to_mm.device) * limit
    grid = grid_of(size)
    # In bfloat16, which autocast would take, a place of 100 mm is off by up to a quarter of a millimetre.
    with torch.autocast(to_mm.device.type, enabled=False):
        there = unbent(bend[1], bent(bend[0], here, grid) @ (torch.linalg.inv(to_mm[1]) @ to_mm[0]).T, grid)
    inside = ((there[:, :dims] >= 0) & (there[:, :dims] <= limit)).all(1) & (there[:, dims:3].abs() <= 0.5).all(1)
    return here[inside][:points], there[inside][:points]


def at(embedding: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Vectors (n, E) of `embedding` (E, *S) at voxel places (n, 4), interpolated."""
    dims = embedding.ndim - 1
    size = torch.tensor(embedding.shape[1:], dtype=place.dtype, device=place.device)
    scaled = (2 * place[:, :dims] / (size - 1).clamp(min=1) - 1).flip(-1).to(embedding.dtype)
    grid = scaled.reshape(1, -1, *[1] * (dims - 1), dims)
    return functional.grid_sample(embedding[None], grid, align_corners=True)[0].flatten(1).T
