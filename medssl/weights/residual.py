"""Residual encoders as nnU-Net and nnssl name their tensors: stem.convs.0, stages.S.blocks.B.conv1, conv2, skip.

Exact, with the recipe's `stem: true` and `depths`, `widths` and `strides` as there. Their convolutions have a bias before
an instance norm, which takes a constant off each channel again: it is left out coming in, and zero going out.
Each of their layers has two names, .conv and .norm, and .all_modules.N by which it is run; where the two differ, which
sparse pretraining has been seen to do, the one that is run is taken.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from medssl.errors import UserError
from medssl.trunks import ResEnc
from medssl.weights.foreign import Adapting, Harvest, Taken, Tensors, kernel, turned

MARKER = "stem.convs.0.conv.weight"

RUN_AS = {"conv": "all_modules.0", "norm": "all_modules.1"}
"""A layer's two names in theirs: by what it is, and by its place in what is run."""


RESENC_L: dict[str, Any] = {
    "features_per_stage": [32, 64, 128, 256, 320, 320],
    "n_blocks_per_stage": [1, 3, 4, 6, 6, 6],
    "kernel_sizes": [[3, 3, 3]] * 6,
    "strides": [[1, 1, 1]] + [[2, 2, 2]] * 5,
}
"""The network that nnssl and nnU-Net call ResEncL, so that theirs of that name is built."""


class Unit(NamedTuple):
    """A convolution and its norm, by their names in ours, and that of both in theirs."""

    conv: str
    norm: str
    theirs: str


def units(trunk: ResEnc) -> Iterator[Unit]:
    """The convolutions of our encoder, in the order in which they are run. Raises UserError for another layout."""
    if trunk.stem is None:
        raise UserError("trunk.stem: false; nnU-Net's encoder has a stem: set trunk.stem: true, and depths")
    if set(trunk.norms) != {"instance"}:
        raise UserError(f"trunk.norms: {trunk.norms}; nnU-Net's encoder has instance norms alone: leave norms out")
    yield Unit("stem.body.0", "stem.body.1", "stem.convs.0")
    for number, stage in enumerate(trunk.stages):
        for place, block in enumerate(cast(nn.Sequential, stage)):
            ours, theirs = f"stages.{number}.{place}", f"stages.{number}.blocks.{place}"
            yield Unit(f"{ours}.body.0", f"{ours}.body.1", f"{theirs}.conv1")
            yield Unit(f"{ours}.body.3", f"{ours}.body.4", f"{theirs}.conv2")
            shortcut = cast(nn.Sequential, block.shortcut)
            if len(shortcut) > 1:  # theirs has no layer where ours has the identity
                pooled = 0 if isinstance(shortcut[0], nn.Identity) else 1
                yield Unit(f"{ours}.shortcut.1", f"{ours}.shortcut.2", f"{theirs}.skip.{pooled}")


def network(theirs: Tensors, facts: Mapping[str, Any], adapting: Adapting) -> dict[str, Any]:
    """The trunk section of a recipe that is the file's network, without strides where the file does not say them."""
    first = turned(theirs[MARKER], adapting)
    last = r"stages\.(\d+)\.blocks\.\d+\.conv2\.conv\.weight"
    blocks = [int(match[1]) for name in theirs if (match := re.fullmatch(last, name))]
    levels = 1 + max(blocks, default=-1)
    strides = _strides(facts, adapting, first.ndim - 2)
    return {
        "name": "resenc",
        "channels": first.shape[1],
        "stem": True,
        "widths": [len(theirs[f"stages.{level}.blocks.0.conv2.conv.weight"]) for level in range(levels)],
        "depths": [blocks.count(level) for level in range(levels)],
        **({"strides": strides} if strides else {}),
    }


