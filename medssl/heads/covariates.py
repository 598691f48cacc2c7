"""Numbers about a patient or a visit (age, pressure, visual field) as further inputs of a head."""

# B scans, Q covariates, N training scans
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from medssl.errors import UserError


class Covariates(nn.Module):
    """Numbers by their names, of mean 0 and spread 1 over the scans that were learned from, which the weights keep; and 1
    for each that is known, 0 for one that is not, whose number then is 0.

    Standardised numbers far beyond those learned from are what they are: the head goes on in a straight line.
    """

    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(self, names: Sequence[str], label: str = "") -> None:
        super().__init__()
        if label in names:
            raise UserError(f"head.covariates: {label!r} is the label itself; leave it out")
        if twice := sorted(name for name in set(names) if list(names).count(name) > 1):
            raise UserError(f"head.covariates: {twice[0]!r} is named twice; name it once")
        self.names = tuple(names)
        self.width = 2 * len(names)
        if names:  # a head without any has the weights that it always had
            self.register_buffer("mean", torch.zeros(len(names)))
            self.register_buffer("spread", torch.ones(len(names)))

    def learn(self, values: torch.Tensor) -> None:
        """Nothing; mean and spread are those of `values` (N, Q), of each what is known. Raises UserError for one of which
        nothing is known, or that is the same for all.
        """
        for number, name in enumerate(self.names):
            known = values[:, number][values[:, number].isfinite()].double().numpy()
            if not known.size or known.min() == known.max():
                told = f"has the one value {known[0]:g} for" if known.size else "is known of none of"
                raise UserError(f"head.covariates: {name} {told} all {len(values)} training volumes; leave it out")
            self.mean[number], self.spread[number] = float(np.mean(known)), float(np.std(known))

    def forward(self, values: torch.Tensor, scans: int) -> torch.Tensor:
        """Standardised numbers, then whether each is known (B, 2 Q), of values (B, Q) of so many scans. Raises UserError
        where nothing is told at all, which is not the same as nothing being known.
        """
        if not self.names:
            return values.new_zeros(scans, 0)
        if values.shape != (scans, len(self.names)):
            raise UserError(f"head.covariates: {', '.join(self.names)} must be told of each scan; predict from a store")
        known = values.isfinite()
        return torch.cat([torch.where(known, (values - self.mean) / self.spread, 0.0), known.to(values)], 1)
