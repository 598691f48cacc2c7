"""Only biases and norms move."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, kw_only=True)
class Biases:
    """Of the trunk only vectors move: biases, and what its norms scale by (BitFit: Ben Zaken et al., ACL 2022,
    arXiv:2106.10199). Differs: the norms' scales move as well, because convolutions here have no biases.
    """

    def begin(self, trunk: nn.Module) -> None:
        """Nothing is learned beside it; matrices and kernels stand still."""
        for parameter in trunk.parameters():
            parameter.requires_grad_(parameter.ndim == 1)

    def rate_of(self, name: str, trunk: nn.Module) -> float:
        """As the head."""
        return 1.0
