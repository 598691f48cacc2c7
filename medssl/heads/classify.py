"""Yes or no for a scan, from pooled features."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from medssl.heads.covariates import Covariates
from medssl.heads.fin import Fin
from medssl.processes import own, rows_in_all
from medssl.trunks import Features, Trunk
from medssl.views.history import NOTHING, Told


class Drop(nn.Module):
    """Dropout of rows (B, E) of one view of scans, as nn.Dropout, but drawn for the whole batch, of which a process has a
    share: two of them are not to drop the same.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The rows with `share` of their numbers, in training, 0 and the others larger by as much."""
        if not self.training:
            return x
        kept = functional.dropout(x.new_ones(rows_in_all(len(x)), *x.shape[1:]), self.share)
        return x * own(kept, len(x))


def mean_and_peak(features: Features) -> torch.Tensor:
    """Two pooled features side by side (B, 2 E): the mean says how much of a pattern there is, the peak whether it is
    anywhere.
    """
    return torch.cat([features.pooled, features.pyramid[-1].flatten(2).amax(2)], 1)


class Classify(nn.Module):
    """A logit for `label`, a 0/1 column of the labels table, from a scan and from `covariates`, names of numbers among the
    store's columns and labels (see covariates.py). With `fin`, features are normalised by group (see fin.py): one column and
    the groups to tell apart, `{race: [Asian, Black, White]}`.
    """

    def __init__(
        self,
        trunk: Trunk,
        *,
        label: str,
        covariates: tuple[str, ...] = (),
        drop: float = 0.2,
        fin: dict[str, tuple[str, ...]] = {},  # noqa: B006  # never changed
    ) -> None:
        super().__init__()
        self.label = self.target = label
        self.covariates = Covariates(covariates, label)
        self.norm = nn.LayerNorm(2 * trunk.dim)
        self.fin = Fin(fin, 2 * trunk.dim)
        self.last = nn.Sequential(Drop(drop), nn.Linear(2 * trunk.dim + self.covariates.width, 1))

    def forward(self, features: Features, size: tuple[int, ...], told: Told = NOTHING) -> torch.Tensor:
        """Logits (B,)."""
        drop, line = self.last
        seen = drop(self.fin(self.norm(mean_and_peak(features)), told.groups))
        return line(torch.cat([seen, self.covariates(told.covariates, len(seen))], 1))[:, 0]

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Binary cross-entropy with labels (B,) in {0, 1}."""
        return functional.binary_cross_entropy_with_logits(logits.float(), target)
