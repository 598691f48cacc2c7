"""From a file of another tool to a folder of weights: which layout it has, what fits, and what is left over."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import yaml
from torch import nn

from medssl.errors import UserError
from medssl.recipe import Section
from medssl.trunks import build_trunk
from medssl.views.select import build_views
from medssl.weights import huggingface, residual, timm
from medssl.weights.folder import Weights
from medssl.weights.foreign import Adapting, Harvest, Tensors, part_of, read_foreign, some
from medssl.weights.spec import describe

OURS_ALONE = ("hidden", "grid")
"""What no file of others has: the value of hidden cells, the grid of places. A mask token means another thing there."""


Facts = Mapping[str, Any]


class Layout(NamedTuple):
    """A way of naming tensors: the one by which it is known, the trunk that can take it, how that is done, and what
    recipe would have such a trunk.
    """

    marker: str
    trunk: str
    harvest: Callable[[Tensors, Facts, nn.Module, Adapting], Harvest]
    network: Callable[[Tensors, Facts, Adapting], dict[str, Any]]


LAYOUTS = {
    "timm": Layout(timm.MARKER, "vit", timm.harvest, timm.network),
    "huggingface": Layout(huggingface.MARKER, "vit", huggingface.harvest, huggingface.network),
    "nnunet": Layout(residual.MARKER, "resenc", residual.harvest, residual.network),
}


@dataclass(frozen=True, eq=False)
class Intake:
    """The weights, ready to be written, and lines that say where each tensor comes from and what is left over."""

    weights: Weights
    lines: list[str]


def take_in(file: Path, recipe: Section, *, adapting: Adapting | None = None, part: str = "") -> Intake:
    """The trunk that a recipe describes, with the weights of a file of another tool.

    Raises UserError unless every weight of the trunk comes from the file and every part of the file's network that its
    features depend on has a place in the trunk.
    """
    adapting = adapting or Adapting()
    foreign = read_foreign(file)
    tensors = foreign.tensors
    if "views" not in recipe:
        raise UserError("recipe: no section 'views'; importing needs views.size and the trunk")
    size, section = build_views(recipe["views"]).crops.size, recipe.get("trunk", {})
    name, layout = _layout_of(tensors, file)
    start, inside = part_of(tensors, layout.marker, part)
    torch.manual_seed(0)
    try:
        if (kind := section.get("name", "resenc")) != layout.trunk:
            raise UserError(f"trunk.name: {kind}, but {file} has the tensors of a {layout.trunk} ({layout.marker})")
        trunk = build_trunk(section, size)
        module = cast(nn.Module, trunk)
        harvest = layout.harvest(inside, foreign.facts, module, adapting)
        state = module.state_dict()
        _check_shapes(harvest, state, file)
        missing = _check_whole(harvest, state, inside, file)
    except UserError as error:
        there = layout.network(inside, foreign.facts, adapting)
        raise UserError(f"{error}. The file's network is trunk: {_flow(there)}") from None
    module.load_state_dict({**state, **{one.name: one.value for one in harvest.taken}})
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    spec = {
        **describe(trunk, section, size),
        "input": None,
        "method": None,
        "origin": {
            "kind": "import",
            "file": file.name,
            "sha256": digest,
            "layout": name,
            "settings": {**asdict(adapting), "part": start},
            "notes": harvest.notes,
            "left_over": {"ours": missing, "theirs": sorted(harvest.left)},
        },
    }
    return Intake(Weights(module.state_dict(), spec), _told(harvest, missing, len(tensors) - len(inside), start))


def _flow(section: Mapping[str, Any]) -> str:
    """A section as one line of YAML."""
    return yaml.safe_dump(dict(section), default_flow_style=True, sort_keys=False, width=10_000).strip()


def _layout_of(tensors: Tensors, file: Path) -> tuple[str, Layout]:
    for name, layout in LAYOUTS.items():
        if any(found == layout.marker or found.endswith(f".{layout.marker}") for found in tensors):
            return name, layout
    known = ", ".join(f"{layout.marker} ({name})" for name, layout in LAYOUTS.items())
    raise UserError(f"{file}: no layout that medssl can read; none of its tensors is called {known}")


def _check_shapes(harvest: Harvest, state: Tensors, file: Path) -> None:
    wrong = [one for one in harvest.taken if one.name in state and state[one.name].shape != one.value.shape]
    if wrong:
        one = wrong[0]
        raise UserError(
            f"{file}: {one.source} comes to the shape {tuple(one.value.shape)}, {one.name} of the recipe's trunk has "
            f"{tuple(state[one.name].shape)}, and {len(wrong) - 1} more; set the trunk section to the file's network"
        )


def _check_whole(harvest: Harvest, state: Tensors, theirs: Tensors, file: Path) -> list[str]:
    """Our tensors that no file of others has. Raises UserError where anything else has no partner, on either side."""
    taken = {one.name for one in harvest.taken}
    if strange := sorted(taken - set(state)):
        raise UserError(f"{file}: {strange[0]} is no tensor of the recipe's trunk; set the trunk section to the file's")
    alone = [name for name in state if name not in taken and name.split(".")[0] not in OURS_ALONE]
    if alone:
        share = sum(state[name].numel() for name in alone) / sum(value.numel() for value in state.values())
        raise UserError(
            f"{file}: has nothing for {len(alone)} of the trunk's tensors, {share:.0%} of its numbers ({alone[0]} ...); set "
            "the trunk section to the file's network"
        )
    used = {part for one in harvest.taken for part in one.source.split(", ")} | set(harvest.left)
    over = [name for name in theirs if name not in used]
    if over:
        raise UserError(
            f"{file}: {len(over)} of its tensors have no place in the recipe's trunk ({', '.join(over[:3])} ...), and its "
            "features depend on them; set the trunk section to the file's network, if medssl has one like it"
        )
    return [name for name in state if name not in taken]


def _told(harvest: Harvest, missing: list[str], elsewhere: int, start: str) -> list[str]:
    lines = [
        f"{one.name} {tuple(one.value.shape)} <- {one.source}" + (f" ({one.how})" if one.how else "")
        for one in harvest.taken
    ]
    lines += [f"{name} <- nothing: the file has none, it begins anew" for name in missing if name != "grid"]
    for why in sorted(set(harvest.left.values())):
        names = sorted(name for name, reason in harvest.left.items() if reason == why)
        lines.append(f"left in the file: {some(names)} ({why})")
    if elsewhere:
        lines.append(f"left in the file: {elsewhere} tensors outside of {start.rstrip('.') or 'the network'}")
    return lines + [f"note: {note}" for note in harvest.notes]
