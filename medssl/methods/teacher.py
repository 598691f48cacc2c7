"""A twin of a module that follows it as an exponential moving average and never gets a gradient."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class Average(nn.Module):
    """What the averaged module makes of its input. `half_life` is the fraction of the run after which half of the old is
    gone: a raw momentum would mean something else for every length of run.
    """

    def __init__(self, module: nn.Module, half_life: float) -> None:
        super().__init__()
        self.half_life = half_life
        self.twin = copy.deepcopy(module).requires_grad_(False)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> Any:
        """The twin's output."""
        return self.twin(x)

    @torch.no_grad()
    def follow(self, module: nn.Module, steps: int) -> None:
        """Nothing; the twin has moved one step of a run of `steps` towards `module`."""
        keep = 0.5 ** (1 / max(self.half_life * steps, 1e-6))
        for mine, theirs in zip(self.twin.parameters(), module.parameters(), strict=True):
            mine.lerp_(theirs, 1 - keep)
