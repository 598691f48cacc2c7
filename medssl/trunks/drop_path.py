"""Stochastic depth: in training, what a block adds is now and then left out, for one scan and not for another.

Huang et al., ECCV 2016, arXiv:1603.09382; its share rises with depth, from none in the first block.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from medssl.processes import own, rows_in_all


class DropPath(nn.Module):
    """What a block adds to its rows (B, ...): in training 0 for `share` of the rows, and larger by as much for the others.

    It has no weights. It is drawn for the whole batch, of which a process has a share: two of them are not to drop the same.
    The draw is that of one process where a scan has one view, as with labels.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The rows, some of them 0."""
        if not self.training or not self.share:
            return x
        kept = functional.dropout(x.new_ones(rows_in_all(len(x)), *[1] * (x.ndim - 1)), self.share)
        return x * own(kept, len(x))


def rising(share: float, depth: int) -> list[float]:
    """The share of each of `depth` blocks: from 0 in the first, by equal steps, to `share` in the last."""
    return [share * block / max(depth - 1, 1) for block in range(depth)]