def _architecture(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of the file's network, as nnssl's plan or nnU-Net's plans tell them; none where there is neither."""
    try:
        if "nnssl_adaptation_plan" in facts:
            plan = facts["nnssl_adaptation_plan"]["architecture_plans"]
            return RESENC_L if plan["arch_class_name"] == "ResEncL" else plan["arch_kwargs"] or {}
        given = facts["init_args"]
        return given["plans"]["configurations"][given["configuration"]]["architecture"]["arch_kwargs"]
    except (KeyError, TypeError):
        return {}


def _strides(facts: Mapping[str, Any], adapting: Adapting, dims: int) -> list[list[int]]:
    """Strides of each level in our order of axes; none where the file does not say."""
    told = _architecture(facts).get("strides") or []
    each = [[stride] * dims if isinstance(stride, int) else list(stride) for stride in told]
    return [stride[:: -1 if adapting.axes == "reversed" else 1] for stride in each]


def _check_strides(encoder: ResEnc, strides: list[list[int]]) -> None:
    """Nothing; UserError where the recipe's strides are not those that the file tells: no shape would show it."""
    there = tuple(
        itertools.accumulate(map(tuple, strides), lambda a, b: tuple(x * y for x, y in zip(a, b, strict=True)))
    )
    if there != encoder.strides:
        raise UserError(
            f"trunk.strides: {list(encoder.strides)} in all, the file's are {list(there)}; set them to {strides}"
        )


def _seen(facts: Mapping[str, Any]) -> list[str]:
    """What nnssl's plan says of the images that the weights saw, as a note."""
    try:
        (one, *_) = facts["nnssl_adaptation_plan"]["pretrain_plan"]["configurations"].values()
        told = {name: one[name] for name in ("patch_size", "spacing", "normalization_schemes") if one.get(name)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return []
    return ["they saw images of " + ", ".join(f"{name} {value}" for name, value in told.items()) + " (axes z, y, x)"]


def harvest(theirs: Tensors, facts: Mapping[str, Any], trunk: nn.Module, adapting: Adapting) -> Harvest:
    """What our residual encoder takes of theirs. Raises UserError where the recipe's is of another layout."""
    encoder, found = cast(ResEnc, trunk), Harvest([])
    ours = trunk.state_dict()
    for unit in units(encoder):
        name = _run(found, theirs, unit.theirs, "conv", "weight")
        if name:
            value, how = turned(theirs[name], adapting), ""
            if unit.conv == "stem.body.0":
                value, how = kernel(theirs[name], ours[f"{unit.conv}.weight"], _flat(adapting), "trunk.channels")
            found.taken.append(Taken(f"{unit.conv}.weight", value, name, how))
        if name := _run(found, theirs, unit.theirs, "conv", "bias"):
            found.left[name] = "the norm after it takes it off"
        for end in ("weight", "bias"):
            if name := _run(found, theirs, unit.theirs, "norm", end):
                found.taken.append(Taken(f"{unit.norm}.{end}", theirs[name], name))
    if strides := _strides(facts, adapting, encoder.dims):
        _check_strides(encoder, strides)
    else:
        found.notes.append(f"trunk.strides are {list(encoder.strides)} in all; the file does not say")
    found.notes.extend(_seen(facts))
    return found


def _flat(adapting: Adapting) -> Adapting:
    """The same without inflation: at the borders of a volume a convolution is not what it was in a slice."""
    return Adapting(axes=adapting.axes, channels=adapting.channels)


def _run(found: Harvest, theirs: Tensors, path: str, kind: str, end: str) -> str:
    """The name of the tensor that is run, "" where there is none; the layer's other name is left, with the reason."""
    named, run = f"{path}.{kind}.{end}", f"{path}.{RUN_AS[kind]}.{end}"
    if run not in theirs:
        return named if named in theirs else ""
    if named in theirs:
        same = torch.equal(theirs[named], theirs[run])
        found.left[named] = "another name of what was taken" if same else f"not run: {run} is, and differs"
        if not same:
            found.notes.append(f"{named} differs from {run}; the latter is what the network runs, and was taken")
    return run
