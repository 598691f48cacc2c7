"""Masked rebuild: hide most cells of a view, rebuild their voxels from the rest.

He et al., CVPR 2022, arXiv:2111.06377 (token trunks drop what is hidden) and Xie et al., CVPR 2022, arXiv:2111.09886
(convolutional trunks see a learned value in its place).
Differs: 3D cells; one decoder for both kinds of trunk; the target is whitened per cell only on request, and then only
where the cell varies, so that air stays what it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from medssl.trunks import Trunk
from medssl.trunks.decoder import Decoder
from medssl.trunks.resenc import CONV
from medssl.views.masks import spread

if TYPE_CHECKING:
    from medssl.methods.method import Bank

FLAT = 1e-3
"""Standard deviation below which a cell holds nothing but air or noise and is not whitened."""


class Rebuild(nn.Module):
    """Mean squared error over hidden voxels."""

    dense = True
    views = 1

    def __init__(self, trunk: Trunk, *, weight: float = 1.0, whiten: bool = False) -> None:
        super().__init__()
        self.weight, self.whiten, self.cell = weight, whiten, trunk.cell
        self.head = CONV[trunk.dims](Decoder(trunk).width, trunk.channels, 1)

    def forward(self, bank: Bank) -> torch.Tensor:
        """The weighted loss of one step."""
        target = bank.x_RCS
        if self.whiten:
            target = whitened(target, self.cell)
        guess = self.head(bank.dense(masked=True)).float()
        hidden = spread(bank.mask, tuple(target.shape[2:])).expand_as(target)
        return self.weight * (guess - target)[hidden].square().mean()

    def draw(self, bank: Bank) -> dict[str, torch.Tensor]:
        """What was left to see, and the view with its hidden part as rebuilt, (R, *S) each."""
        hidden = spread(bank.mask, tuple(bank.x_RCS.shape[2:]))
        guess = self.head(bank.dense(masked=True)).float()
        low = bank.x_RCS.amin()
        return {
            "seen": torch.where(hidden, low, bank.x_RCS)[:, 0],
            "rebuilt": torch.where(hidden, guess, bank.x_RCS)[:, 0],
        }


def whitened(x: torch.Tensor, cell: tuple[int, ...]) -> torch.Tensor:
    """`x` (R, C, *S) with zero mean and unit spread in each cell; cells flatter than FLAT only lose their mean."""
    pool = (nn.functional.avg_pool2d, nn.functional.avg_pool3d)[len(cell) - 2]

    def mean(values: torch.Tensor) -> torch.Tensor:
        cells = pool(values, cell)
        for axis, voxels in enumerate(cell):
            cells = cells.repeat_interleave(voxels, dim=axis + 2)
        return cells

    centred = x - mean(x)
    spread_of_cell = mean(centred.square()).sqrt()
    return centred / torch.where(spread_of_cell > FLAT, spread_of_cell, torch.ones_like(spread_of_cell))
