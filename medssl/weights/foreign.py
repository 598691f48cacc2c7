"""Weights from elsewhere: a file of named tensors, found by the names in it, and what was taken of it and how.

Files are read under torch's weights-only rule or as safetensors: nothing in them is run.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from medssl.errors import UserError

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Adapting:
    """How weights of another shape become ours.

    `axes` "reversed": their axes are ours backwards. Pictures of others are (rows, columns) and their volumes (z, y, x),
    ours are (I, J, K), with a picture's columns first. `channels` "sum": where the numbers of channels differ, each of
    ours gets the sum of theirs divided by the number of ours, so that an image repeated in all of them looks as before.
    `inflate` makes 3D patches of 2D ones: "even" repeats them along K, divided by the depth, so that a volume that is the
    same along K looks as before; "centre" puts them in the middle slice, so that this one does (Carreira and Zisserman,
    CVPR 2017, arXiv:1705.07750, do the first).
    """

    axes: Literal["reversed", "same"] = "reversed"
    channels: Literal["same", "sum"] = "same"
    inflate: Literal["none", "even", "centre"] = "none"


@dataclass(frozen=True, eq=False)
class Foreign:
    """What a file holds: its tensors in float32 by their names, those of nested mappings joined by dots; and all else."""

    tensors: Tensors
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Taken:
    """One tensor of ours: its name, its value, the names of theirs that it is made of, and how."""

    name: str
    value: torch.Tensor
    source: str
    how: str = ""


@dataclass(frozen=True)
class Harvest:
    """What a layout took; what of theirs it left on purpose, by name with the reason; and what is not as it was there."""

    taken: list[Taken]
    left: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_foreign(path: Path) -> Foreign:
    """What is in a file: .safetensors, or what torch.save wrote.

    Raises UserError for a file that is neither, that holds no tensor, or that only running code in it could read.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a .safetensors, .pt or .pth file")
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else _loaded(path)
    except SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); fetch it again") from None
    found = {name: value.float() if value.is_floating_point() else value for name, value in _flat(content, "")}
    if not found:
        raise UserError(f"{path}: holds no tensor; give a file of weights")
    return Foreign(found, content if isinstance(content, Mapping) else {})


def _loaded(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: not readable without running code in it ({what}); ask its makers for safetensors, or save its tensors "
            "alone where you trust it"
        ) from None


def _flat(content: Any, above: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(content, torch.Tensor):
        yield above, content.detach()
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flat(value, f"{above}.{key}" if above else str(key))


def part_of(tensors: Tensors, marker: str, part: str) -> tuple[str, Tensors]:
    """Where in a file a network lies, and its tensors by their names within: that which has a tensor called `marker`.

    `part` is the beginning of the names to look at. Of copies under several names the shortest is taken; of networks
    that differ (teacher and student) `part` must say which. Raises UserError where there is none.
    """
    ends = [name.removesuffix(marker) for name in tensors if name == marker or name.endswith(f".{marker}")]
    found = {start: _below(tensors, start) for start in ends if start.startswith(part)}
    if not found:
        raise UserError(f"no tensor called {marker} in a part {part!r} of the file; it has {some(tensors)}")
    first = min(found, key=len)
    for start, inside in found.items():
        if not _equal(inside, found[first]):
            both = " and ".join(sorted({first.rstrip("."), start.rstrip(".")}))
            raise UserError(f"the file holds {both}, which differ; choose one with --part")
    return first, found[first]


def _below(tensors: Tensors, start: str) -> Tensors:
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def _equal(one: Tensors, other: Tensors) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items() if name in other)


def some(names: Sequence[str] | Mapping[str, Any], most: int = 4) -> str:
    """The first few of some names, and how many more there are."""
    shown = sorted(names)[:most]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def turned(weight: torch.Tensor, adapting: Adapting) -> torch.Tensor:
    """A convolution's weights (out, in, *kernel) with their axes in our order, or ours in theirs."""
    if adapting.axes == "same":
        return weight
    return weight.permute(0, 1, *range(weight.ndim - 1, 1, -1)).contiguous()


def kernel(theirs: torch.Tensor, ours: torch.Tensor, adapting: Adapting, where: str) -> tuple[torch.Tensor, str]:
    """A convolution's weights (out, in, *kernel) with the axes, depth and channels of ours, and what was done to them.

    Raises UserError naming `where` and the option that is needed.
    """
    told = []
    theirs = turned(theirs, adapting)
    if theirs.ndim == 4 and ours.ndim == 5:
        if adapting.inflate == "none":
            raise UserError(
                f"{where}: 2D in the file, 3D in the recipe; give --inflate even or centre, or 2D views.size"
            )
        depth = ours.shape[-1]
        if adapting.inflate == "even":
            theirs = theirs[..., None].repeat(1, 1, 1, 1, depth) / depth
        else:
            theirs = torch.nn.functional.pad(theirs[..., None], (depth // 2, depth - 1 - depth // 2))
        told.append(f"inflated to depth {depth}, {adapting.inflate}")
    if theirs.ndim == ours.ndim and theirs.shape[1] != ours.shape[1]:
        if adapting.channels == "same":
            raise UserError(
                f"{where}: {theirs.shape[1]} channels in the file, {ours.shape[1]} in the recipe; give --channels sum"
            )
        told.append(f"sum of {theirs.shape[1]} channels over {ours.shape[1]}")
        theirs = theirs.sum(1, keepdim=True).repeat(1, ours.shape[1], *[1] * (ours.ndim - 2)) / ours.shape[1]
    return theirs.contiguous(), ", ".join(told)
