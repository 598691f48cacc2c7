"""Which hidden cell is it: of all that is hidden in a view, find what belongs in each place, told by what is seen.

The discriminative half of Gong et al., AAAI 2022, arXiv:2110.09784 (SSAST): a code made for each hidden cell is compared by
its dot product, without a temperature, with the voxels of every hidden cell of the view. With `rebuild: {weight: 10}` beside
it, both on one masked forward, it is the paper's joint task.
Differs: the code has the cell's own shape and is made by the decoder, voxel by voxel, in place of a perceptron on the
encoder's token, so that any trunk serves, in 2D and 3D; it begins small, because a dot product grows with the number of
voxels, of which a cube of 16 has sixteen times the paper's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from medssl.recipe import Weight
from medssl.trunks import Trunk
from medssl.trunks.decoder import Decoder
from medssl.trunks.resenc import CONV

if TYPE_CHECKING:
    from medssl.methods.method import Bank


class Which(nn.Module):
    """Cross-entropy over hidden cells of which of the view's hidden cells each is.

    Cells of the same voxels, such as air, cannot be told apart; mask.tissue hides others first.
    Known: ln(hidden cells of a view) when nothing is learned.
    """

    dense, views, taught = True, 1, ""
    masked, small = True, False
    family, compares = "masked", "a hidden cell's code with its voxels attracts; other hidden cells of the view repel"

    def __init__(self, trunk: Trunk, *, weight: Weight = 1.0) -> None:
        super().__init__()
        self.weight, self.cell = weight, trunk.cell
        self.head = CONV[trunk.dims](Decoder(trunk).width, trunk.channels, 1)
        with torch.no_grad():
            for parameter in self.head.parameters():
                parameter /= math.sqrt(trunk.channels * math.prod(trunk.cell))

    def forward(self, bank: Bank) -> torch.Tensor:
        """The weighted loss of one step."""
        return self.weight * functional.cross_entropy(*self.asked(bank))

    def asked(self, bank: Bank) -> tuple[torch.Tensor, torch.Tensor]:
        """For each hidden cell the scores of all hidden cells of its view (R * hidden, hidden), and its own number."""
        code, there = (self._hidden(x.float(), bank.mask) for x in (self.head(bank.dense(masked=True)), bank.x_RCS))
        with torch.autocast(code.device.type, enabled=False):
            scores = code @ there.mT
        number = torch.arange(scores.shape[1], device=scores.device)
        return scores.flatten(0, 1), number.repeat(len(scores))

    def _hidden(self, x_RCS: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The hidden cells of each row, each as one vector of its voxels (R, hidden, C * voxels)."""
        return cells(x_RCS, self.cell)[mask.flatten(1)].unflatten(0, (len(x_RCS), -1))


def cells(x: torch.Tensor, cell: tuple[int, ...]) -> torch.Tensor:
    """Views (R, C, *S) as cells in the mask's order, each a vector of its voxels by channel (R, cells, C * voxels)."""
    for axis, voxels in enumerate(cell):  # each axis becomes two: which cell, and where in it
        x = x.unflatten(2 + 2 * axis, (-1, voxels))
    dims = len(cell)
    return x.permute(0, *range(2, 2 + 2 * dims, 2), 1, *range(3, 3 + 2 * dims, 2)).flatten(dims + 1).flatten(1, dims)
