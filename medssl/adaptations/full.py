"""All of the trunk moves; with `decay`, layers nearer to the image move less."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from medssl.adaptations.layers import layer_of, layers_of
from medssl.recipe import Share


@dataclass(frozen=True, kw_only=True)
class Full:
    """Every weight moves, at `decay` to the power of how many layers lie above it, the head's being 1.

    Bao et al., ICLR 2022, arXiv:2106.08254; .55 for chest radiographs with a ViT (Xiao et al., WACV 2023,
    arXiv:2210.12843). What comes before the first of L layers is layer 0, what comes after the last is with the head.
    """

    decay: Share = 1.0

    def begin(self, trunk: nn.Module) -> None:
        """Nothing is learned beside it."""

    def rate_of(self, name: str, trunk: nn.Module) -> float:
        """decay^(L + 1 - layer)."""
        return self.decay ** (len(layers_of(trunk)) + 1 - layer_of(name, trunk))
