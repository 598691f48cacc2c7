"""Which learning rate: a range test, a short training whose rate grows step by step from far too small to far too large.

Smith, WACV 2017, arXiv:1506.01186. Differs: the rate grows by a factor, not by a summand; the loss is blurred over the
steps on both sides, so that the curve does not lag behind its rate; and it may be that the curve gives no answer, which is
said. A loss that falls is not yet learning: where a constant answer is best (BYOL, DINO), the curve can point to collapse.
"""

from __future__ import annotations

import csv
import math
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from medssl.atomic import replacing
from medssl.errors import UserError
from medssl.progress import Progress, silent
from medssl.recipe import Section
from medssl.rehearsal import PLANS, Kind
from medssl.runs import read_log
from medssl.store import open_store
from medssl.train import KEPT_BACK, fit

T = TypeVar("T")

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 100
"""The rates that are tried, one a step, evenly spaced in their logarithm."""

BLUR = 3.0
"""Steps, the standard deviation of the bell over which a loss is averaged: a fifth of a tenfold rise of the rate."""

BEGIN = 10
"""Steps at the start whose rate is too small to change anything: what the loss is before any learning."""

SURE = 5.0
"""Standard errors by which the loss has to fall. The lowest of some ten independent values of pure noise is 1.5 below the
middle, and lower than five once in some hundred thousand tests."""

LOOK = "look at trunk_lr, frozen and the weights of the terms"

TABLE, PICTURE = "rates.csv", "rates.svg"


@dataclass(frozen=True)
class Curve:
    """The loss of each step over its rate, up to the first that is not finite; and the same blurred."""

    rates: np.ndarray
    losses: np.ndarray
    smooth: np.ndarray

    @property
    def lowest(self) -> int:
        """The place where the blurred loss is lowest."""
        return int(self.smooth.argmin())

    @property
    def steepest(self) -> int:
        """The place, not after the lowest, where the blurred loss falls fastest."""
        return int(np.gradient(self.smooth, np.log(self.rates))[: self.lowest + 1].argmin())


@dataclass(frozen=True)
class Answer:
    """What a range test says. `lr` is the suggestion, None where there is none, and `why` is the rule, or why not."""

    lr: float | None
    why: str
    curve: Curve

    def __str__(self) -> str:
        return self.why if self.lr is None else f"lr: {self.lr:.2g} ({self.why})"


def find_rate(
    recipe: Section,
    store: Path | str,
    kind: Kind,
    *,
    start: Path | str | None = None,
    progress: Progress = silent,
) -> Answer:
    """What a range test of the training `kind` of a recipe says, on fresh weights, or those of `start`.

    The weights are thrown away. It takes `STEPS` steps; nothing of it stays. Raises UserError for all that the training
    itself would refuse.
    """
    planned = PLANS[kind](recipe, open_store(store), start)
    rates = np.geomspace(LOWEST, HIGHEST, STEPS)
    short = replace(planned.settings, steps=STEPS, log_every=1, save_every=STEPS, picture_every=STEPS)

    def trying(items: Iterable[T], description: str, total: int, done: int = 0) -> Iterator[T]:
        yield from progress(items, "trying rates", total, done)

    with tempfile.TemporaryDirectory(prefix="medssl-") as folder:
        try:
            fit(planned.model, planned.batches, short, Path(folder), trying, None, rates.tolist())
        except UserError as error:
            if KEPT_BACK not in str(error):
                raise
        rows = read_log(Path(folder) / "log.csv")
    known = {"step", "lr", "gradient_norm"}
    losses = np.array([sum(float(value) for name, value in row.items() if name not in known) for row in rows])
    return answer(rates[: len(losses)], losses)


def answer(rates: np.ndarray, losses: np.ndarray) -> Answer:
    """What a curve of losses over rising rates says; the curve is shorter than `STEPS` where the training broke off.

    The suggestion is the smaller of two: the rate at which the blurred loss falls fastest, and a tenth of the rate at which
    it is lowest.
    """
    curve = Curve(rates, losses, blurred(losses))
    if len(losses) <= BEGIN:
        return Answer(None, f"no answer: after {len(losses)} steps the loss was no longer finite; {LOOK}", curve)
    lowest, steepest = curve.lowest, curve.steepest
    fall = losses[:BEGIN].mean() - curve.smooth[lowest]
    chance = SURE * _error(losses[: max(lowest, BEGIN)])
    if fall <= chance:
        told = f"(at most by {max(fall, 0.0):.3g}; up to {chance:.3g} can be chance); raise batch or accumulate"
        return Answer(None, f"no answer: the loss never fell by more than its noise {told}", curve)
    if len(losses) == STEPS and lowest >= STEPS - BLUR:
        return Answer(None, f"no answer: the loss still falls at the highest rate, {rates[-1]:g}; {LOOK}", curve)
    steep, low = rates[steepest], rates[lowest]
    why = f"the smaller of {steep:.2g}, where the loss falls fastest, and a tenth of {low:.2g}, where it is lowest"
    return Answer(float(min(steep, low / 10)), why, curve)


def blurred(losses: np.ndarray) -> np.ndarray:
    """The losses, each averaged with those around it under a bell of `BLUR` steps; at the ends of those that there are."""
    steps = np.arange(len(losses))
    bell = np.exp(-0.5 * ((steps[:, None] - steps) / BLUR) ** 2)
    return bell @ losses / bell.sum(1)


def _error(losses: np.ndarray) -> float:
    """The standard error of the difference of the mean of `BEGIN` losses and one blurred loss.

    The noise is read from neighbours, which a slow change leaves alone; the median lets a few jumps pass. A bell averages
    over 2 sqrt(pi) BLUR independent values.
    """
    noise = 1.4826 * np.median(np.abs(np.diff(losses))) / math.sqrt(2)
    return float(noise * math.sqrt(1 / BEGIN + 1 / (2 * math.sqrt(math.pi) * BLUR)))


def write_curve(found: Answer, folder: Path) -> Path:
    """The picture, as SVG, of a range test; `folder` holds it and its numbers."""
    with replacing(folder / TABLE) as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["lr", "loss", "smooth"])
        for row in zip(found.curve.rates, found.curve.losses, found.curve.smooth, strict=True):
            writer.writerow([f"{value:.6g}" for value in row])
    import matplotlib as mpl

    with (
        mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": PICTURE}),
        replacing(folder / PICTURE) as part,
        part.open("w", encoding="utf-8") as file,
    ):
        _draw(found).savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return folder / PICTURE


def _draw(found: Answer) -> Any:
    from matplotlib.figure import Figure

    curve = found.curve
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.rates, curve.losses, ".", color="0.6", ms=3, label="loss of a step")
    axes.plot(curve.rates, curve.smooth, color="#0072b2", label="blurred")
    if found.lr is not None:
        axes.axvline(found.lr, color="#d55e00", label=f"suggested: {found.lr:.2g}")
        axes.axvline(curve.rates[curve.steepest], color="0.4", ls=":", label="falls fastest")
        axes.axvline(curve.rates[curve.lowest], color="0.4", ls="--", label="lowest")
    begin, low = curve.losses[:BEGIN].mean(), curve.smooth.min()
    room = max(begin - low, float(np.ptp(curve.losses[:BEGIN])), 1e-9)
    # What diverges runs out of the picture: the fall is what is looked for.
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(low - 0.2 * room, begin + room))
    axes.legend(frameon=False, fontsize=8)
    return figure
