"""Contrast of whole views: two views of a scan attract, other scans of the same scanner repel.

Chen et al., ICML 2020, arXiv:2002.05709 (InfoNCE, projector); with a teacher and a queue, He et al., CVPR 2020,
arXiv:1911.05722 (MoCo), whose negatives can be made harder as in Kalantidis et al., NeurIPS 2020, arXiv:2010.01028 (MoCHi).
Differs: negatives come from the same scanner only (see relations), in the queue as well; scans of the same patient are
never negatives and never mixed into one; mixing begins when the queue is full; the projector normalises by layer, because
a batch of volumes is too small for batch statistics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from medssl.errors import UserError
from medssl.methods.pairs import Pairs, Rows, gathered_rows, rows_of
from medssl.methods.projector import projector
from medssl.methods.queue import Queue
from medssl.methods.relations import info_nce, info_nce_between
from medssl.recipe import Count, Positive, Weight, Whole
from medssl.trunks import Trunk

if TYPE_CHECKING:
    from medssl.methods.method import Bank


class Contrast(nn.Module):
    """InfoNCE over pooled features. `masked` contrasts the masked views that a rebuild term uses, in the same forward.

    With `teacher`, views are compared with the teacher's of other views and, as negatives, with the last `queue` of them.
    `mixed` and `mixed_with_query` are how many harder negatives are made for each view of the `hardest` in the queue.
    `pairs` says who attracts whom and who is ignored; without it, views of a scan attract, and other scans of the patient
    and, with `same_scanner`, scans of other scanners are ignored. What the queue holds is never a positive.
    Known: ln(n) when all features are equal and n are not ignored.
    """

    dense, views, small, family = False, 2, False, "contrastive"

    def __init__(
        self,
        trunk: Trunk,
        *,
        weight: Weight = 1.0,
        temperature: Positive = 0.2,
        width: Count = 128,
        same_scanner: bool = True,
        masked: bool = False,
        teacher: bool = False,
        queue: Whole = 0,
        hardest: Count = 64,
        mixed: Whole = 0,
        mixed_with_query: Whole = 0,
        pairs: Pairs | None = None,
    ) -> None:
        super().__init__()
        if queue and not teacher:
            raise UserError(f"method.contrast.queue: {queue}, but what it holds is the teacher's; set teacher: true")
        if (mixed or mixed_with_query) and not queue:
            raise UserError("method.contrast.mixed: there is no queue to mix negatives from; set queue, e.g. to 1024")
        self.weight, self.temperature, self.masked = weight, temperature, masked
        self.pairs = pairs or Pairs(ignore=Pairs.ignore if same_scanner else Pairs.ignore[:1])
        self.compares = f"{self.pairs}; all else repels"
        if queue and (self.pairs.arguments("knn") or self.pairs.arguments("near_mm")):
            raise UserError(
                "method.contrast.pairs: near_mm and knn are of one step's views; leave them or the queue out"
            )
        self.taught = "project" if teacher else ""
        self.mixing = hardest, mixed, mixed_with_query
        self.project = projector(trunk.dim, width)
        self.told = ("patient", "scanner", *self.pairs.columns())
        self.queue = Queue(queue, width, facts=len(self.told))

    def forward(self, bank: Bank) -> torch.Tensor:
        """The weighted loss of one step."""
        mine = rows_of(bank.batch, bank.features().pooled.detach() if self.pairs.arguments("knn") else None)
        rows = gathered_rows(mine, bank.scans)
        positive, ignore = self.pairs.between(rows, rows)
        z = bank.gathered(self.project(bank.features(masked=self.masked).pooled))
        if not self.taught:
            return self.weight * info_nce(z, positive, ignore, self.temperature)
        keys = bank.gathered(bank.averaged(self)(bank.features(teacher=True).pooled))
        past, facts = self.queue.content()
        known = {name: facts[:, n].to(rows.facts[name].dtype) for n, name in enumerate(self.told)}
        unlike = Rows(facts=known | {"scan": torch.full_like(known["patient"], -1)})
        forbidden = torch.stack(self.pairs.between(rows, unlike)).any(0)
        harder = None
        if self.mixing[1] + self.mixing[2] and len(past) == len(self.queue.vectors):
            harder = mixed_negatives(z, past, ~forbidden, *self.mixing)
        none = torch.zeros_like(forbidden)
        loss = info_nce_between(
            z, torch.cat([keys, past.to(keys.dtype)]), torch.cat([positive, none], 1), torch.cat([ignore, forbidden], 1),
            self.temperature, harder,
        )  # fmt: skip
        if self.training:
            now = torch.stack([rows.facts[name] for name in self.told], 1)
            self.queue.add(keys[: bank.all_scans], now[: bank.all_scans])
        return self.weight * loss


@torch.no_grad()
def mixed_negatives(
    queries: torch.Tensor, keys: torch.Tensor, allowed: torch.Tensor, hardest: int, mixed: int, with_query: int
) -> torch.Tensor:
    """Unit vectors (Q, mixed + with_query, E) between two of the `hardest` allowed keys of a query, and between one of them
    and the query, nearer to the key; zero vectors for a query without any allowed key.
    """
    q, k = (functional.normalize(x.float(), dim=1) for x in (queries, keys))
    with torch.autocast(q.device.type, enabled=False):  # bfloat16 cannot tell the hardest from the next
        near = (q @ k.T).masked_fill(~allowed, float("-inf")).topk(min(hardest, len(k)), dim=1).indices
    count = allowed.sum(1).clamp(max=near.shape[1])[:, None]

    def some(number: int) -> torch.Tensor:
        place = (torch.rand(len(q), number).to(q.device) * count).long()
        return k[near.gather(1, place)]

    between = torch.rand(len(q), mixed, 1).to(q.device)
    towards = 0.5 * torch.rand(len(q), with_query, 1).to(q.device)
    two = between * some(mixed) + (1 - between) * some(mixed)
    one = towards * q[:, None] + (1 - towards) * some(with_query)
    return functional.normalize(torch.cat([two, one], 1), dim=2) * (count[:, :, None] > 0)
