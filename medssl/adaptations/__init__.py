"""How much of a pretrained trunk moves with the labels, from nothing to everything. Each way works on any trunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import nn

from medssl.adaptations.biases import Biases
from medssl.adaptations.full import Full
from medssl.adaptations.linear import Linear
from medssl.adaptations.low_rank import Added, LowRank
from medssl.errors import UserError
from medssl.recipe import make, section_of


class Adaptation(Protocol):
    """A way to adapt. What it freezes no longer asks for gradients."""

    def begin(self, trunk: nn.Module) -> Added | None:
        """What is learned beside the trunk, if anything; the trunk, which holds the weights it starts from, is ready."""

    def rate_of(self, name: str, trunk: nn.Module) -> float:
        """The share of the learning rate at which the trunk's weight of that name moves."""


ADAPTATIONS: dict[str, Callable[..., Adaptation]] = {
    "full": Full,
    "linear": Linear,
    "biases": Biases,
    "low_rank": LowRank,
}

__all__ = ["ADAPTATIONS", "Adaptation", "Added", "build_adaptation"]


def build_adaptation(section: Mapping[str, Any]) -> Adaptation:
    """The way that a recipe's `adapt` section names; without a name all of the trunk moves."""
    settings = section_of(section, "adapt")
    name = settings.pop("name", "full")
    if name not in ADAPTATIONS:
        raise UserError(f"adapt.name: no way called {name!r}; there are: {', '.join(ADAPTATIONS)}")
    return make(ADAPTATIONS[name], settings, "adapt")
