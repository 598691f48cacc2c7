"""Memory for time: blocks that keep only what they are given and are computed again on the way back.

Chen et al. 2016, arXiv:1604.06174 (gradient checkpointing). The numbers are the same bits as without, and a step takes about
one more forward. Differs: a piece is always one block, whatever the depth; torch's non-reentrant checkpoint does the work.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from medssl.errors import UserError
from medssl.trunks.cswin import Block
from medssl.trunks.resenc import Residual

BLOCKS = Residual, nn.TransformerEncoderLayer, Block
"""What is computed again: it is given little beside what it makes within. Decoders are of these blocks, too."""


def recompute(model: nn.Module) -> None:
    """Nothing; every block of `model` keeps only its input for the way back. Twice is as once.

    Names of weights stay as they are. Raises UserError when the model has no such block.
    """
    blocks = [block for block in model.modules() if isinstance(block, BLOCKS)]
    if not blocks:
        raise UserError("recompute: true, but the trunk has no blocks that can be computed again; leave it out")
    for block in blocks:
        if "forward" not in vars(block):
            block.forward = partial(_again, block.forward)  # type: ignore[method-assign]


def _again(forward: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """What `forward` gives. Without gradients (a teacher, a look, a picture) there is no way back to keep anything for."""
    if not torch.is_grad_enabled():
        return forward(*given, **named)
    return checkpoint(forward, *given, use_reentrant=False, **named)
