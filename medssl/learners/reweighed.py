"""Reweighing: scans of rare groups count more, so that a loss is not lowered at their expense.

Kamiran and Calders, Knowledge and Information Systems 2012, weigh by group and label as if both were independent; here all
classes of a column, or of several crossed, count alike.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from medssl.errors import UserError
from medssl.learners.supervised import Supervised
from medssl.recipe import Share
from medssl.views import Batch


class Reweighed(nn.Module):
    """The task's loss, in which each scan counts by one over how many training scans there are of its class of `by`, a
    column or label of the store or several crossed (sex*glaucoma), to the power of `strength` (0: all count alike); the mean
    weight of the training scans is 1. Unknown is a class.

    Weights are of scans, not of patients, and are not of the group alone: with the label in `by`, scores are no longer how
    likely a label is in these scans, but in a cohort where all classes are as many.
    """

    wants: tuple[str, ...]
    wants, answers, alone = (), "", False
    weights: torch.Tensor

    def __init__(self, model: Supervised, *, by: str, strength: Share = 1.0) -> None:
        super().__init__()
        self.trunk, self.head, self.added, self.whole = model.trunk, model.head, model.added, (model,)
        if not by:
            raise UserError(
                "learn.by: empty; name a column or label of the store, or several crossed, e.g. sex*glaucoma"
            )
        self.by, self.strength = by, strength
        self.weights = torch.empty(0)

    def count(self, classes: torch.Tensor) -> None:
        """Nothing; classes weigh by how many of the training scans (N,) are of each, a number, -1 where it is unknown.
        Raises UserError for one class only.
        """
        counts = torch.bincount(classes + 1).double()
        if (counts > 0).sum() < 2:
            raise UserError(
                f"learn.by: all {len(classes)} training volumes are of one class of {self.by}; leave learn out"
            )
        weights = torch.where(counts > 0, counts.clamp(min=1).pow(-self.strength), 0.0)
        self.weights = (weights * len(classes) / (weights * counts).sum()).float()

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The task's loss."""
        logits = self.whole[0].answer(batch.x[0], batch.told).float()
        each = functional.binary_cross_entropy_with_logits(logits, batch.target, reduction="none")
        return {"task": (self.weights.to(each.device)[batch.facts[self.by] + 1] * each).mean()}

    def after_step(self, steps: int) -> None:
        """Nothing to do after a step."""

    def rate_of(self, name: str) -> float:
        """As the network's."""
        return self.whole[0].rate_of(name)

    def picture(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The views."""
        return self.whole[0].picture(batch)
