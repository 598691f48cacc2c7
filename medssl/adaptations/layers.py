"""The layers of a trunk, from the image to the features: blocks of a transformer, levels of a pyramid."""

from __future__ import annotations

from torch import nn


def layers_of(trunk: nn.Module) -> list[tuple[str, ...]]:
    """The beginnings of the names of each layer's weights. Of a trunk's lists, entries of one place are of one layer."""
    lists = {name: len(part) for name, part in trunk.named_children() if isinstance(part, nn.ModuleList)}
    depth = max(lists.values(), default=0)
    return [tuple(f"{name}.{n}." for name, length in lists.items() if n < length) for n in range(depth)]


def layer_of(name: str, trunk: nn.Module) -> int:
    """The layer, from 1 to L, of a weight of the trunk; 0 before the first, and L + 1 for a norm after the last."""
    layers = layers_of(trunk)
    for number, beginnings in enumerate(layers, 1):
        if name.startswith(beginnings):
            return number
    return len(layers) + 1 if name.startswith("norm.") else 0
