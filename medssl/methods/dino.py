"""Self-distillation: the student's view is to fall into the prototypes that the teacher gives another view.

Caron et al., ICCV 2021, arXiv:2104.14294; KoLeo, which keeps features of different scans apart, as in Oquab et al.,
2023, arXiv:2304.07193. Differs: scans of one patient are not pushed apart (near-duplicates make its logarithm explode);
the projector normalises by layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from medssl.methods.projector import Prototypes
from medssl.methods.relations import same
from medssl.processes import mean
from medssl.recipe import Count, Positive, Weight
from medssl.trunks import Trunk

if TYPE_CHECKING:
    from medssl.methods.method import Bank

CENTRE_MOMENTUM = 0.9
"""How much of the old centre a step keeps."""

TINY_DISTANCE = 1e-4
"""Added to the distance of the nearest neighbour: two equal features have none."""


class DINO(nn.Module):
    """Cross-entropy of the student's prototypes with the teacher's, which are centred and sharper.

    The student sees small views as well, the teacher does not. `centre` is the running mean of the teacher's scores:
    without it one prototype would take all. `koleo` weighs the spreading of features.
    Known: ln(prototypes) when all scores are equal.
    """

    centre: torch.Tensor
    dense, views, taught = False, 2, "score"
    masked, small = False, True
    family, compares = "distilled", "views of a scan with the teacher's of its other views"

    def __init__(
        self,
        trunk: Trunk,
        *,
        weight: Weight = 1.0,
        prototypes: Count = 256,
        temperature: Positive = 0.1,
        teacher_temperature: Positive = 0.04,
        koleo: Weight = 0.0,
    ) -> None:
        super().__init__()
        self.weight, self.koleo = weight, koleo
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.score = Prototypes(trunk.dim, prototypes)
        self.register_buffer("centre", torch.zeros(prototypes))

    def forward(self, bank: Bank) -> torch.Tensor:
        """The weighted loss of one step."""
        student = self.score(bank.every_pooled()) / self.temperature
        told = bank.averaged(self)(bank.features(teacher=True).pooled)
        target = ((told - self.centre) / self.teacher_temperature).softmax(1)
        if self.training:
            self.centre.lerp_(mean(told.mean(0)), 1 - CENTRE_MOMENTUM)
        row, by = torch.arange(len(student), device=student.device), bank.scans
        of_one_scan = row[:, None] % by == row[None, : bank.rows] % by
        of_one_view = row[:, None] // by == row[None, : bank.rows] // by
        loss = distilled(student, target, of_one_scan & ~of_one_view)
        if self.koleo:
            patient = bank.gathered(bank.batch.patient.repeat(bank.rows // bank.scans))
            loss = loss + self.koleo * koleo(bank.gathered(bank.features().pooled), same(patient))
        return self.weight * loss


def distilled(student: torch.Tensor, target: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of logits (R, K) with targets (T, K), over the pairs (R, T) that are True."""
    with torch.autocast(student.device.type, enabled=False):  # a sum over many prototypes, of small numbers
        cross = -student.float().log_softmax(1) @ target.float().T
    return cross[pairs].mean()


def koleo(x: torch.Tensor, ignore: torch.Tensor) -> torch.Tensor:
    """Minus the mean logarithm of the distance to the nearest neighbour on the unit sphere; 0 where there is none.

    Kozachenko and Leonenko's estimate of entropy; Sablayrolles et al., ICLR 2019, arXiv:1806.03198. `ignore` (R, R) are
    pairs that may be close, a row with itself among them.
    """
    with torch.autocast(x.device.type, enabled=False):
        z = functional.normalize(x.float(), dim=1)
        near = (z @ z.T).masked_fill(ignore, -2.0).argmax(1)
        there = ~ignore.all(1)
        if not there.any():
            return z.sum() * 0
        distance = (z - z[near])[there].norm(dim=1)
        return -(distance + TINY_DISTANCE).log().mean()
