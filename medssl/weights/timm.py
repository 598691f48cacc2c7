"""ViTs as timm and DINOv2 name their tensors: patch_embed, pos_embed, cls_token, blocks.N.attn.qkv, norm.

Exact, with the recipe's `registers` as many as the file's class and register tokens, `eps` 1e-6 and `heads` as there:
queries, keys and values lie in the same order; a LayerScale (Touvron et al., ICCV 2021, arXiv:2103.17239) multiplies
what a linear layer gives, so it is multiplied into that layer. What ours has no place for (SwiGLU, norms of queries and
keys, relative or rotary positions) is refused, not left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import torch

from medssl.errors import UserError
from medssl.trunks import ViT
from medssl.trunks.vit import resized
from medssl.weights.foreign import Adapting, Harvest, Taken, Tensors, kernel, turned

MARKER = "patch_embed.proj.weight"

PLACELESS = ("cls_token", "reg_token", "register_tokens")
"""Tokens that no patch has, in the order in which they become our registers."""

LEFT = {
    r"mask_token$": "stood for hidden patches while it was pretrained",
    r"(head|fc_norm|pre_logits|decoder\w*|projection\w*|predictor)\b": "a head",
}
"""Names of theirs that no feature depends on, and what they are."""

STANDARD_EPS, STANDARD_HEAD = 1e-6, 64
"""The norms' eps and the width of a head in all that timm and DINOv2 publish."""

BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "mlp.fc1": "linear1",
    "mlp.fc2": "linear2",
    "attn.proj": "self_attn.out_proj",
}
"""Parts of a block: theirs and ours. attn.qkv has no dot before weight and bias in ours."""

SCALES = {"attn.proj": "ls1.gamma", "mlp.fc2": "ls2.gamma"}
"""Which LayerScale follows which linear layer."""


