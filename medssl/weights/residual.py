"""Residual encoders as nnU-Net and nnssl name their tensors: stem.convs.0, stages.S.blocks.B.conv1, conv2, skip.

Exact, with the recipe's `stem: true` and `depths`, `widths` and `strides` as there. Their convolutions have a bias before
an instance norm, which takes a constant off each channel again: it is left out coming in, and zero going out.
Each of their layers has two names, .conv and .norm, and .all_modules.N by which it is run; where the two differ, which
sparse pretraining has been seen to do, the one that is run is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import nn

from medssl.errors import UserError
from medssl.trunks import ResEnc
from medssl.weights.foreign import Adapting, Harvest, Taken, Tensors, kernel, turned

MARKER = "stem.convs.0.conv.weight"

RUN_AS = {"conv": "all_modules.0", "norm": "all_modules.1"}
"""A layer's two names in theirs: by what it is, and by its place in what is run."""


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


def harvest(theirs: Tensors, trunk: nn.Module, adapting: Adapting) -> Harvest:
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
    found.notes.append(f"trunk.strides are {list(encoder.strides)} in all; the file does not say")
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
        found.left[named] = f"another name of {run}" if same else f"not run: {run} is, and differs"
        if not same:
            found.notes.append(f"{named} differs from {run}; the latter is what the network runs, and was taken")
    return run
