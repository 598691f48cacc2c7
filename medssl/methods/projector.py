"""The small networks between a trunk's features and a loss. They are thrown away after pretraining."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def projector(before: int, after: int, hidden: int = 0) -> nn.Sequential:
    """Two linear layers with a norm between them. It normalises by layer: a batch of volumes is too small for batch
    statistics.
    """
    width = hidden or before
    return nn.Sequential(nn.Linear(before, width), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, after))


class Prototypes(nn.Module):
    """Scores (R, count) of features (R, dim): a projection to the unit sphere, and its cosine with each prototype.

    All in float32: three digits of bfloat16 are too few at a low temperature.
    """

    def __init__(self, dim: int, count: int, width: int = 64) -> None:
        super().__init__()
        self.project = projector(dim, width)
        self.prototypes = nn.Parameter(nn.init.trunc_normal_(torch.empty(count, width), std=0.02))

    def place(self, x: torch.Tensor) -> torch.Tensor:
        """Where features are on the unit sphere (R, width)."""
        with torch.autocast(x.device.type, enabled=False):
            return functional.normalize(self.project(x.float()), dim=-1)

    def score(self, z: torch.Tensor, pull: float = 1.0) -> torch.Tensor:
        """The cosine of each place on the sphere with each prototype, whose gradient is scaled by `pull`."""
        prototypes = self.prototypes if pull == 1 else self.prototypes.detach().lerp(self.prototypes, pull)
        with torch.autocast(z.device.type, enabled=False):
            return z @ functional.normalize(prototypes, dim=1).T

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The scores."""
        return self.score(self.place(x))