def network(theirs: Tensors, facts: Mapping[str, Any], adapting: Adapting) -> dict[str, Any]:
    """The trunk section of a recipe that is the file's network; its heads are not told, but 64 wide in all known."""
    weight = turned(theirs[MARKER], adapting)
    width = weight.shape[0]
    heads = {"heads": width // STANDARD_HEAD} if width % STANDARD_HEAD == 0 else {}
    return {
        "name": "vit",
        "channels": weight.shape[1],
        "patch": list(weight.shape[2:]),
        "width": width,
        "depth": 1 + max((int(name.split(".")[1]) for name in theirs if re.match(r"blocks\.\d+\.", name)), default=-1),
        **heads,
        "registers": sum(theirs[name].shape[1] for name in PLACELESS if name in theirs),
        "eps": STANDARD_EPS,
    }


def harvest(theirs: Tensors, facts: Mapping[str, Any], trunk: torch.nn.Module, adapting: Adapting) -> Harvest:
    """What our ViT takes of theirs. Raises UserError where the shapes are of another network."""
    vit, found = cast(ViT, trunk), Harvest([])
    weight, how = kernel(theirs[MARKER], vit.embed.weight, adapting, "trunk.patch")
    found.taken.append(Taken("embed.weight", weight, MARKER, how))
    _plain(found, theirs, "embed.bias", "patch_embed.proj.bias")
    if "pos_embed" in theirs:
        _places(found, theirs, vit, adapting)
    _registers(found, theirs, vit)
    for number in range(len(vit.blocks)):
        _block(found, theirs, number, vit.dim)
    for end in ("weight", "bias"):
        _plain(found, theirs, f"norm.{end}", f"norm.{end}")
    for pattern, why in LEFT.items():
        found.left.update({name: why for name in theirs if re.match(pattern, name)})
    heads, eps = vit.blocks[0].self_attn.num_heads, vit.norm.eps  # type: ignore[union-attr]
    if vit.dim != STANDARD_HEAD * int(heads):  # type: ignore[arg-type]
        found.notes.append(f"trunk.heads is {heads}; the file does not say, {vit.dim / STANDARD_HEAD:g} would be usual")
    if eps != STANDARD_EPS:
        found.notes.append(f"trunk.eps is {eps:g}; timm's and DINOv2's weights were trained with {STANDARD_EPS:g}")
    return found


def _plain(found: Harvest, theirs: Tensors, ours: str, name: str) -> None:
    if name in theirs:
        found.taken.append(Taken(ours, theirs[name], name))


def _block(found: Harvest, theirs: Tensors, number: int, width: int) -> None:
    start = f"blocks.{number}."
    if f"{start}attn.qkv.weight" in theirs:
        found.taken.append(
            Taken(f"{start}self_attn.in_proj_weight", theirs[f"{start}attn.qkv.weight"], f"{start}attn.qkv.weight")
        )
        bias = theirs.get(f"{start}attn.qkv.bias")
        none = bias is None
        value = torch.zeros(3 * width) if bias is None else bias
        source = "(no bias there)" if none else f"{start}attn.qkv.bias"
        found.taken.append(Taken(f"{start}self_attn.in_proj_bias", value, source, "zero" if none else ""))
    for part, mine in BLOCK.items():
        scale = theirs.get(start + SCALES[part]) if part in SCALES else None
        for end in ("weight", "bias"):
            name = f"{start}{part}.{end}"
            if name not in theirs:
                continue
            if scale is None:
                found.taken.append(Taken(f"{start}{mine}.{end}", theirs[name], name))
                continue
            value = theirs[name] * (scale[:, None] if end == "weight" else scale)
            gamma = start + SCALES[part]
            found.taken.append(Taken(f"{start}{mine}.{end}", value, f"{name}, {gamma}", "times gamma"))


def _places(found: Harvest, theirs: Tensors, vit: ViT, adapting: Adapting) -> None:
    places = theirs["pos_embed"]
    grid = _square(places.shape[1]) or _square(places.shape[1] - 1)
    if not grid:
        raise UserError(f"pos_embed: {places.shape[1]} places in the file are no square grid; medssl can read no other")
    field = places[:, -grid * grid :].unflatten(1, (grid, grid))
    if adapting.axes == "reversed":
        field = field.transpose(1, 2)
    now = tuple(vit.grid.tolist())
    place, told = resized(field.flatten(1, 2), (grid, grid), now[:2]), []
    if now[:2] != (grid, grid):
        told.append(f"{grid} x {grid} interpolated to {now[0]} x {now[1]}")
    if len(now) == 3:
        place = place[:, :, None].repeat(1, 1, now[2], 1).flatten(1, 2)
        told.append(f"the same along K, {now[2]} times")
        found.notes.append("places say nothing of K: they were learned in pictures, and are equal along it")
    found.taken.append(Taken("place", place, "pos_embed", ", ".join(told)))


def _square(number: int) -> int:
    side = round(number**0.5)
    return side if side > 0 and side * side == number else 0


def _registers(found: Harvest, theirs: Tensors, vit: ViT) -> None:
    """Nothing; their tokens without a place are our registers, or are told to be left where the recipe has none."""
    names = [name for name in PLACELESS if name in theirs]
    tokens = [theirs[name] for name in names]
    if not names:
        return
    there, count = sum(token.shape[1] for token in tokens), 0 if vit.registers is None else vit.registers.shape[1]
    if count not in (0, there):
        raise UserError(f"trunk.registers: {count}, the file has {there} ({', '.join(names)}); set it to that, or 0")
    if not count:
        found.left.update(dict.fromkeys(names, "no place in this trunk"))
        found.notes.append(
            f"{' and '.join(names)} left out: patches attended to them, so the features are not those of the file; "
            f"trunk.registers: {there} keeps them"
        )
        return
    how = []
    if "pos_embed" in theirs and not _square(theirs["pos_embed"].shape[1]):
        tokens[0] = tokens[0] + theirs["pos_embed"][:, :1]  # only the class token has a place of its own there
        how.append("with its entry of pos_embed")
    found.taken.append(Taken("registers", torch.cat(tokens, 1), ", ".join(names), ", ".join(how)))
