"""The health of a trunk's weights and tokens, which needs no label and hardly any data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from medssl.probe.rank import dead_filters, variety
from medssl.trunks import Trunk
from medssl.views import Steps

MOST_DEAD, LEAST_VARIETY = 0.1, 0.5
"""Share of dead filters above which, and variety of kernels below which, a layer is degenerate."""

ALIKE = 0.6
"""Mean |cosine| between the tokens of a scan from which on they are said to be smoothed over."""

SCANS, TOKENS = 16, 256
"""Scans whose tokens are compared, and tokens of each."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution whose kernels are larger than one voxel. `variety` is that of its kernels over that of random ones."""

    name: str
    filters: int
    dead: float
    variety: float

    @property
    def degenerate(self) -> bool:
        """Whether much of it does nothing, or says few things."""
        return self.dead > MOST_DEAD or self.variety < LEAST_VARIETY


def layers_of(trunk: nn.Module) -> tuple[Layer, ...]:
    """The health card: a layer each, from the input on.

    Gavrikov and Keuper, CVPR 2022, arXiv:2203.15331. Differs: variety is held against random kernels of the same shape, in
    place of a fitted threshold, so that 3D kernels and layers with few of them are judged fairly.
    """
    found = []
    for name, module in trunk.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d) and max(module.kernel_size) > 1:
            weight = module.weight.detach().float().cpu().numpy()
            found.append(Layer(name=name, filters=len(weight), dead=dead_filters(weight), variety=variety(weight)))
    return tuple(found)


def token_similarity(trunk: Trunk, views: Steps) -> float:
    """Mean |cosine| between the last tokens of a scan, over scans: 1 when all say the same. nan of a trunk with a pyramid of
    several strides, whose cells are no tokens.

    The over-smoothing that ToCo measures and cures: Ru et al., CVPR 2023, arXiv:2303.01267.
    """
    if len(set(trunk.strides)) > 1:
        return float("nan")
    device, values = next(trunk.parameters()).device, []  # type: ignore[attr-defined]
    for row in range(min(SCANS, len(views.ids))):
        with torch.no_grad():
            tokens = trunk(views.view_of(row)[None].to(device)).pyramid[-1][0].flatten(1).T.float()
        values.append(mean_similarity(tokens[:: -(-len(tokens) // TOKENS)]))
    return float(np.mean(values))


def mean_similarity(tokens: torch.Tensor) -> float:
    """Mean |cosine| between two different ones of tokens (N, E); nan of fewer than two."""
    if len(tokens) < 2:
        return float("nan")
    unit = functional.normalize(tokens, dim=1)
    cosine = (unit @ unit.T).abs()
    return float((cosine.sum() - cosine.trace()) / (len(tokens) * (len(tokens) - 1)))
