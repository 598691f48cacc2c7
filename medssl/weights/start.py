"""Beginning with weights: a training's trunk takes those of a run, or of a folder that was exported or imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import nn

from medssl.errors import UserError
from medssl.recipe import Section
from medssl.runs import origin, prepared
from medssl.store import Store
from medssl.trunks import Trunk, build_trunk
from medssl.weights.folder import SPEC, Weights, is_folder, read_weights, weights_of
from medssl.weights.spec import describe, describe_run, differences, input_of, same_network


def begin_with(trunk: Trunk, section: Mapping[str, Any], size: tuple[int, ...], start: Path) -> None:
    """Nothing; `trunk`, which `section` of a recipe describes for views of `size`, holds the weights that `start` names.

    A ViT's places are interpolated where the views have another size. Raises UserError when the weights are of another
    network, even if the shapes agree: strides, heads and norms have none.
    """
    weights = weights_of(start)
    if not _fits(trunk, size, weights):
        told = differences(describe(trunk, section, size), weights.spec)
        source = start / (SPEC if is_folder(start) else "run.json")
        raise UserError(
            f"{start}: its trunk does not fit this recipe's ({'; '.join(told)}, here and there); take the trunk section of "
            f"{source}, or other weights"
        )
    try:
        cast(nn.Module, trunk).load_state_dict(weights.tensors)
    except RuntimeError as error:
        what = str(error).splitlines()[-1].strip()
        raise UserError(f"{start}: its trunk does not fit this recipe's ({what}); use the same trunk section") from None


def _fits(trunk: Trunk, size: tuple[int, ...], weights: Weights) -> bool:
    """Whether `trunk` is the network, for views of `size`, that the weights are of."""
    if trunk.dims != weights.spec["dims"]:
        return False
    try:
        return same_network(trunk, build_trunk(weights.spec["trunk"], size))
    except UserError:  # views that theirs cannot take
        return False


def origin_of(start: Path | None) -> str:
    """What a training started from: "scratch", the store that its trunk saw, or the weights it was given."""
    if start is None or not is_folder(start):
        return origin(start)
    spec = read_weights(start).spec
    told = spec["origin"]
    before = f"store {told['store']}" if told.get("store") else f"{told.get('file', 'no file')}"
    return f"weights {spec['weights']['sha256'][:16]} of {before}"


def unlike(start: Path, recipe: Section, store: Store) -> list[str]:
    """In what the images of a store differ from those that the weights saw, one sentence each; none where all is alike.

    Weights may be worth a start all the same, so this is told and not refused.
    """
    seen = read_weights(start).spec["input"] if is_folder(start) else describe_run(start)["input"]
    if seen is None:
        return [f"{start}: what images these weights saw (millimetres, intensities) is not known"]
    now = input_of(recipe, prepared(store)) or {}
    before = {one["modality"]: one for one in seen["modalities"]}
    told = []
    for one in now["modalities"]:
        other = before.get(one["modality"])
        if other is None:
            told.append(f"{start}: these weights saw {' and '.join(before)}, not {one['modality']}")
            continue
        told += [
            f"{start}: {one['modality']} had {key} {other[key]}, the store has {one[key]}"
            for key in one
            if one[key] != other[key]
        ]
    if seen["views_mm"] != now["views_mm"]:
        told.append(f"{start}: views.mm was {seen['views_mm']}, is {now['views_mm']}")
    return told
