"""Which learning rate: a range test, a short training whose rate grows step by step from far too small to far too large.

Smith, WACV 2017, arXiv:1506.01186. Differs: the rate grows by a factor, not by a summand. Batches differ more than a few
steps of learning change, so every batch is also given, with the same masks, to weights that never move, and what is looked
at is the difference: possible because a batch follows from its number. It is blurred over the steps on both sides, so that
the curve does not lag behind its rate; and where it gives no answer, that is said. A loss that falls is not yet learning:
where a constant answer is best (BYOL, DINO), the curve can point to collapse.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from medssl.atomic import replacing
from medssl.errors import UserError
from medssl.place import ask_alone
from medssl.progress import Progress, silent
from medssl.recipe import Section
from medssl.rehearsal import PLANS, Kind
from medssl.runs import read_log
from medssl.store import open_store
from medssl.train import KEPT_BACK, Plan, fit

T = TypeVar("T")

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 100
"""The rates that are tried, one a step, evenly spaced in their logarithm."""

BLUR = 3.0
"""Steps, the standard deviation of the bell over which a loss is averaged: a fifth of a tenfold rise of the rate."""

BEGIN = 10
"""Steps at the start in which no rate is large enough to learn by: a curve that is lowest there only rises."""

AROUND = 12
"""Steps on each side of the lowest loss from which the noise there is told."""

SURE = 5.0
"""Standard errors by which the loss has to fall: the curve has some ten independent values, and the lowest is looked at."""

LOOK = "look at trunk_lr, frozen and the weights of the terms"

TABLE, PICTURE = "rates.csv", "rates.svg"


@dataclass(frozen=True)
class Curve:
    """The loss of each step over its rate, up to the first that is not finite, and that of the untrained weights."""

    rates: np.ndarray
    losses: np.ndarray
    untrained: np.ndarray

    @property
    def change(self) -> np.ndarray:
        """By which part of itself the loss of each batch is higher (0: untrained, -1: nothing of it is left).

        A loss below a tenth of their median is held against that: one near zero has no parts.
        """
        size = np.abs(self.untrained)
        return (self.losses - self.untrained) / np.maximum(np.maximum(size, np.median(size) / 10), 1e-12)

    @property
    def smooth(self) -> np.ndarray:
        """The change blurred."""
        return blurred(self.change)

    @property
    def lowest(self) -> int:
        """The place where the blurred change is lowest."""
        return int(self.smooth.argmin())

    @property
    def steepest(self) -> int:
        """The place, not after the lowest, where it falls fastest."""
        return int(np.gradient(self.smooth, np.log(self.rates))[: self.lowest + 1].argmin())

    @property
    def error(self) -> float:
        """The standard error of the lowest blurred change, from how the `AROUND` changes on each side differ from theirs.

        Of a value less the mean of its two neighbours the variance is 1.5 times that of a value; a steady slope leaves none.
        A loss that has doubled has diverged: by how much more says nothing of the noise.
        """
        bent = np.diff(np.minimum(self.change, 1.0), 2)[max(self.lowest - 1 - AROUND, 0) : self.lowest + AROUND] / 2
        bell = _bell(len(self.rates))[self.lowest]
        return float(np.sqrt((bent**2).mean() / 1.5 * (bell @ bell)))


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

    The weights are thrown away. It takes twice `STEPS` steps; nothing of it stays. Raises UserError for all that the
    training itself would refuse.
    """
    ask_alone("--find-lr")
    store_, rates = open_store(store), np.geomspace(LOWEST, HIGHEST, STEPS)
    untrained = _losses(PLANS[kind](recipe, store_, start), np.zeros(STEPS), progress)
    losses = _losses(PLANS[kind](recipe, store_, start), rates, progress)
    return answer(Curve(rates[: len(losses)], losses, untrained[: len(losses)]))


