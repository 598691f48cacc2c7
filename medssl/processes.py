"""Training in several processes: each draws its share of a batch, and what compares scans is told of all of them.

The rule that makes world processes equal to one with the same batch: a term's loss may differ between processes, and the
mean of theirs is the loss of the whole batch. A mean over rows fulfils it as it is, for all have equally many. A term that
compares rows calls `gathered` and computes the whole batch's loss in every process. What is random is drawn for all rows,
in the order of one process, of which `own` takes this process's.

With one process, and outside of `together`, each of these gives back what it is given: a probe or a picture that only the
first process makes waits for nobody.
"""

# W processes, V views, B scans of one process; rows are views first: row v * W * B + w * B + b is scan b of process w
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import distributed

from medssl.errors import UserError

_TOGETHER = ContextVar("together", default=False)


@contextmanager
def together() -> Iterator[None]:
    """While it lasts, all processes take the same step, and rows of all of them are compared."""
    before = _TOGETHER.set(True)
    try:
        yield
    finally:
        _TOGETHER.reset(before)


def share() -> tuple[int, int]:
    """(rank, world): the number of this process, and how many were started."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def first() -> bool:
    """Whether this is the process that writes files."""
    return share()[0] == 0


def place() -> tuple[int, int]:
    """(rank, world) among the processes whose rows are compared: (0, 1) outside of `together`."""
    return share() if _TOGETHER.get() else (0, 1)


def gathered(x: torch.Tensor, scans: int) -> torch.Tensor:
    """The rows (V * W * B, ...) of all processes, given this one's (V * B, ...) of so many `scans`.

    Its gradient is right if every process makes the same of the rows, and the processes' gradients are averaged.
    """
    rank, world = place()
    if world == 1:
        return x
    each: torch.Tensor = _Gathered.apply(x.unflatten(0, (-1, scans)), rank, world)
    return each.transpose(0, 1).flatten(0, 2)


def own(x: torch.Tensor, scans: int) -> torch.Tensor:
    """This process's rows (V * B, ...) of all (V * W * B, ...), where it has so many `scans`."""
    rank, world = place()
    return x.unflatten(0, (-1, world, scans))[:, rank].flatten(0, 1)


def rows_in_all(rows: int) -> int:
    """How many rows all processes have, of which this one has so many."""
    return rows * place()[1]


def fetched(x: torch.Tensor, scans: torch.Tensor) -> torch.Tensor:
    """(V, B, ...) of `scans`, numbers (B,) in the whole batch, from `x` (V, B, ...) of each process. Without gradient.

    One process after the other shows what it has, so that the whole batch is never in one place.
    """
    rank, world = place()
    if world == 1:
        return x[:, scans]
    found, count = torch.empty_like(x), x.shape[1]
    for process in range(world):
        shown = x.contiguous() if process == rank else torch.empty_like(x, memory_format=torch.contiguous_format)
        distributed.broadcast(shown, process)
        there = scans // count == process
        found[:, there] = shown[:, scans[there] % count]
    return found


@torch.no_grad()
def mean(x: torch.Tensor) -> torch.Tensor:
    """The mean over processes of their `x`. Without gradient."""
    world = place()[1]
    if world == 1:
        return x.detach()
    whole = x.detach().clone()
    distributed.all_reduce(whole)
    return whole / world


def anyone(asks: bool) -> bool:
    """Whether it is so in any process. All that were started take part."""
    if share()[1] == 1:
        return asks
    flag = torch.tensor(float(asks), device=_device())
    distributed.all_reduce(flag, distributed.ReduceOp.MAX)
    return bool(flag)


@contextmanager
def failing_together() -> Iterator[None]:
    """What is raised inside ends all processes: one with its error, the others with a UserError that points at it."""
    try:
        yield
    except BaseException:
        anyone(True)
        raise
    if anyone(False):
        raise UserError("another process of this training failed; what it says is the reason")


def agreed(number: int, what: str) -> int:
    """The number, which is the same in all processes; else a UserError that calls it `what`."""
    if share()[1] > 1:
        each = [torch.zeros((), dtype=torch.int64, device=_device()) for _ in range(share()[1])]
        distributed.all_gather(each, torch.tensor(number, device=_device()))
        numbers = [int(one) for one in each]
        if len(set(numbers)) > 1:
            raise UserError(
                f"{what}: {numbers} in the {len(numbers)} processes; give --run a folder that all of them see"
            )
    return number


def _device() -> torch.device:
    """Where small messages travel: NCCL has no other place than the GPU."""
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")


class _Gathered(torch.autograd.Function):
    """(W, V, B, ...) of all processes' (V, B, ...).

    The gradient of a row is `world` times what its own process finds, which is what the sum over processes would be: each
    finds the same. Sums there would be messages in an order that autograd chooses, beside those of the averaging of
    gradients, and two processes that chose differently would wait for each other for ever.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rank: int, world: int) -> torch.Tensor:
        ctx.rank, ctx.world = rank, world
        x = x.contiguous()
        each = [torch.empty_like(x) for _ in range(world)]
        distributed.all_gather(each, x)
        return torch.stack(each)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[torch.Tensor, None, None]:
        return ctx.world * slopes[0][ctx.rank], None, None
