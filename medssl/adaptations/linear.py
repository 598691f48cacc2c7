"""The trunk stands still: the head learns from frozen features."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, kw_only=True)
class Linear:
    """No weight of the trunk moves. With the head classify this is a linear probe trained by steps."""

    def begin(self, trunk: nn.Module) -> None:
        """Nothing is learned beside it; the trunk stands still."""
        trunk.requires_grad_(False)

    def rate_of(self, name: str, trunk: nn.Module) -> float:
        """Not asked: nothing moves."""
        return 0.0
