"""Where a training or a prediction runs: the device, the precision and the other processes, through Lightning Fabric."""

from __future__ import annotations

import atexit
import ctypes
import gc
import inspect
import logging
import os
import sys
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision, Precision
from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from medssl.errors import UserError
from medssl.sharding import spread

Strategy = Literal["ddp", "fsdp"]
"""Whether each process holds the whole model, or a part of each weight."""


MMAP, TRIM = (-3, "MALLOC_MMAP_THRESHOLD_", 1 << 30), (-1, "MALLOC_TRIM_THRESHOLD_", 1 << 29)
"""Of mallopt(3): its number for a setting, the variable that sets it, and bytes."""

MMAP_BEFORE = 1 << 25


def find_place(precision: str) -> Fabric:
    """Fabric on the best device there is, quietly. One process; the precision is the recipe's."""
    _quietly()
    keep_memory()
    return Fabric(accelerator="auto", devices=1, plugins=_digits(precision))


def join(precision: str, strategy: Strategy = "ddp") -> Fabric:
    """Fabric on this process's device, with the other processes that torchrun started; without it, as `find_place`.

    Asked again, it is in the same company. Gradients are the mean over processes. Parameters that a step leaves out are
    looked for, because which ones these are depends on the batch. Buffers are not sent round: each process comes to the
    same (see processes.py). Raises UserError when there are fewer GPUs than processes.

    torchrun hands SIGTERM on and kills after 30 s: give it --shutdown-timeout where a step and its checkpoint take longer,
    and --signals-to-handle SIGTERM,SIGUSR1 where a scheduler sends the other one.
    """
    if _processes() == 1:
        return find_place(precision)
    _quietly()
    keep_memory()
    world, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    gpus = torch.cuda.device_count()
    if 0 < gpus < here:
        raise UserError(f"torchrun: {here} processes for {gpus} GPUs; give --nproc_per_node {gpus}")
    fabric = Fabric(
        accelerator="auto", devices=here, num_nodes=world // here, plugins=_digits(precision),
        strategy=_replicated() if strategy == "ddp" else ModelParallelStrategy(spread, world, 1),
    )  # fmt: skip
    if not distributed.is_initialized():
        atexit.register(_part)
    fabric.launch()
    return fabric


class Mixed(MixedPrecision):
    """Autocast that leaves what goes in as it is: layers that may round it do so themselves. Lightning's own would make
    bfloat16 of all of a batch, and 100 mm may then be off by a quarter of one, and an age or a day by half of one.
    """

    def convert_input(self, data: Any) -> Any:
        """The same."""
        return data


def _digits(precision: str) -> Precision:
    """How many digits are kept, on the device that "auto" will find."""
    if precision == "32-true":
        return Precision()
    if precision != "bf16-mixed":
        raise UserError(f"precision {precision!r}: not known; choose 32-true or bf16-mixed")
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return Mixed("bf16-mixed", device)


def _part() -> None:
    """Nothing; Gloo's threads have let go of their tensors. One that does so while Python shuts down aborts the process.

    Lightning parts for NCCL only, see https://github.com/pytorch/pytorch/issues/190489. What still holds the group, as a
    model that was averaged over processes does, would keep the threads: hence the collection.
    """
    gc.collect()
    if distributed.is_initialized():
        distributed.destroy_process_group()


def keep_memory() -> None:
    """Nothing; where glibc is, this process keeps the memory of tensors that it is done with, for the next ones.

    By default each tensor over 32 MiB is mapped anew, and the system clears every page of it at its first touch, in every
    step: on a CPU that takes about as long as the arithmetic (benchmarks/README.md). A process then holds about a third
    more. Whoever sets one of the variables of `MMAP` and `TRIM` is left alone.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None or any(variable in os.environ for _, variable, _ in (MMAP, TRIM)):
        return
    # Before 2.35 glibc takes no more than 32 MiB. The other setting alone would do harm: it ends glibc's own raising.
    if mallopt(MMAP[0], MMAP[2]) or mallopt(MMAP[0], MMAP_BEFORE):
        mallopt(TRIM[0], TRIM[2])


def ask_alone(what: str) -> None:
    """Nothing; raises UserError when torchrun started several processes, of which `what` knows nothing."""
    if (count := _processes()) > 1:
        raise UserError(f"{what}: {count} processes, but it measures one; call it without torchrun")


def _processes() -> int:
    return int(os.environ["WORLD_SIZE"]) if torch.distributed.is_torchelastic_launched() else 1


def _replicated() -> DDPStrategy:
    known = inspect.signature(DistributedDataParallel).parameters
    still = {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
    return DDPStrategy(find_unused_parameters=True, **still)


def _quietly() -> None:
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces each precision on standard error
