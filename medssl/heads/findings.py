"""Several findings at once, each yes or no, from pooled features."""

# B scans, L labels
from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from medssl.errors import UserError
from medssl.heads.classify import Drop, mean_and_peak
from medssl.processes import gathered
from medssl.trunks import Features, Trunk


class Findings(nn.Module):
    """A logit for each of `labels`, 0/1 columns of the labels table, which need not be known for every scan.

    With `balance`, those who have a label and those who have it not count half each, by how many of the training scans
    have it; each label as a whole counts as before. Scores are then no longer how likely a label is in these scans.
    """

    weights: torch.Tensor

    def __init__(self, trunk: Trunk, *, labels: tuple[str, ...], drop: float = 0.2, balance: bool = False) -> None:
        super().__init__()
        if not labels or len(set(labels)) < len(labels):
            raise UserError(
                f"head.labels: {list(labels)}; name each label of the labels table once, e.g. [edema, mass]"
            )
        self.labels = self.target = labels
        self.balance = balance
        self.norm = nn.LayerNorm(2 * trunk.dim)
        self.last = nn.Sequential(Drop(drop), nn.Linear(2 * trunk.dim, len(labels)))
        self.register_buffer("weights", torch.ones(2, len(labels)))

    def count(self, shares: Mapping[str, float]) -> None:
        """Nothing; with `balance`, each label weighs by the share of training scans that have it, between 0 and 1."""
        if self.balance:
            have = torch.tensor([shares[label] for label in self.labels])
            self.weights.copy_(0.5 / torch.stack([1 - have, have]))

    def forward(self, features: Features, size: tuple[int, ...]) -> torch.Tensor:
        """Logits (B, L)."""
        return self.last(self.norm(mean_and_peak(features)))

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The mean over known cells of the binary cross-entropy with labels (B, L) in {0, 1}, nan where unknown.

        What is unknown has no slope; where nothing is known the loss is 0. How many cells are known differs between the
        processes of a training: each is shown all.
        """
        scans = len(logits)
        logits, target = gathered(logits.float(), scans), gathered(target, scans)
        known = ~target.isnan()
        truth = torch.where(known, target, 0.0)
        weight = torch.where(truth > 0, self.weights[1], self.weights[0])
        each = weight * functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        return torch.where(known, each, 0.0).sum() / known.sum().clamp(min=1)
