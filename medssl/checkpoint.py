"""Checkpoints: safetensors with the step in their header, replaced atomically. No pickle is read or written."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from medssl.adaptations.low_rank import merged
from medssl.atomic import replacing
from medssl.errors import UserError
from medssl.processes import first
from medssl.sharding import part_of, whole

NAME = "last.safetensors"
"""A run's checkpoint in its folder."""

MODEL, OPTIMIZER = "model.", "optimizer."


def digest(path: Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Nothing; `path` holds the weights, the optimizer's state and the number of steps done, or what it held before.

    All processes of a training call it, and the first writes. Raises UserError, and leaves `path` alone, when a number of
    theirs is not finite: no training goes on from there.
    """
    tensors = {MODEL + name: value for name, value in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{OPTIMIZER}{number}.{key}": torch.as_tensor(value) for key, value in state.items()}
    for name, value in tensors.items():
        tensors[name] = value = whole(value.detach())
        if not value.isfinite().all():
            raise UserError(
                f"step {step}: {name} holds numbers that are not finite; lower lr; the last checkpoint is kept"
            )
    if first():
        with replacing(path) as part:
            save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, part, {"step": str(step)})


def restore(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """The number of steps done; model and optimizer are as they were then. 0 and no change when there is no file."""
    if not path.exists():
        return 0
    tensors = read(path)
    own = model.state_dict()
    weights = {name.removeprefix(MODEL): value for name, value in tensors.items() if name.startswith(MODEL)}
    model.load_state_dict({name: part_of(v, own[name]) if name in own else v for name, v in weights.items()})
    moved = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(OPTIMIZER):
            number, key = name.removeprefix(OPTIMIZER).split(".", 1)
            if int(number) >= len(moved) or (value.ndim and value.shape != moved[int(number)].shape):
                raise UserError(
                    f"{path}: its optimizer has the weights in another order, as an older version had them; end the run "
                    "with that version, or give another folder with --run"
                )
            state.setdefault(int(number), {})[key] = part_of(value, moved[int(number)])
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return steps_done(path)


def read(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint by name. Raises UserError when it is missing or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint; train first, or give the folder of a finished run") from None
    except SafetensorError as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); delete it and train again") from None


def weights(path: Path, prefix: str) -> Mapping[str, torch.Tensor]:
    """The model's tensors whose names start with `prefix`, without it; what was learned beside a trunk is in its weights."""
    start, tensors = MODEL + prefix, merged(read(path), f"{MODEL}trunk.", f"{MODEL}added.")
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def fill(module: torch.nn.Module, prefix: str, run: Path) -> None:
    """Nothing; `module` holds the weights of a run's model whose names start with `prefix`. Raises UserError when they do
    not fit it.
    """
    try:
        module.load_state_dict(weights(run / NAME, prefix))
    except RuntimeError as error:
        what = str(error).splitlines()[-1].strip()
        part = prefix.rstrip(".")
        raise UserError(f"{run}: its {part} does not fit this recipe's ({what}); use the same {part} section") from None


def steps_done(path: Path) -> int:
    """How many steps had been taken when the checkpoint was written; 0 when there is none."""
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            return int(file.metadata()["step"])
    except (SafetensorError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a checkpoint of ours ({error}); delete it and train again") from None


def keep(path: Path, copy: Path) -> None:
    """Nothing; `copy` has the content of `path`, which is replaced but never written into: a second name is enough."""
    with replacing(copy) as part:
        part.unlink(missing_ok=True)
        try:
            os.link(path, part)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, part)
