"""torch.compile of the parts of a model that do the work: the trunk and what stands on it at full resolution."""

from __future__ import annotations

import time

import torch
from torch import nn

from medssl.errors import UserError
from medssl.trunks.decoder import Decoder
from medssl.trunks.resenc import ResEnc


def compile_parts(model: nn.Module, device: torch.device) -> None:
    """Nothing; the trunk and the decoder of `model` are compiled when they first run. Names of weights stay as they are.

    A sparse trunk is left as it is: its shapes are those of the mask, others in each step. Raises UserError where the
    machine cannot compile.

    It is off unless a recipe asks for it, because on the CPU it did not pay: of a residual trunk (4 levels, 16 to 128
    channels) on 64^3 voxels, one thread, a step forward and back took .81 s of CPU time compiled and .73 s as it is (trunk
    alone, float32), 1.47 and 1.49 s (masked rebuild, float32), after a minute of compiling. Convolutions are the same calls
    to oneDNN either way. No GPU was measured.
    """
    _check(device)
    for name, part in model.named_modules():
        sparse = isinstance(part, ResEnc) and part.sparse
        if ((name == "trunk" and not sparse) or isinstance(part, Decoder)) and part._compiled_call_impl is None:
            part.compile()


def _check(device: torch.device) -> None:
    """Nothing; raises UserError where a small function cannot be compiled. A new number keeps it out of every cache."""
    number = time.time_ns() % 10**9 / 1e9
    try:
        torch.compile(lambda x: x * number + 1)(torch.ones(8, device=device))
    except Exception as error:  # each backend has its own
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"compile: true, but torch.compile does not work on {device.type} here ({said[0]}); install a C++ compiler and "
            "the headers of Python (apt install g++ python3-dev; on a GPU also triton), or leave it out"
        ) from None
