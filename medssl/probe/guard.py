"""Whether a pretraining still learns: what each term's head says of held-out scans, and what its loss would be if the
head said the same of all of them.

Neither the loss nor the trunk's rank alone tells: a distilled head stuck at ln K sits on a trunk of full rank, and the
loss of a term without negatives falls nicely while its head comes to say the same of every scan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from torch import nn

from medssl.methods import Method
from medssl.methods.method import Bank
from medssl.probe.rank import sphere_rank
from medssl.views import Batch

STUCK = 0.01
"""A loss nearer than this share to that of a head which says the same of everything is stuck there."""

LEAST_RANK = 2.0
"""Effective rank of a head's directions below which all scans lie on a line or in a point."""

LEAST_WIDTH = 4
"""Outputs of a head below which its rank says nothing (a logit, voxel values)."""

MOST_ROWS = 512
"""Vectors of a head of which the rank is taken: a head over voxels has millions."""

ADVICE = {
    "stuck": "lower lr or raise warmup, raise pretrain.batch (or the term's queue), take fewer prototypes or a higher "
    "teacher_temperature, or add a term that cannot get stuck with it (contrast, vicreg)",
    "flat": "lower lr, lengthen teacher_half_life, raise pretrain.batch, or add vicreg, which keeps directions apart",
}
"""What to do about a term whose loss is stuck, and about one whose head is flat."""


def head_of(term: nn.Module) -> nn.Module:
    """The part of a term whose output its loss compares: its first part with weights; of prototypes, what places on them."""
    first = next(part for part in term.children() if any(True for _ in part.parameters()))
    return cast(nn.Module, getattr(first, "project", first))


def measure(method: Method, batches: Sequence[Batch]) -> dict[str, float]:
    """Of each term NAME over `batches`: `loss_NAME`; `stuck_NAME`, the loss if its head said the same of everything; and
    `rank_NAME`, the effective rank of its answers' directions (nan of a head with few outputs).

    What is said of everything is nought or the mean of the answers, whichever has the lower loss. That is ln K for
    prototypes that are all used alike (SwAV, DINO, iBOT), ln N for a contrast of N candidates, ln 2 for a question of yes
    or no, and the variance of the target for a rebuild. The method must be in eval mode; what is random in it is drawn
    alike with and without the head.
    """
    answers: dict[str, list[torch.Tensor]] = {name: [] for name in method.terms}

    def listen(name: str, out: torch.Tensor) -> None:
        answers[name].append(_vectors(out))

    says: dict[str, Callable[[str, torch.Tensor], torch.Tensor | None]]
    says = {"real": listen, "nought": lambda _, out: torch.zeros_like(out), "mean": lambda _, out: _mean(out)}
    losses: dict[str, dict[str, list[float]]] = {way: {name: [] for name in method.terms} for way in says}
    for number, batch in enumerate(batches):
        torch.manual_seed(number)
        bank = Bank(method, batch)  # which runs the trunk once for all ways
        for way, then in says.items():
            with _heads(method, then):
                torch.manual_seed(number)
                for name, term in method.terms.items():
                    losses[way][name].append(term(bank).item())
    found = {}
    for name in method.terms:
        said = torch.cat(answers[name]).cpu().numpy() if answers[name] else np.zeros((0, 0))
        wide = said.shape[1] >= LEAST_WIDTH
        mean = {way: float(np.mean(losses[way][name])) for way in says}
        found[f"loss_{name}"] = mean["real"]
        found[f"stuck_{name}"] = min(mean["nought"], mean["mean"])
        found[f"rank_{name}"] = sphere_rank(said) if wide else float("nan")
    return found


def collapsed(rows: Sequence[Mapping[str, float]], patience: int) -> str:
    """What has collapsed over all of the last `patience` looks, and what to do about it; "" when nothing has."""
    last = rows[-patience:]
    if len(last) < patience:
        return ""
    for name in [key.removeprefix("loss_") for key in last[-1] if key.startswith("loss_")]:
        now = last[-1]
        if all(_stuck(row[f"loss_{name}"], row[f"stuck_{name}"]) for row in last):
            return (
                f"{name}: its loss {now[f'loss_{name}']:.4g} is within {STUCK:.0%} of {now[f'stuck_{name}']:.4g}, what "
                f"it is when the head says the same of every scan; {ADVICE['stuck']}"
            )
        if all(row[f"rank_{name}"] < LEAST_RANK for row in last):
            return (
                f"{name}: its head uses {now[f'rank_{name}']:.1f} directions, so that it says nearly the same of every "
                f"scan however well the loss falls; {ADVICE['flat']}"
            )
    if all(row["rank_trunk"] < LEAST_RANK for row in last):
        return f"trunk: its features use {last[-1]['rank_trunk']:.1f} directions; {ADVICE['flat']}"
    return ""


def _stuck(loss: float, stuck: float) -> bool:
    """Nought held against nought is a batch without a question."""
    return abs(stuck - loss) < STUCK * abs(stuck)


@contextmanager
def _heads(method: Method, then: Callable[[str, torch.Tensor], torch.Tensor | None]) -> Iterator[None]:
    """While it lasts, `then(term's name, what its head says)` is called; what it returns, if anything, is said instead."""
    hooks = [
        head_of(term).register_forward_hook(lambda _module, _inputs, out, name=name: then(name, out))
        for name, term in method.terms.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _mean(out: torch.Tensor) -> torch.Tensor:
    """The mean over rows and places in place of each, channels kept: (R, E) or (R, E, *S)."""
    return out.mean((0, *range(2, out.ndim)), keepdim=True).expand_as(out)


def _vectors(out: torch.Tensor) -> torch.Tensor:
    """Some vectors (n, E) of what a head says (R, E) or (R, E, *S), evenly taken."""
    rows = out.detach().float().movedim(1, -1).flatten(0, -2)
    return rows[:: -(-len(rows) // MOST_ROWS)]
