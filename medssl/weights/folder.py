"""A folder of weights: trunk.safetensors and spec.json. No head is in it, and nothing of any patient."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from medssl import checkpoint
from medssl.atomic import replacing, write_json
from medssl.errors import UserError
from medssl.runs import read_run
from medssl.trunks import Trunk, build_trunk
from medssl.weights.spec import VERSION, Spec, describe_run

TENSORS, SPEC = "trunk.safetensors", "spec.json"

NEEDED = ("dims", "channels", "trunk", "views_size", "levels", "dim", "input", "origin", "weights")
"""What of a spec is read, here or by a form of another tool."""

Part = Literal["trunk", "teacher"]

PREFIX: dict[Part, str] = {"trunk": "trunk.", "teacher": "teacher.twin."}
"""How the names of a part's tensors begin in a run's checkpoint."""


@dataclass(frozen=True, eq=False)
class Weights:
    """A trunk's tensors by name, and its spec."""

    tensors: dict[str, torch.Tensor]
    spec: Spec

    def trunk(self) -> Trunk:
        """The trunk with these weights, in eval mode."""
        trunk = build_trunk(self.spec["trunk"], tuple(self.spec["views_size"]))
        assert isinstance(trunk, torch.nn.Module)
        try:
            trunk.load_state_dict(self.tensors)
        except RuntimeError as error:
            raise UserError(f"{SPEC}: does not describe {TENSORS} ({_last(error)}); export the weights again") from None
        return trunk.eval()


def is_folder(path: Path) -> bool:
    """Whether a path is a folder of weights, rather than of a run."""
    return (path / SPEC).is_file()


def weights_of(source: Path, part: Part = "trunk") -> Weights:
    """The trunk of a run, or of a folder of weights; with `part` "teacher" the running average that a run's method kept.

    Raises UserError when it is neither, for a damaged one, and where there is no teacher.
    """
    if is_folder(source):
        if part != "trunk":
            raise UserError(f"{source}: a folder of weights holds one network; give the run for its {part}")
        return read_weights(source)
    spec, facts = describe_run(source), read_run(source)["facts"]
    if facts["kind"] == "finetune" and part == "teacher":
        raise UserError(f"{source}: the trunk of a fine-tuned run is the one that answers; leave --of out")
    tensors = dict(checkpoint.weights(source / checkpoint.NAME, facts.get("answers", "") + PREFIX[part]))
    if not tensors:
        raise UserError(f"{source}: its method has no {part}; set method.teacher_half_life, or take its trunk")
    return Weights(tensors, {**spec, "origin": {**spec["origin"], "part": part}})


def write_weights(folder: Path, weights: Weights) -> Path:
    """`folder`, which holds the tensors and, written last, the spec with the facts of their file.

    `licence` and `notes` are the user's to fill in: who wrote them there finds them again when the same is written anew.
    """
    content = save({name: value.detach().cpu().contiguous() for name, value in weights.tensors.items()})
    with replacing(folder / TENSORS) as part:
        part.write_bytes(content)
    spec = {
        **weights.spec,
        "weights": {
            "file": TENSORS,
            "sha256": hashlib.sha256(content).hexdigest(),
            "tensors": len(weights.tensors),
            "numbers": sum(value.numel() for value in weights.tensors.values()),
        },
    }
    write_json(folder / SPEC, {**spec, **_users_own(folder)})
    return folder


def _users_own(folder: Path) -> dict[str, str]:
    before = _read_spec(folder) if is_folder(folder) else {}
    return {name: str(before.get(name, "")) for name in ("licence", "notes")}


def read_weights(folder: Path) -> Weights:
    """What a folder of weights holds. Raises UserError when the two files are not there, damaged, or not of each other."""
    spec = _read_spec(folder)
    if spec.get("schema_version") != VERSION:
        raise UserError(
            f"{folder / SPEC}: schema_version {spec.get('schema_version')!r}, this medssl reads {VERSION!r}; use the "
            "medssl that spec.json names under versions"
        )
    if missing := [name for name in NEEDED if name not in spec]:
        raise UserError(f"{folder / SPEC}: lacks {missing[0]!r}; export the weights again")
    try:
        content = (folder / TENSORS).read_bytes()
        digest = str(spec["weights"]["sha256"])
    except FileNotFoundError:
        raise UserError(f"{folder / TENSORS}: no such file; copy the whole folder") from None
    except (KeyError, TypeError):
        raise UserError(f"{folder / SPEC}: says no sha256 of its weights; export them again") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise UserError(f"{folder / TENSORS}: not the file that spec.json is of (sha256); copy the whole folder again")
    try:
        return Weights(load(content), spec)
    except SafetensorError as error:
        raise UserError(f"{folder / TENSORS}: not a whole safetensors file ({error}); export it again") from None


def _read_spec(folder: Path) -> Spec:
    try:
        spec = json.loads((folder / SPEC).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder / SPEC}: no such file; make it with medssl weights export") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / SPEC}: not JSON ({error}); export the weights again") from None
    if not isinstance(spec, Mapping):
        raise UserError(f"{folder / SPEC}: holds no mapping; export the weights again")
    return dict(spec)


def _last(error: Exception) -> str:
    return str(error).splitlines()[-1].strip()
