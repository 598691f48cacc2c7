"""What will become of an eye or a lesion, from how it looks and how it changed over the visits so far."""

# N visits of all scans, B scans (each a series), T visits at most, E features
from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from medssl.heads.classify import Drop, mean_and_peak
from medssl.heads.covariates import Covariates
from medssl.recipe import Count, Share, Weight
from medssl.trunks import Features, Trunk
from medssl.views.history import NOTHING, Series, Told

DAYS_A_YEAR = 365.25


class Forecast(nn.Module):
    """A logit for `label`, a 0/1 column of the labels table, from at most `visits` visits and from `covariates`, names of
    numbers among the store's columns and labels (see covariates.py).

    Of the last visit the features are read (the level) and of all visits the slope of each feature by year (the trend). The
    slope is taken of normalised features, so that how fast something changed is still seen in it. `ends` and `within_days`
    say which visits make a series, and with them that nobody looks into the future (see views/history.py).
    """

    def __init__(
        self,
        trunk: Trunk,
        *,
        label: str,
        visits: Count = 2,
        ends: Literal["first", "each"] = "first",
        within_days: Weight = 0.0,
        covariates: tuple[str, ...] = (),
        drop: Share = 0.2,
    ) -> None:
        super().__init__()
        self.label = self.target = label
        self.series = Series(visits, ends, within_days)
        self.covariates = Covariates(covariates, label)
        self.norm = nn.LayerNorm(2 * trunk.dim)
        self.last = nn.Sequential(Drop(drop), nn.Linear(4 * trunk.dim + self.covariates.width, 1))

    def forward(self, features: Features, size: tuple[int, ...], told: Told = NOTHING) -> torch.Tensor:
        """Logits (B,) of the features of the visits that there are, scan after scan, the oldest first. Without days each is
        a series of its own.
        """
        seen = self.norm(mean_and_peak(features))
        days = told.days if told.days.numel() else seen.new_zeros(len(seen), 1)
        visits = seen.new_zeros(*days.shape, seen.shape[1])
        visits[days.isfinite()] = seen
        drop, line = self.last
        both = drop(torch.cat([visits[:, -1], slope(visits, days)], 1))
        return line(torch.cat([both, self.covariates(told.covariates, len(both))], 1))[:, 0]

    def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Binary cross-entropy with labels (B,) in {0, 1}."""
        return functional.binary_cross_entropy_with_logits(logits.float(), target)


def slope(values: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
    """How much each of `values` (B, T, E) grows a year: the line of least squares (B, E); 0 for visits of one day only.

    `days` (B, T) are those before the last visit, nan where there was none, of which the values do not count.
    """
    there = days.isfinite()
    years = torch.where(there, -days / DAYS_A_YEAR, 0.0)
    middle = years.sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp(min=1)
    apart = torch.where(there, years - middle, 0.0)[..., None]
    square = apart.square().sum(1)
    rise = (apart * (values - values[:, -1:])).sum(1)  # of all values one may be taken off: what is apart adds up to 0
    return torch.where(square > 0, rise / square.clamp(min=torch.finfo(square.dtype).tiny), 0.0)
