"""Lesions: how likely each voxel is of one, by a U-Net decoder on the trunk's pyramid."""

from __future__ import annotations

from typing import Literal

import torch
from monai.losses import DiceLoss
from torch import nn
from torch.nn import functional

from medssl.processes import gathered
from medssl.recipe import Count, Share, Weight
from medssl.trunks import Features, Trunk
from medssl.trunks.decoder import Decoder
from medssl.trunks.resenc import CONV


class Detect(nn.Module):
    """A logit for each voxel. `lesions` are the numbers of the label map that are lesions (empty: all above 0).

    `loss` "focal" is the cross-entropy of which each voxel counts by how wrong it is, to the power of `gamma` (Lin et al.,
    ICCV 2017, arXiv:1708.02002), lesions by `alpha` and the rest by 1 - `alpha`; "dice" is the mean of soft Dice and plain
    cross-entropy. Scans without a lesion are learned from as well: their Dice counts what is found there.
    `by` says how candidates are made of the probabilities (see candidates.py).
    """

    target = "mask"

    def __init__(
        self,
        trunk: Trunk,
        *,
        lesions: tuple[Count, ...] = (),
        loss: Literal["focal", "dice"] = "focal",
        gamma: Weight = 1.0,
        alpha: Share = 0.75,
        by: Literal["dynamic", "dynamic-fast"] = "dynamic",
    ) -> None:
        super().__init__()
        self.lesions, self.by, self.kind, self.gamma, self.alpha = lesions, by, loss, gamma, alpha
        self.decoder = Decoder(trunk)
        self.last = CONV[trunk.dims](self.decoder.width, 1, 1)
        self.dice = DiceLoss(sigmoid=True, batch=True)

    def forward(self, features: Features, size: tuple[int, ...]) -> torch.Tensor:
        """Logits (B, *size)."""
        return self.last(self.decoder(features, size))[:, 0]

    def lesion(self, labels: torch.Tensor) -> torch.Tensor:
        """Which voxels of a label map (any shape, whole numbers) are of a lesion."""
        if not self.lesions:
            return labels > 0
        return torch.isin(labels, torch.tensor(self.lesions, dtype=labels.dtype, device=labels.device))

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss against label maps (B, *S). Dice is of all scans of a step: each process is shown all."""
        logits, truth = logits.float(), self.lesion(target).float()
        each = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        if self.kind == "focal":
            wrong = 1 - torch.exp(-each)
            share = torch.where(truth > 0, self.alpha, 1 - self.alpha)
            return (share * wrong.pow(self.gamma) * each).mean()
        scans = len(logits)
        overlap = self.dice(gathered(logits, scans)[:, None], gathered(truth, scans)[:, None])
        return (overlap + each.mean()) / 2