def _losses(planned: Plan, rates: np.ndarray, progress: Progress) -> np.ndarray:
    """The loss of each step with these rates, up to the first that is not finite."""
    steps, moves = len(rates), bool(rates.any())

    def trying(items: Iterable[T], description: str, total: int, done: int = 0) -> Iterator[T]:
        yield from progress(items, "trying rates" if moves else "untrained weights", total, done)

    short = replace(planned.settings, steps=steps, log_every=1, save_every=steps, picture_every=steps, may_rise=0.0)
    with tempfile.TemporaryDirectory(prefix="medssl-") as folder:
        try:
            fit(planned.model, planned.batches, short, Path(folder), trying, None, rates.tolist())
        except UserError as error:
            if KEPT_BACK not in str(error) or not moves:
                raise
        rows = read_log(Path(folder) / "log.csv")
    known = {"step", "lr", "gradient_norm"}
    return np.array([sum(float(value) for name, value in row.items() if name not in known) for row in rows])


def answer(curve: Curve) -> Answer:
    """What a curve says; it is shorter than `STEPS` where the training broke off.

    The suggestion is the smaller of two: the rate at which the loss falls fastest, and a tenth of that where it is lowest.
    """
    count = len(curve.rates)
    if count <= BEGIN:
        return Answer(None, f"no answer: after {count} steps the loss was no longer finite; {LOOK}", curve)
    fall, chance = -curve.smooth[curve.lowest], SURE * curve.error
    if fall <= chance or curve.lowest < BEGIN:
        told = f"(at most by {max(fall, 0.0):.2%}; up to {chance:.2%} can be chance); raise batch or accumulate"
        return Answer(None, f"no answer: the loss never fell by more than its noise {told}", curve)
    steep, low = curve.rates[curve.steepest], curve.rates[curve.lowest]
    if count == STEPS and curve.lowest >= STEPS - BLUR:
        return Answer(None, f"no answer: the loss still falls at the highest rate, {low:.2g}; {LOOK}", curve)
    why = f"the smaller of {steep:.2g}, where the loss falls fastest, and a tenth of {low:.2g}, where it is lowest"
    return Answer(float(min(steep, low / 10)), why, curve)


def blurred(values: np.ndarray) -> np.ndarray:
    """The values, each averaged with those around it under a bell of `BLUR` steps; at the ends of those that there are."""
    return _bell(len(values)) @ values


def _bell(count: int) -> np.ndarray:
    """Each row the weights, one in all, of the values around one."""
    steps = np.arange(count)
    bell = np.exp(-0.5 * ((steps[:, None] - steps) / BLUR) ** 2)
    return bell / bell.sum(1, keepdims=True)


def write_curve(found: Answer, folder: Path) -> Path:
    """The picture, as SVG, of a range test; `folder` holds it and its numbers."""
    with replacing(folder / TABLE) as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        curve = found.curve
        writer.writerow(["lr", "loss", "untrained", "change", "smooth"])
        for row in zip(curve.rates, curve.losses, curve.untrained, curve.change, curve.smooth, strict=True):
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
    axes.plot(curve.rates, 100 * curve.change, ".", color="0.6", ms=3, label="a step")
    axes.plot(curve.rates, 100 * curve.smooth, color="#0072b2", label="blurred")
    if found.lr is not None:
        axes.axvline(found.lr, color="#d55e00", label=f"suggested: {found.lr:.2g}")
        axes.axvline(curve.rates[curve.steepest], color="0.4", ls=":", label="falls fastest")
        axes.axvline(curve.rates[curve.lowest], color="0.4", ls="--", label="lowest")
    room = 100 * max(-curve.smooth.min(), curve.error, 1e-4)
    # What diverges runs out of the picture: the fall is what is looked for.
    axes.set(xscale="log", xlabel="learning rate", ylim=(-1.3 * room, room))
    axes.set_ylabel("loss against untrained weights, %")
    axes.legend(frameon=False, fontsize=8)
    return figure
