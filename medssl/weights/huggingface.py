"""ViTs as Hugging Face's transformers names their tensors (RAD-DINO's and other Dinov2 and ViT models), by timm's names.

The older names, which published files have, and those of transformers 5. Queries, keys and values lie apart there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from medssl.weights import timm
from medssl.weights.foreign import Adapting, Harvest, Tensors

MARKER = "embeddings.patch_embeddings.projection.weight"

NAMES = (
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"embeddings\.position_embeddings$", "pos_embed"),
    (r"embeddings\.", ""),
    (r"layernorm\.", "norm."),
    (r"(pooler|classifier)\.", r"head.\1."),
    (r"(?:encoder\.layer|layers)\.(\d+)\.", r"blocks.\1."),
)
"""How names begin, theirs and timm's; the first that fits is it."""

IN_A_BLOCK = (
    (r"layernorm_before\.", "norm1."),
    (r"layernorm_after\.", "norm2."),
    (r"attention\.(?:attention\.)?(query|key|value)\.", r"attn.\1."),
    (r"attention\.([qkv])_proj\.", r"attn.\1."),
    (r"attention\.(?:output\.dense|o_proj)\.", "attn.proj."),
    (r"layer_scale([12])\.lambda1$", r"ls\1.gamma"),
    (r"intermediate\.dense\.", "mlp.fc1."),
    (r"output\.dense\.", "mlp.fc2."),
)

APART = (("query", "key", "value"), ("q", "k", "v"))


def renamed(theirs: Tensors) -> tuple[Tensors, dict[str, str]]:
    """The tensors by timm's names, queries, keys and values in one, and the names that each had."""
    named = {_timm_name(name): name for name in theirs}
    found = {name: theirs[old] for name, old in named.items()}
    for start, end in {(m[1], m[2]) for name in named if (m := re.fullmatch(r"(.*attn\.)(?:query|q)\.(\w+)", name))}:
        for three in APART:
            parts = [f"{start}{part}.{end}" for part in three]
            if all(part in found for part in parts):
                whole = f"{start}qkv.{end}"
                found[whole] = torch.cat([found.pop(part) for part in parts])
                named[whole] = ", ".join(named.pop(part) for part in parts)
    return found, named


def _timm_name(name: str) -> str:
    for pattern, new in NAMES:
        if re.match(pattern, name):
            name = re.sub(f"^{pattern}", new, name)
            break
    block = re.fullmatch(r"(blocks\.\d+\.)(.*)", name)
    if block is None:
        return name
    for pattern, new in IN_A_BLOCK:
        if re.match(pattern, block[2]):
            return block[1] + re.sub(f"^{pattern}", new, block[2])
    return name


def network(theirs: Tensors, facts: Mapping[str, Any], adapting: Adapting) -> dict[str, Any]:
    """The trunk section of a recipe that is the file's network, as in timm.py."""
    return timm.network(renamed(theirs)[0], facts, adapting)


def harvest(theirs: Tensors, facts: Mapping[str, Any], trunk: torch.nn.Module, adapting: Adapting) -> Harvest:
    """What our ViT takes of theirs; see timm.py. Raises UserError where the shapes are of another network."""
    tensors, named = renamed(theirs)
    found = timm.harvest(tensors, facts, trunk, adapting)
    taken = [
        replace(one, source=", ".join(named.get(part, part) for part in one.source.split(", "))) for one in found.taken
    ]
    left = {named.get(name, name): why for name, why in found.left.items()}
    return Harvest(taken, left, [*found.notes, "config.json beside the file says heads and layer_norm_eps (trunk.eps)"])
