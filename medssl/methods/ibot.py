"""Masked self-distillation: from what is seen, which prototypes the teacher gives to what is hidden.

Zhou et al., ICLR 2022, arXiv:2111.07832; with DINO it is the objective of Oquab et al., 2023, arXiv:2304.07193 (DINOv2).
Differs: cells of a convolutional pyramid serve as well as tokens, where the trunk fills hidden ones from what is seen
(trunk.hide: token); the mean over hidden cells of all rows is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from medssl.methods.dino import CENTRE_MOMENTUM
from medssl.methods.projector import Prototypes
from medssl.processes import mean
from medssl.trunks import Trunk

if TYPE_CHECKING:
    from medssl.methods.method import Bank


class IBOT(nn.Module):
    """Cross-entropy over hidden cells of the student's prototypes with those that the teacher gives the whole view.

    Known: ln(prototypes) when all scores are equal.
    """

    centre: torch.Tensor
    dense, views, taught = False, 1, "score"
    family, compares = "masked", "a hidden cell with the teacher's of the same cell"

    def __init__(
        self,
        trunk: Trunk,
        *,
        weight: float = 1.0,
        prototypes: int = 256,
        temperature: float = 0.1,
        teacher_temperature: float = 0.04,
    ) -> None:
        super().__init__()
        self.weight, self.temperature, self.teacher_temperature = weight, temperature, teacher_temperature
        self.score = Prototypes(trunk.widths[-1], prototypes)
        self.register_buffer("centre", torch.zeros(prototypes))

    def forward(self, bank: Bank) -> torch.Tensor:
        """The weighted loss of one step."""
        student = self.score(bank.hidden(bank.features(masked=True))) / self.temperature
        told = bank.averaged(self)(bank.hidden(bank.features(teacher=True)))
        target = ((told - self.centre) / self.teacher_temperature).softmax(1)
        if self.training:
            self.centre.lerp_(mean(told.mean(0)), 1 - CENTRE_MOMENTUM)
        return -self.weight * (target * student.log_softmax(1)).sum(1).mean()
