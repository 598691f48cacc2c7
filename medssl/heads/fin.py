"""Features normalised by the group that a patient belongs to."""

# B scans, E features, G groups
from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from medssl.errors import UserError

LEAST_SPREAD = 1e-3
"""No spread is smaller: nothing is divided by 0."""


class Fin(nn.Module):
    """Features less the mean of their group, over its spread; both are learned, and begin as 0 and 1 for all.

    Fair identity normalisation, Luo et al. (Harvard-GF), IEEE Transactions on Medical Imaging 2024. `by` names one column of
    the store and its groups. A scan of no known group, or of one that is not named, is normalised by the pooled numbers: the
    mean of the groups', by how many training scans each has. Differs by that, and by beginning as a head without it.
    A group has to be told with every scan that is predicted: who uses it lets the score depend on it.
    """

    shares: torch.Tensor

    def __init__(self, by: Mapping[str, tuple[str, ...]], width: int) -> None:
        super().__init__()
        if len(by) > 1:
            raise UserError(f"head.fin: {', '.join(by)} are {len(by)} columns; name one")
        self.column, self.groups = next(iter(by.items())) if by else ("", ())
        if by and len(set(self.groups)) < len(self.groups):
            raise UserError(f"head.fin: {self.column} names a group twice: {list(self.groups)}; name each once")
        if by and not self.groups:
            raise UserError(f"head.fin: {self.column} names no group; name those to tell apart, e.g. [F, M]")
        if by:  # a head without it has the weights that it always had
            self.mean = nn.Parameter(torch.zeros(len(self.groups), width))
            self.spread = nn.Parameter(torch.zeros(len(self.groups), width))
            self.register_buffer("shares", torch.full((len(self.groups),), 1 / len(self.groups)))

    def learn(self, groups: torch.Tensor) -> None:
        """Nothing; the pooled numbers are those of training scans of so many of each group (N, 1), nan where unknown. Raises
        UserError for a group of which there is none.
        """
        for number, name in enumerate(self.groups):
            if not (groups == number).any():
                raise UserError(f"head.fin: no training volume has {self.column} {name!r}; leave it out of the groups")
        if self.groups:
            known = groups[groups.isfinite()].long()
            self.shares.copy_(torch.bincount(known, minlength=len(self.groups)) / len(known))

    def forward(self, features: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        """Normalised features (B, E) of scans in `groups` (B, 1), their numbers, nan where unknown. Raises UserError where
        nothing is told of a group at all, which is not the same as none being known.
        """
        if not self.groups:
            return features
        if groups.shape != (len(features), 1):
            raise UserError(f"head.fin: {self.column} must be told of each scan; predict from a store")
        known = groups.isfinite()
        own = functional.one_hot(groups.nan_to_num().long()[:, 0], len(self.groups)).to(self.mean)
        weight = torch.where(known, own, self.shares)
        # The logarithm of e - 1 makes a spread of 1 of a 0, so that weight decay pulls towards a head without it.
        spread = functional.softplus(self.spread + math.log(math.e - 1))
        return (features - weight @ self.mean) / (weight @ spread).clamp(min=LEAST_SPREAD)
