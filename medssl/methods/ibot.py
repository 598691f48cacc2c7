"""Masked self-distillation: from what is seen, which prototypes the teacher gives to what is hidden.

Zhou et al., ICLR 2022, arXiv:2111.07832; with DINO it is the objective of Oquab et al., 2023, arXiv:2304.07193 (DINOv2).
Differs: cells of a convolutional pyramid serve as well as tokens, where the trunk fills hidden ones from what is seen
(trunk.hide: token); the mean over hidden cells of all rows is taken; the teacher's scores are centred at each place of the
view, because a convolution knows by its padding where a cell is, and on noise it made its prototypes of places alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from medssl.errors import UserError
from medssl.methods.dino import CENTRE_MOMENTUM
from medssl.methods.projector import Prototypes
from medssl.processes import mean, rows_in_all
from medssl.recipe import Count, Positive, Weight
from medssl.trunks import Trunk

if TYPE_CHECKING:
    from medssl.methods.method import Bank


class IBOT(nn.Module):
    """Cross-entropy over hidden cells of the student's prototypes with those that the teacher gives the whole view.

    `centred` "place" takes from the teacher's scores of a cell their mean over the rows of the step at that place; "all",
    as in the paper, the running mean over hidden cells anywhere.
    Known: ln(prototypes) when all scores are equal.
    """

    centre: torch.Tensor
    dense, views, taught = False, 1, "score"
    masked, small = True, False
    family, compares = "masked", "a hidden cell with the teacher's of the same cell"

    def __init__(
        self,
        trunk: Trunk,
        *,
        weight: Weight = 1.0,
        prototypes: Count = 256,
        temperature: Positive = 0.1,
        teacher_temperature: Positive = 0.04,
        centred: Literal["place", "all"] = "place",
    ) -> None:
        super().__init__()
        self.weight, self.temperature, self.teacher_temperature = weight, temperature, teacher_temperature
        self.centred = centred
        self.score = Prototypes(trunk.widths[-1], prototypes)
        self.register_buffer("centre", torch.zeros(prototypes))

    def forward(self, bank: Bank) -> torch.Tensor:
        """The weighted loss of one step."""
        student = self.score(bank.hidden(bank.features(masked=True))) / self.temperature
        target = (self.told(bank) / self.teacher_temperature).softmax(2)[bank.mask.flatten(1)]
        return -self.weight * (target * student.log_softmax(1)).sum(1).mean()

    def told(self, bank: Bank) -> torch.Tensor:
        """The teacher's scores of every cell of the whole views (R, cells, prototypes), centred."""
        if self.centred == "place" and rows_in_all(bank.rows) < 2:
            raise UserError(
                "pretrain.batch: 1 view, but ibot centres over views; use more, or method.ibot.centred: all"
            )
        cells = bank.features(teacher=True).pyramid[-1].flatten(2).transpose(1, 2)
        scores = bank.averaged(self)(cells)
        usual = mean(scores.mean(0)) if self.centred == "place" else self.centre.clone()
        if self.training:
            self.centre.lerp_(mean(scores[bank.mask.flatten(1)].mean(0)), 1 - CENTRE_MOMENTUM)
        return scores - usual
