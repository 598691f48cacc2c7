"""Matrices of low rank are learned and added to the trunk's, which stand still (LoRA)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from medssl.adaptations.layers import layer_of, layers_of
from medssl.recipe import Count, Positive

UP, DOWN = "up.", "down."


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """Beside every matrix and kernel within the trunk's layers, `rank` directions are learned; they count `alpha` / rank.

    Hu et al., ICLR 2022, arXiv:2106.09685. At first they add nothing. A kernel is the matrix of its outputs by all that it
    reads. Differs: no dropout of what they read, so that a trained model is the trunk with the sums in place of its weights,
    which is how it is read back: a prediction costs nothing more.
    """

    rank: Count = 8
    alpha: Positive = 16.0

    def begin(self, trunk: nn.Module) -> Added:
        """What is learned; the trunk stands still."""
        trunk.requires_grad_(False)
        last = len(layers_of(trunk))
        wide = {n: p for n, p in trunk.named_parameters() if p.ndim > 1 and 1 <= layer_of(n, trunk) <= last}
        return Added(wide, self.rank, self.alpha)

    def rate_of(self, name: str, trunk: nn.Module) -> float:
        """Not asked: nothing of the trunk moves."""
        return 0.0


class Added(nn.Module):
    """What is added to the `weights` of a trunk, by their names: up (outputs, rank) times down (rank, all that is read)."""

    share: torch.Tensor

    def __init__(self, weights: Mapping[str, torch.Tensor], rank: int, alpha: float) -> None:
        super().__init__()
        self.register_buffer("share", torch.tensor(alpha / rank))
        flat = {_word(name): weight.flatten(1).shape for name, weight in weights.items()}
        self.up = nn.ParameterDict({name: torch.zeros(out, min(rank, out, read)) for name, (out, read) in flat.items()})
        self.down = nn.ParameterDict({
            name: torch.randn(min(rank, out, read), read) / read**0.5 for name, (out, read) in flat.items()
        })  # fmt: skip

    def sums(self, trunk: nn.Module) -> dict[str, torch.Tensor]:
        """The trunk's weights with what is learned, by name."""
        found = {}
        for word, up in self.up.items():
            weight = trunk.get_parameter(_name(word))
            found[_name(word)] = weight + _product(up, self.down[word], self.share, weight)
        return found


def merged(tensors: Mapping[str, torch.Tensor], trunk: str, added: str) -> dict[str, torch.Tensor]:
    """The tensors of a model in which the trunk's weights, whose names begin with `trunk`, are as with what was learned
    beside them (`added`), which is left out. The same tensors where there is none.
    """
    found = {name: value for name, value in tensors.items() if not name.startswith(added)}
    for name, up in tensors.items():
        if name.startswith(added + UP):
            word = name.removeprefix(added + UP)
            weight = trunk + _name(word)
            more = _product(up, tensors[added + DOWN + word], tensors[added + "share"], found[weight])
            found[weight] = found[weight] + more
    return found


def _product(up: torch.Tensor, down: torch.Tensor, share: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (share * (up @ down)).view(weight.shape).to(weight.dtype)


def _word(name: str) -> str:
    """A weight's name as that of a parameter, which may have no dots."""
    return name.replace(".", "/")


def _name(word: str) -> str:
    return word.replace("/", ".")
