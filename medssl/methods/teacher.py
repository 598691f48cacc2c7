"""A twin of a trunk that follows it as an exponential moving average and never gets a gradient."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn

from medssl.trunks import Features, Trunk


class Teacher(nn.Module):
    """Features from the averaged trunk. `half_life` is the fraction of the run after which half of the old is gone."""

    def __init__(self, trunk: Trunk, half_life: float) -> None:
        super().__init__()
        self.half_life = half_life
        self.twin = copy.deepcopy(cast(nn.Module, trunk)).requires_grad_(False)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> Features:
        """The twin's features of whole views."""
        return self.twin(x)

    @torch.no_grad()
    def follow(self, trunk: Trunk, steps: int) -> None:
        """Nothing; the twin has moved one step of a run of `steps` towards `trunk`."""
        keep = 0.5 ** (1 / max(self.half_life * steps, 1e-6))
        for mine, theirs in zip(self.twin.parameters(), cast(nn.Module, trunk).parameters(), strict=True):
            mine.lerp_(theirs, 1 - keep)
