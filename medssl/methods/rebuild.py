"""Masked rebuild: hide most cells of a view, rebuild their voxels from the rest.

He et al., CVPR 2022, arXiv:2111.06377 (token trunks drop what is hidden) and Xie et al., CVPR 2022, arXiv:2111.09886
(convolutional trunks see a learned value in its place).
With a sparse convolutional trunk (see trunks/resenc.py) this is SparK: Tian et al., ICLR 2023, arXiv:2301.03580. Chest
radiographs want more hidden: Xiao et al., WACV 2023, arXiv:2210.12843.
Differs: 3D cells; one decoder for all kinds of trunk; the target is whitened per cell only on request.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from medssl.recipe import Weight
from medssl.trunks import Trunk
from medssl.trunks.decoder import Decoder
from medssl.trunks.resenc import CONV
from medssl.views.masks import spread

if TYPE_CHECKING:
    from medssl.methods.method import Bank

TINY_VARIANCE = 1e-6
"""Added to a cell's variance before it is divided by: air stays near what it is."""


class Rebuild(nn.Module):
    """Mean squared error over hidden voxels.

    Known: for a guess of 0 the mean square of what is hidden; whitened, (n - 1) / n for cells of n values.
    """

    dense, views, taught = True, 1, ""
    masked, small = True, False
    family, compares = "masked", "hidden voxels with what they were"

    def __init__(self, trunk: Trunk, *, weight: Weight = 1.0, whiten: bool = False) -> None:
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
    """`x` (R, C, *S) with each cell, of all channels together, less its mean and over sqrt(unbiased variance + 1e-6).

    A cell of one value becomes zeros. MAE's "normalised pixels" and SparK's target.
    """
    pool = (nn.functional.avg_pool2d, nn.functional.avg_pool3d)[len(cell) - 2]
    values = x.shape[1] * math.prod(cell)

    def mean(of: torch.Tensor) -> torch.Tensor:
        cells = pool(of, cell).mean(1, keepdim=True)
        for axis, voxels in enumerate(cell):
            cells = cells.repeat_interleave(voxels, dim=axis + 2)
        return cells

    centred = x - mean(x)
    return centred / (mean(centred.square()) * (values / max(values - 1, 1)) + TINY_VARIANCE).sqrt()
