"""Pseudo-labels: what a network is sure of on unlabelled scans is learned as if it were known.

Lee, ICML workshop 2013: of the view itself. With `strong`, Sohn et al., NeurIPS 2020, arXiv:2001.07685 (FixMatch): what it
is sure of on a scan as it is, is learned on an altered view of it. Differs: weak views are not altered at all, and the
strong ones are the recipe's; sure is sure of either answer.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from medssl.learners.mean_teacher import rising
from medssl.learners.mixed import Mixed
from medssl.learners.supervised import Supervised
from medssl.recipe import Share, Weight


class PseudoLabel(nn.Module):
    """The task's loss, and the cross-entropy of unlabelled scans with their own answers, of those that are at least `sure`,
    over all; that counts up to `weight`, by a rise over the first `rise` of the run.
    """

    answers, alone = "", False
    done: torch.Tensor

    def __init__(
        self,
        model: Supervised,
        *,
        steps: int,
        strong: bool = False,
        sure: Share = 0.95,
        weight: Weight = 1.0,
        rise: Share = 0.3,
    ) -> None:
        super().__init__()
        self.trunk, self.head, self.added, self.whole = model.trunk, model.head, model.added, (model,)
        self.wants = ("unlabelled", "plain") if strong else ("unlabelled",)
        self.sure, self.weight, self.rise, self.steps = sure, weight, rise, steps
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Mixed) -> dict[str, torch.Tensor]:
        """Both losses, weighted."""
        (model,) = self.whole
        assert batch.unlabelled is not None
        logits = model.answer(batch.unlabelled.x[0], batch.unlabelled.told).float()
        with torch.no_grad():
            asked = logits if batch.plain is None else model.answer(batch.plain.x[0], batch.plain.told).float()
            share = torch.sigmoid(asked)
            told, sure = (share > 0.5).float(), (torch.maximum(share, 1 - share) >= self.sure).float()
        each = functional.binary_cross_entropy_with_logits(logits, told, reduction="none")
        weight = self.weight * rising(int(self.done), self.rise * self.steps)
        return {**model(batch.labelled), "pseudo": weight * (each * sure).mean()}

    def after_step(self, steps: int) -> None:
        """Nothing; one more step is done."""
        self.done += 1

    def rate_of(self, name: str) -> float:
        """As the network's."""
        return self.whole[0].rate_of(name)

    def picture(self, batch: Mixed) -> dict[str, torch.Tensor]:
        """Labelled views."""
        return self.whole[0].picture(batch.labelled)
