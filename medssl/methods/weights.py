"""How much each term counts, learned with the rest: a term that is hard to lower comes to count less."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from medssl.errors import UserError
from medssl.processes import mean


class LearnedWeights(nn.Module):
    """Losses L of terms as L / (2 s^2) + ln(1 + s^2), one learned s a term, 1 at first.

    Kendall et al., CVPR 2018, arXiv:1705.07115; the logarithm, which keeps the sum above nought, as in Liebel and Koerner,
    2018, arXiv:1805.06334. Of a loss that stands still, s^2 comes to (L + sqrt(L^2 + 8 L)) / 4.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.spread = nn.ParameterDict({name: nn.Parameter(torch.ones(())) for name in names})

    def forward(self, losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The weighted losses by name. Raises UserError for one below nought, which no weight could bound."""
        weighted = {}
        for name, loss in losses.items():
            if (whole := mean(loss)) < 0:
                raise UserError(f"method.weighing: learned, but {name} is {whole.item():.4g}; a term that may be negative "
                                "(dino with koleo) needs weighing: fixed")  # fmt: skip
            square = self.spread[name].square()
            weighted[name] = loss / (2 * square) + square.log1p()
        return weighted
