"""Contrast of whole views: two views of a scan attract, other scans of the same scanner repel.

Chen et al., ICML 2020, arXiv:2002.05709 (InfoNCE, projector); with a teacher, He et al., CVPR 2020, arXiv:1911.05722.
Differs: negatives come from the same scanner only (see relations); scans of the same patient are never negatives; the
projector normalises by layer, because a batch of volumes is too small for batch statistics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from medssl.methods.relations import info_nce, instance_relation
from medssl.trunks import Trunk

if TYPE_CHECKING:
    from medssl.methods.method import Bank


class Contrast(nn.Module):
    """InfoNCE over pooled features. `masked` contrasts the masked views that a rebuild term uses, in the same forward."""

    dense = False
    views = 2

    def __init__(
        self,
        trunk: Trunk,
        *,
        weight: float = 1.0,
        temperature: float = 0.2,
        width: int = 128,
        same_scanner: bool = True,
        masked: bool = False,
        teacher: bool = False,
    ) -> None:
        super().__init__()
        self.weight, self.temperature, self.same_scanner = weight, temperature, same_scanner
        self.masked, self.teacher = masked, teacher
        self.project = nn.Sequential(
            nn.Linear(trunk.dim, trunk.dim), nn.LayerNorm(trunk.dim), nn.GELU(), nn.Linear(trunk.dim, width)
        )

    def forward(self, bank: Bank) -> torch.Tensor:
        """The weighted loss of one step."""
        batch, copies = bank.batch, bank.rows // bank.scans
        scan = torch.arange(bank.scans, device=batch.patient.device).repeat(copies)
        positive, ignore = instance_relation(
            scan, batch.patient.repeat(copies), batch.scanner.repeat(copies), same_scanner=self.same_scanner
        )
        z = self.project(bank.features(masked=self.masked).pooled)
        if not self.teacher:
            return self.weight * info_nce(z, positive, ignore, self.temperature)
        # The student's rows are compared with the teacher's: stack both and forbid pairs on the same side.
        keys = self.project(bank.features(teacher=True).pooled).detach()
        side = torch.arange(2, device=z.device).repeat_interleave(bank.rows)
        across = side[:, None] != side[None]
        positive, ignore = positive.repeat(2, 2) & across, ignore.repeat(2, 2) | ~across
        positive[bank.rows :] = False
        return self.weight * info_nce(torch.cat([z, keys]), positive, ignore, self.temperature)
