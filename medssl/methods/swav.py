"""Swapped assignments: each view predicts the prototypes to which the others were assigned, all prototypes used alike.

Caron et al., NeurIPS 2020, arXiv:2006.09882; the assignment is Sinkhorn's (Cuturi, NeurIPS 2013, arXiv:1306.0895).
Differs: a queue of past scans takes part in every assignment, because a batch of volumes has fewer scans than prototypes;
the projector normalises by layer.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import nn

from medssl.methods.projector import Prototypes
from medssl.methods.queue import Queue
from medssl.recipe import Count, Positive, Weight, Whole
from medssl.trunks import Trunk

if TYPE_CHECKING:
    from medssl.methods.method import Bank


class SwAV(nn.Module):
    """Cross-entropy of each view's prototypes with the codes of the others. Small views predict and have no codes.

    `queue` past scans take part in the codes. `epsilon` is the entropy of the assignment, `iterations` its rounds.
    Prototypes stay where they began for the first `frozen` batches (the paper: one epoch; 0: they move at once), so that
    features settle around them before they follow. A weight decay may still shorten them, which changes no score.
    Known: ln(prototypes) when all scores are equal.
    """

    seen: torch.Tensor
    dense, views, taught = False, 2, ""
    masked, small = False, True
    family, compares = (
        "contrastive",
        "views of a scan with the prototypes of its other views; all scans share them alike",
    )

    def __init__(
        self,
        trunk: Trunk,
        *,
        weight: Weight = 1.0,
        prototypes: Count = 64,
        temperature: Positive = 0.1,
        epsilon: Positive = 0.05,
        iterations: Count = 3,
        queue: Whole = 256,
        frozen: Whole = 0,
    ) -> None:
        super().__init__()
        self.weight, self.temperature, self.epsilon, self.iterations = weight, temperature, epsilon, iterations
        self.head = Prototypes(trunk.dim, prototypes)
        self.queue = Queue(queue, self.head.prototypes.shape[1])
        self.frozen = frozen
        if frozen:
            self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, bank: Bank) -> torch.Tensor:
        """The weighted loss of one step."""
        places = bank.gathered(self.head.place(bank.every_pooled())).unflatten(0, (-1, bank.all_scans))
        pull = float(not self.frozen or int(self.seen) >= self.frozen)
        scores, past = self.head.score(places, pull), self.head.score(self.queue.content()[0])
        whole = bank.rows // bank.scans
        codes = [
            sinkhorn(torch.cat([view, past]).detach() / self.epsilon, self.iterations)[: bank.all_scans]
            for view in scores[:whole]
        ]
        guess = (scores / self.temperature).log_softmax(2)
        pairs = [-(codes[b] * guess[a]).sum(1).mean() for a, b in product(range(len(scores)), range(whole)) if a != b]
        if self.training:
            self.queue.add(places[0].detach(), torch.zeros(bank.all_scans, 0, device=scores.device))
            if self.frozen:
                self.seen += 1
        return self.weight * torch.stack(pairs).mean()


@torch.no_grad()
def sinkhorn(scores: torch.Tensor, iterations: int) -> torch.Tensor:
    """The assignment (N, K) of scores (N, K) whose rows add up to 1 and whose columns are used alike: N / K each."""
    share = (scores.float() - scores.amax()).exp()
    for _ in range(iterations):
        share = share / share.sum(0, keepdim=True).clamp(min=1e-30) / share.shape[1]
        share = share / share.sum(1, keepdim=True).clamp(min=1e-30) / share.shape[0]
    return share * share.shape[0]
