"""Contrast of places: the same millimetre seen in two views attracts, other places repel.

The local contrast of Chaitanya et al., NeurIPS 2020, arXiv:2006.10511, with exact positions in place of image
partitions: every view carries its voxel-to-mm matrix, so the same place is known after any rotation, scale and crop.
`across` False is their strategy LR, True is LD.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from medssl.errors import UserError
from medssl.methods.relations import info_nce, same
from medssl.processes import own
from medssl.recipe import Count, Positive, Weight, Within
from medssl.trunks import Trunk
from medssl.trunks.decoder import Decoder
from medssl.trunks.resenc import CONV
from medssl.views import Batch, Views
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
    Views should be half as wide as the volume or less. Where both show the same part of it, a place is known by where in the
    view it is, which padding and learned positions tell: on noise, places of views of the whole are found all the same.
    Known: ln(2 n - 1) for n places that all look the same, each further than `apart_mm` from the others.
    """

    dense, views, taught = True, 2, ""
    masked, small = False, False
    family, compares = "contrastive", "one mm of a scan in two views attracts; its mm further away repel"

    def __init__(
        self,
        trunk: Trunk,
        *,
        weight: Weight = 1.0,
        points: Annotated[int, Within(least=2)] = 128,
        apart_mm: Weight = 6.0,
        temperature: Positive = 0.1,
        width: Count = 32,
        across: bool = False,
    ) -> None:
        super().__init__()
        self.weight, self.points, self.apart_mm, self.temperature = weight, points, apart_mm, temperature
        self.across = across
        self.head = CONV[trunk.dims](Decoder(trunk).width, width, 1)

    def check(self, views: Views, slices: int) -> None:
        """Nothing; raises UserError for views that hardly ever share a place, or whose millimetres are of two volumes."""
        if views.partner != "none":
            raise UserError(
                f"views.partner: {views.partner}, but local compares places in mm, which two volumes do not share; set it "
                "to none"
            )
        if len(views.crops.size) == 2 and slices > 1 and views.crops.parts != 1:
            raise UserError(
                f"views.parts: {views.crops.parts}, but local compares places of flat views, and two of {slices} slices are "
                "hardly ever the same; set it to 1, for both views to be of one slice"
            )

    def forward(self, bank: Bank) -> torch.Tensor:
        """The weighted loss of one step; 0 for views that share fewer than two places."""
        embedding, batch = self.head(bank.dense()).float(), bank.batch
        views = _views_of(batch, embedding)
        tried = own(_tried(bank.all_scans, self.points, views.dims), bank.scans)
        loss = torch.stack([self._loss(views, n, n, views.to_mm, tried[n]) for n in range(bank.scans)]).mean()
        if self.across:
            every = Seen(*(bank.gathered(x.flatten(0, 1)).unflatten(0, (2, -1)) if x.numel() else x for x in views))
            mates = strangers(bank.gathered(batch.patient)).tolist()
            tried = _tried(bank.all_scans, self.points, views.dims)
            others = [self._loss(every, n, mate, every.to_share, tried[n]) for n, mate in enumerate(mates)]
            loss = (loss + torch.stack(others).mean()) / 2
        return self.weight * loss

    def _loss(self, seen: Seen, scan: int, mate: int, maps: torch.Tensor, tried: torch.Tensor) -> torch.Tensor:
        """The contrast of `scan` in its first view with scan `mate` in its second. `maps` (2, B, 4, 4) take both views'
        voxels to where equal places have equal coordinates.
        """
        first, second = seen.embedding[0, scan], seen.embedding[1, mate]
        size = tuple(first.shape[1:])
        bend = torch.stack([seen.bend[0, scan], seen.bend[1, mate]]) if seen.bend.numel() else NO_BENDS
        both = _places_in_both(tried, torch.stack([maps[0, scan], maps[1, mate]]), size, bend)
        here, there = (place[: self.points] for place in both)
        if len(here) < 2:
            return first.sum() * 0
        with torch.autocast(here.device.type, enabled=False):
            mm = bent(bend[0], here, grid_of(size)) @ seen.to_mm[0, scan].T
        z = torch.cat([at(first, here), at(second, there)])
        place = torch.arange(len(here), device=z.device).repeat(2)
        distance = torch.cdist(mm[:, :3], mm[:, :3]).repeat(2, 2)
        itself = torch.eye(len(place), dtype=torch.bool, device=z.device)
        positive = same(place) & ~itself
        ignore = ((distance < self.apart_mm).to(z.device) | itself) & ~positive
        return info_nce(z, positive, ignore, self.temperature)


class Seen(NamedTuple):
    """The first two views of scans: vectors (2, B, E, *S), matrices (2, B, 4, 4) as in Batch, bends (2, B, 3, G, G, G) or
    none.
    """

    embedding: torch.Tensor
    to_mm: torch.Tensor
    to_share: torch.Tensor
    bend: torch.Tensor

    @property
    def dims(self) -> int:
        """2 or 3."""
        return self.embedding.ndim - 3


def _views_of(batch: Batch, embedding: torch.Tensor) -> Seen:
    vectors = embedding.unflatten(0, (-1, batch.x.shape[1]))
    return Seen(vectors[:2], batch.to_mm[:2].double(), batch.to_share[:2].double(), batch.bend[:2].double())


def shared_places(
    to_mm: torch.Tensor, size: tuple[int, ...], points: int, bend: torch.Tensor = NO_BENDS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Voxel places (n, 4) in the first view and in the second of the same millimetres; n <= points lie in both.

    `bend` are the control points of both views (2, 3, G, G, G), or (2, 0).
    In 2D, a place lies in the second view if it is within half a slice of it.
    """
    here, there = _places_in_both(_tried(1, points, len(size))[0], to_mm, size, bend)
    return here[:points], there[:points]


def _tried(scans: int, points: int, dims: int) -> torch.Tensor:
    """Where to look for places (scans, 4 * points, dims), from 0 to 1: more than wanted, as some lie in one view only."""
    return torch.rand(scans, 4 * points, dims, dtype=torch.float64)


def _places_in_both(
    tried: torch.Tensor, to_mm: torch.Tensor, size: tuple[int, ...], bend: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `shared_places`, of all those tried that lie in both views."""
    dims = len(size)
    here = torch.zeros(len(tried), 4, dtype=to_mm.dtype, device=to_mm.device)
    here[:, 3] = 1
    limit = torch.tensor(size, dtype=to_mm.dtype, device=to_mm.device) - 1
    here[:, :dims] = tried.to(here) * limit
    grid = grid_of(size)
    # In bfloat16, which autocast would take, a place of 100 mm is off by up to a quarter of a millimetre.
    with torch.autocast(to_mm.device.type, enabled=False):
        there = unbent(bend[1], bent(bend[0], here, grid) @ (torch.linalg.inv(to_mm[1]) @ to_mm[0]).T, grid)
    inside = ((there[:, :dims] >= 0) & (there[:, :dims] <= limit)).all(1) & (there[:, dims:3].abs() <= 0.5).all(1)
    return here[inside], there[inside]


def at(embedding: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Vectors (n, E) of `embedding` (E, *S) at voxel places (n, 4), interpolated."""
    dims = embedding.ndim - 1
    size = torch.tensor(embedding.shape[1:], dtype=place.dtype, device=place.device)
    scaled = (2 * place[:, :dims] / (size - 1).clamp(min=1) - 1).flip(-1).to(embedding.dtype)
    grid = scaled.reshape(1, -1, *[1] * (dims - 1), dims)
    return functional.grid_sample(embedding[None], grid, align_corners=True)[0].flatten(1).T
