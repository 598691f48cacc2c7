"""Mean teacher: unlabelled scans are to be answered as the network's own running average answers them.

Tarvainen and Valpola, NeurIPS 2017, arXiv:1703.01780. Differs: the teacher is averaged by half-life, a fraction of the run.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from medssl.learners.mixed import Mixed
from medssl.learners.supervised import Supervised
from medssl.methods.teacher import Average
from medssl.recipe import Share, Weight


class MeanTeacher(nn.Module):
    """The task's loss, and the mean square of how far the student's answers (0 to 1) on unlabelled scans lie from those of
    the teacher on another view of them; that counts up to `weight`, by a rise over the first `rise` of the run. The teacher
    answers in the end.
    """

    wants, answers, alone, looks = ("unlabelled",), "teacher.twin.", False, 2
    done: torch.Tensor

    def __init__(
        self, model: Supervised, *, steps: int, weight: Weight = 10.0, half_life: Weight = 0.02, rise: Share = 0.3
    ) -> None:
        super().__init__()
        self.trunk, self.head, self.whole = model.trunk, model.head, (model,)
        self.teacher = Average(model, half_life)
        self.weight, self.rise, self.steps = weight, rise, steps
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Mixed) -> dict[str, torch.Tensor]:
        """Both losses, weighted."""
        (model,), teacher = self.whole, self.teacher.twin
        assert batch.unlabelled is not None and isinstance(teacher, Supervised)
        mine = torch.sigmoid(model.answer(batch.unlabelled.x[0], batch.unlabelled.told).float())
        with torch.no_grad():
            told = torch.sigmoid(teacher.answer(batch.unlabelled.x[1], batch.unlabelled.told).float())
        agreement = (mine - told).square().mean()
        weight = self.weight * rising(int(self.done), self.rise * self.steps)
        return {**model(batch.labelled), "agreement": weight * agreement}

    def after_step(self, steps: int) -> None:
        """Nothing; the teacher has moved."""
        self.teacher.follow(self.whole[0], steps)
        self.done += 1

    def rate_of(self, name: str) -> float:
        """As the network's."""
        return self.whole[0].rate_of(name)

    def picture(self, batch: Mixed) -> dict[str, torch.Tensor]:
        """Labelled views."""
        return self.whole[0].picture(batch.labelled)


def rising(step: int, length: float) -> float:
    """exp(-5 (1 - t)^2), from almost nothing to 1 at t = 1, after `length` steps."""
    return math.exp(-5 * (1 - min(step / length, 1)) ** 2) if length > 0 else 1.0
