"""Contrast of places: the same millimetre seen in two views attracts, other places repel.

The local contrast of Chaitanya et al., NeurIPS 2020, arXiv:2006.10511, with exact positions in place of image
partitions: every view carries its voxel-to-mm matrix, so the same place is known after any rotation, scale and crop.
`across` False is their strategy LR, True is LD.
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
from medssl.views import Batch
from medssl.views.bend import bent, grid_of, unbent
from medssl.views.masks import strangers

if TYPE_CHECKING:
    from medssl.methods.method import Bank

NO_BENDS = torch.empty(2, 0)


class LocalContrast(nn.Module):
    """InfoNCE over `points` places a scan that lie in its first two views.

    Negatives are places of the same scan further than `apart_mm` away; nearer ones are neither. Other scans give no
    negatives: the same organ of another patient should be allowed to look the same. With `across` it is asked to: each
    scan's first view is also set against the second view of another patient, where the places at the same share of the
    volume's extent are taken for the same. That is true of volumes cut alike around an organ, and of no others.
    """

    dense, views, taught = True, 2, ""

    def __init__(
        self,
        trunk: Trunk,
        *,
        weight: float = 1.0,
        points: int = 128,
        apart_mm: float = 6.0,
        temperature: float = 0.1,
        width: int = 32,
        across: bool = False,
    ) -> None:
        super().__init__()
        self.weight, self.points, self.apart_mm, self.temperature = weight, points, apart_mm, temperature
        self.across = across
        self.head = CONV[trunk.dims](Decoder(trunk).width, width, 1)

    def forward(self, bank: Bank) -> torch.Tensor:
        """The weighted loss of one step; 0 for views that share fewer than two places."""
        embedding, batch = self.head(bank.dense()).float(), bank.batch
        scans = torch.arange(bank.scans)
        losses = [self._loss(embedding, batch, row, row, batch.to_mm) for row in scans]
        if self.across:
            mates = strangers(batch.patient).tolist()
            losses += [self._loss(embedding, batch, row, mates[row], batch.to_share) for row in scans]
        return self.weight * torch.stack(losses).mean()

    def _loss(self, embedding: torch.Tensor, batch: Batch, row: int, mate: int, maps: torch.Tensor) -> torch.Tensor:
        """The contrast of scan `row` in its first view with scan `mate` in its second. `maps` (V, B, 4, 4) take both views'
        voxels to where equal places have equal coordinates.
        """
        size, grid = tuple(embedding.shape[2:]), grid_of(tuple(embedding.shape[2:]))
        bend = torch.stack([batch.bend[0, row], batch.bend[1, mate]]).double() if batch.bend.numel() else NO_BENDS
        here, there = shared_places(torch.stack([maps[0, row], maps[1, mate]]).double(), size, self.points, bend)
        if len(here) < 2:
            return embedding[row].sum() * 0
        with torch.autocast(here.device.type, enabled=False):
            mm = bent(bend[0], here, grid) @ batch.to_mm[0, row].double().T
        z = torch.cat([at(embedding[row], here), at(embedding[batch.x.shape[1] + mate], there)])
        place = torch.arange(len(here), device=z.device).repeat(2)
        distance = torch.cdist(mm[:, :3], mm[:, :3]).repeat(2, 2)
        itself = torch.eye(len(place), dtype=torch.bool, device=z.device)
        positive = same(place) & ~itself
        ignore = ((distance < self.apart_mm).to(z.device) | itself) & ~positive
        return info_nce(z, positive, ignore, self.temperature)


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
