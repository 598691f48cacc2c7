"""What must be known of a trunk's weights to use them: the network, what a voxel and its value mean, where they come from.

Published as data_manifests/weights.schema.json. What is not known is null, never guessed.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import nn

from medssl import checkpoint
from medssl.archive.headers import IN_COLOUR
from medssl.archive.picture import COLOURS
from medssl.errors import UserError
from medssl.recipe import make, signature, typed
from medssl.runs import read_run
from medssl.store import Preparation
from medssl.store.normalise import DIFFUSION
from medssl.store.settings import GROUPS, MODALITIES
from medssl.trunks import TRUNKS, Trunk, build_trunk
from medssl.trunks.drop_path import DropPath
from medssl.views.select import Selection, build_views

Spec = dict[str, Any]

VERSION = "1"
"""Raised whenever a reader of an older spec.json would misread a newer one."""


def describe(trunk: Trunk, section: Mapping[str, Any], size: tuple[int, ...]) -> Spec:
    """What a spec says of the network itself; `section` is its part of the recipe, `size` the grid of the views."""
    return {
        "schema_version": VERSION,
        "dims": trunk.dims,
        "channels": trunk.channels,
        "trunk": resolved(section),
        "views_size": list(size),
        "cell": list(trunk.cell),
        "levels": [{"width": w, "stride": list(s)} for w, s in zip(trunk.widths, trunk.strides, strict=True)],
        "dim": trunk.dim,
        "versions": {name: importlib.metadata.version(name) for name in ("medssl", "torch")},
    }


def describe_run(run: Path) -> Spec:
    """The spec of the trunk that a run trained, without the facts of its file. Raises UserError when there is no run."""
    record = read_run(run)
    recipe, facts = record["recipe"], record["facts"]
    size, section = build_views(recipe["views"]).crops.size, recipe.get("trunk", {})
    return {
        **describe(build_trunk(section, size), section, size),
        "input": input_of(recipe, record.get("prepared")),
        "method": recipe.get("method") if facts["kind"] == "pretrain" else None,
        "origin": {
            "kind": facts["kind"],
            "name": recipe.get("name", ""),
            "store": record["store"],
            "start": facts["start"],
            "volumes": facts["volumes"],
            "steps": checkpoint.steps_done(run / checkpoint.NAME),
            "versions": record["versions"],
        },
    }


def resolved(section: Mapping[str, Any]) -> Spec:
    """A recipe's trunk section with every default filled in, its values as JSON has them."""
    name = section.get("name", "resenc")
    if name not in TRUNKS:
        raise UserError(f"trunk.name: no trunk called {name!r}; there are: {', '.join(TRUNKS)}")
    given = typed(TRUNKS[name], {key: value for key, value in section.items() if key != "name"}, "trunk", ("size",))
    names, _ = signature(TRUNKS[name])
    known = {key: given.get(key, parameter.default) for key, parameter in names.items() if key != "size"}
    return {"name": name, **{key: _plain(value) for key, value in known.items()}}


def _plain(value: Any) -> Any:
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value


def input_of(recipe: Mapping[str, Any], prepared: Mapping[str, Any] | None) -> Spec | None:
    """What a view is made of: modalities, channels, millimetres, orientation and intensities; None where `prepared`, the
    record of how the store was made, is None.
    """
    if prepared is None:
        return None
    settings = make(Preparation, prepared["settings"], "prepare")
    choice = make(Selection, recipe.get("data", {}), "data")
    codes = [code for code in prepared["modalities"] if choice.modality in ("", code)]
    return {
        "modalities": [_modality(code, settings, choice) for code in codes],
        "views_mm": _plain(build_views(recipe["views"]).crops.mm) or None,
    }


def voxel_mm(spec: Mapping[str, Any]) -> list[float] | None:
    """Millimetres of a voxel that the trunk saw, along each axis of a view; None where they are not known or not one size.

    A view that covers a box in mm has voxels of its own; else they are those of the prepared volume.
    """
    size, seen = spec["views_size"], spec["input"] or {"modalities": [], "views_mm": None}
    if seen["views_mm"]:
        return [mm / voxels for mm, voxels in zip(seen["views_mm"], size, strict=True)]
    prepared = [one["spacing_mm"] for one in seen["modalities"]]
    alike = bool(prepared) and prepared[0] is not None and all(one == prepared[0] for one in prepared)
    return prepared[0][: len(size)] if alike else None


def _modality(code: str, settings: Preparation, choice: Selection) -> Spec:
    kind = MODALITIES[code]
    several = GROUPS[settings.groups] if settings.groups and code == "MR" else ()
    if code in IN_COLOUR:
        several = tuple(COLOURS.split(", "))
    read = [several[n] for n in choice.channels or range(len(several))] if several else [choice.role]
    return {
        "modality": code,
        "spacing_mm": None if kind == "xray" else list(settings.spacing(code)),
        "flat_pixels": settings.xray_pixels,
        "orientation": settings.mr_orientation if kind in ("ct", "mr") else None,
        "channels": [
            {"role": name, "intensity": _intensity("adc" if several and name == "adc" else kind, settings)}
            for name in read
        ],
    }


def _intensity(kind: str, settings: Preparation) -> Spec:
    """The rule by which values became intensities; see store/normalise.py."""
    if kind == "ct":
        return {"rule": "window", "unit": "HU", "from": list(settings.ct_window), "to": [-1.0, 1.0]}
    if kind == "adc":
        return {"rule": "scale", "unit": "1e-6 mm2/s", "from": [DIFFUSION.low, DIFFUSION.high], "by": DIFFUSION.scale}
    if kind == "mr":
        return {"rule": "robust z-score", "clip_percentiles": list(settings.clip_percentiles)}
    return {"rule": "range", "to": [0.0, 1.0]}


def same_network(one: Trunk, other: Trunk) -> bool:
    """Whether two trunks compute the same with the same weights; their recipes' words may differ and mean the same."""
    return _facts(cast(nn.Module, one)) == _facts(cast(nn.Module, other))


def _facts(module: nn.Module) -> dict[tuple[str, str], Any]:
    """Every number, word and list of them that a module or a part of it holds besides its tensors: strides, heads, eps.
    What is dropped in training is no part of the network.
    """
    return {
        (path, key): _plain(value)
        for path, part in module.named_modules()
        if not isinstance(part, nn.Dropout | DropPath)
        for key, value in vars(part).items()
        if key != "training" and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, bool | int | float | str)


def differences(wanted: Spec, found: Spec) -> list[str]:
    """In what words two networks differ: "dims 3 and 2", "trunk.widths [4, 8] and [4, 16]"."""
    told = [f"{key} {wanted[key]} and {found[key]}" for key in ("dims", "channels") if wanted[key] != found[key]]
    ours, theirs = wanted["trunk"], found["trunk"]
    keys = [key for key in {**ours, **theirs} if key not in ("channels", "drop_path")]
    return told + [
        f"trunk.{key} {ours.get(key, 'not there')} and {theirs.get(key, 'not there')}"
        for key in keys
        if ours.get(key) != theirs.get(key)
    ]
