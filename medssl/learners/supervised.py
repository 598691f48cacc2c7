"""A trunk with a head, and the plain way to learn: from the labels there are."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from medssl.adaptations import Adaptation, Added
from medssl.heads import Classify, Detect, Forecast, Head, Segment
from medssl.trunks import Features, Trunk
from medssl.views import Batch
from medssl.views.history import NOTHING, Told


class Supervised(nn.Module):
    """A trunk with a head; a batch gives the loss of the head's answers against its labels.

    `adapt` says how the trunk moves, once it holds the weights that it starts from.
    """

    wants: tuple[str, ...] = ()
    """Sets of scans that a learner sees beside the labelled ones: unlabelled, plain, judged (see mixed.py)."""
    answers = ""
    """The beginning of the names of the weights that answer in the end."""
    alone = False
    """Whether only one process can train it."""

    def __init__(self, trunk: Trunk, head: Head) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head
        self.added: Added | None = None
        self.adaptation: Adaptation | None = None

    def adapt(self, adaptation: Adaptation) -> None:
        """Nothing; the trunk moves as `adaptation` says from now on."""
        self.adaptation, self.added = adaptation, adaptation.begin(cast(nn.Module, self.trunk))

    def rate_of(self, name: str) -> float:
        """The share of the learning rate at which a weight of that name moves."""
        if self.adaptation is None or not name.startswith("trunk."):
            return 1.0
        return self.adaptation.rate_of(name.removeprefix("trunk."), cast(nn.Module, self.trunk))

    def answer(self, x: torch.Tensor, told: Told = NOTHING) -> torch.Tensor:
        """The head's logits for views (B, C, *S), or for series of them (B, T, C, *S) where days are told."""
        trunk, x = cast(nn.Module, self.trunk), visits_there(x, told)
        sums = {} if self.added is None else self.added.sums(trunk)
        features = torch.func.functional_call(trunk, sums, (x,)) if sums else self.trunk(x)
        return self.read(features, tuple(x.shape[2:]), told)

    def read(self, features: Features, size: tuple[int, ...], told: Told = NOTHING) -> torch.Tensor:
        """The head's logits for what the trunk saw in views of `size` voxels."""
        if isinstance(self.head, Classify | Forecast):
            return self.head(features, size, told)
        return self.head(features, size)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The task's loss."""
        return {"task": self.head.loss(self.answer(batch.x[0], batch.told), batch.target)}

    def after_step(self, steps: int) -> None:
        """Nothing to do after a step."""

    @torch.no_grad()
    def picture(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Views, and for a segmentation or a detection the label maps given and found."""
        last = batch.x[0, :, -1] if batch.told.days.numel() else batch.x[0]
        images = {"view": last[:, 0].float()}
        if isinstance(self.head, Segment):
            images |= {"label": batch.target.float(), "label found": self.answer(batch.x[0]).argmax(1).float()}
        if isinstance(self.head, Detect):
            found = torch.sigmoid(self.answer(batch.x[0]).float())
            images |= {"label": self.head.lesion(batch.target).float(), "label found": found}
        return images


def visits_there(x: torch.Tensor, told: Told) -> torch.Tensor:
    """The views (N, C, *S) of the visits that there are, of series (B, T, C, *S); of scans by themselves all views."""
    return x[told.days.isfinite()] if told.days.numel() else x
