"""A model whose weights, slopes and optimizer state are spread over processes, for one that outgrows a GPU (FSDP2).

A block of the trunk is whole only while it computes. What is computed is what one process computes, see processes.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from medssl.errors import UserError


def spread(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """The model, whose weights are spread over the mesh's data_parallel processes. Raises UserError for a weight that is a
    single number.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim == 0:
            raise UserError(f"pretrain.strategy: fsdp, but {name} is one number and cannot be spread (learned weighing); "
                            "use ddp, or weighing: fixed")  # fmt: skip
    over = mesh["data_parallel"]
    for part in [*blocks(model), *trunks(model)]:
        fully_shard(part, mesh=over)
    fully_shard(model, mesh=over, reshard_after_forward=False)
    return model


def trunks(model: nn.Module) -> list[nn.Module]:
    """The trunk and, where there is one, its teacher's twin."""
    teacher = getattr(model, "teacher", None)
    return [model.get_submodule("trunk")] + ([teacher.get_submodule("twin")] if teacher is not None else [])


def blocks(model: nn.Module) -> list[nn.Module]:
    """The parts of trunks that compute one after the other: what their lists hold, or sequences in these."""
    listed = [
        part for trunk in trunks(model) for own in trunk.children() if isinstance(own, nn.ModuleList) for part in own
    ]
    return [block for part in listed for block in (part if isinstance(part, nn.Sequential) else [part])]


@contextmanager
def assembled(model: nn.Module) -> Iterator[None]:
    """While it lasts, each process has all weights, so that one may compute alone. All enter it, and leave it, together.

    Nothing happens to a model that is not spread.
    """
    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not model, recurse=False)


def whole(x: torch.Tensor) -> torch.Tensor:
    """All of a tensor of which each process has a part. All processes ask for it together."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def part_of(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """What a process has of `x` where it has that of `like`: all, if that is not spread."""
    if not isinstance(like, DTensor) or x.ndim == 0:
        return x
    return distribute_tensor(x.to(like.device), like.device_mesh, like.placements)
