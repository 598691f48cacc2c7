"""Whether a crop holds a finding, told by where the finding is: most small crops of a sick patient do not."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from medssl.heads.classify import Drop, mean_and_peak
from medssl.processes import gathered
from medssl.recipe import Count, Share
from medssl.trunks import Features, Trunk


class Present(nn.Module):
    """A logit for each view: whether it holds a finding. `lesions` are the numbers of the label map that are findings
    (empty: all above 0).

    The label of a view is geometry's, not the patient's: 1 with at least `least` voxels of a finding in it, 0 without any;
    of what lies between, an edge that a view cut off, nothing is learned. A volume is as likely to hold one as the likeliest
    of the windows that cover it.
    """

    target = "mask"

    def __init__(self, trunk: Trunk, *, lesions: tuple[Count, ...] = (), least: Count = 20, drop: Share = 0.2) -> None:
        super().__init__()
        self.lesions, self.least = lesions, least
        self.norm = nn.LayerNorm(2 * trunk.dim)
        self.last = nn.Sequential(Drop(drop), nn.Linear(2 * trunk.dim, 1))

    def forward(self, features: Features, size: tuple[int, ...]) -> torch.Tensor:
        """Logits (B,)."""
        return self.last(self.norm(mean_and_peak(features)))[:, 0]

    def found(self, target: torch.Tensor) -> torch.Tensor:
        """Which voxels of a label map (any shape, whole numbers) are of a finding."""
        return torch.isin(target, torch.tensor(self.lesions, device=target.device)) if self.lesions else target > 0

    def labels(self, target: torch.Tensor) -> torch.Tensor:
        """The labels (B,) of views with label maps (B, *S): 1, 0, or nan where too little of a finding is in it."""
        count = self.found(target).flatten(1).sum(1)
        return torch.where(count >= self.least, 1.0, torch.where(count == 0, 0.0, torch.nan))

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The mean binary cross-entropy of the views whose label is known, 0 where none is. How many they are differs
        between the processes of a training: each is shown all.
        """
        scans = len(logits)
        logits, truth = gathered(logits.float(), scans), gathered(self.labels(target), scans)
        known = truth.isfinite()
        each = functional.binary_cross_entropy_with_logits(logits, torch.where(known, truth, 0.0), reduction="none")
        return torch.where(known, each, 0.0).sum() / known.sum().clamp(min=1)
