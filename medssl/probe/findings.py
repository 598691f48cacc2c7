"""What a probe found, as numbers that can be written down, and what they mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medssl.probe.health import ALIKE, MOST_DEAD, Layer

GATE = 0.1
"""How far above chance the scanner may be read from the neighbours before it is called a leak."""

COLLAPSED = 0.05
"""Effective rank, as a share of what there could be, below which features count as collapsed."""

UNKNOWN = (math.nan, math.nan)
"""The interval of a class that is too rare for one."""


@dataclass(frozen=True, kw_only=True)
class Lines:
    """The linear probe with `few` labelled patients: the mean over `lots` of them, its interval, and that untrained."""

    few: int
    lots: int
    value: float
    interval: tuple[float, float]
    untrained: float


@dataclass(frozen=True, kw_only=True)
class Question:
    """A thing that may be read from the features: balanced accuracies of held-out patients, and that of chance.

    `linear` is with the most labelled patients of `curve`. `elsewhere` is the vote of neighbours that are apart in what was
    held out (another scanner), nan when nothing was. Intervals are at 95 %, patients drawn again.
    """

    name: str
    classes: int
    patients: int
    chance: float
    neighbours: float
    neighbours_untrained: float
    linear: float
    linear_untrained: float
    neighbours_interval: tuple[float, float] = UNKNOWN
    elsewhere: float = math.nan
    elsewhere_untrained: float = math.nan
    elsewhere_interval: tuple[float, float] = UNKNOWN
    curve: tuple[Lines, ...] = ()
    label: bool = False

    @property
    def learned(self) -> bool:
        """Whether the neighbours surely know it: all of the interval is above chance, and the value above the untrained."""
        return self.neighbours_interval[0] > self.chance and self.neighbours > self.neighbours_untrained


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found; `advice` says what to do about it, empty when nothing is wrong."""

    split: str
    volumes: int
    patients: int
    questions: tuple[Question, ...]
    rank: float
    rank_untrained: float
    dead: float
    variety: float
    advice: tuple[str, ...]
    layers: tuple[Layer, ...] = ()
    tokens: float = math.nan
    collapse: str = ""
    held_out: str = ""

    def __str__(self) -> str:
        lines = [
            f"{self.volumes} volumes of {self.patients} patients ({self.split}); balanced accuracy, untrained in brackets:",
            f"  {'':<14} {'chance':>7} {'neighbours':>15} {'line':>15}",
        ]
        lines += [
            f"  {q.name:<14} {q.chance:>7.2f} {q.neighbours:>8.2f} ({q.neighbours_untrained:.2f}) "
            f"{q.linear:>8.2f} ({q.linear_untrained:.2f})"
            for q in self.questions
        ]
        lines += [
            f"  {q.name}: {q.elsewhere:.2f} ({q.elsewhere_untrained:.2f}) by neighbours of another {self.held_out}"
            for q in self.questions
            if q.elsewhere == q.elsewhere
        ]
        lines += [
            f"  {q.name}: line of {one.few} labelled patients {one.value:.2f} ({one.untrained:.2f})"
            for q in self.questions
            if len(q.curve) > 1
            for one in q.curve
        ]
        lines.append(f"  directions in use: {self.rank:.1f} ({self.rank_untrained:.1f}); dead filters {self.dead:.0%}; "
                     f"variety of kernels {self.variety:.2f}")  # fmt: skip
        return "\n".join([*lines, *(f"  advice: {text}" for text in self.advice)])

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values; None for what has no value."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def leak(found: Findings) -> float:
    """How far above chance the nearest neighbours tell the scanner; nan where fewer than two scanners are known."""
    return next((q.neighbours - q.chance for q in found.questions if q.name == "scanner"), math.nan)


def verdict(found: Findings) -> list[tuple[str, str]]:
    """A sign and a sentence each: what was learned, whether the scanner leaks, whether it has collapsed."""
    said = []
    labels = [q for q in found.questions if q.label]
    for q in labels:
        low, high = q.neighbours_interval
        span = f", interval {low:.2f} to {high:.2f}" if low == low else ", too few of a class for an interval"
        numbers = f"{q.neighbours:.2f}{span}; untrained {q.neighbours_untrained:.2f}, chance {q.chance:.2f}"
        sign, words = ("✓", "learned") if q.learned else ("?", "not shown to be learned")
        said.append((sign, f"{q.name}: {words} (nearest neighbours {numbers})."))
    if not labels:
        said.append(("?", "No label is known of these patients: what it learned of disease cannot be said."))
    scanner = next((q for q in found.questions if q.name == "scanner"), None)
    if scanner is None:
        said.append(("?", "Scanner: fewer than two are known among these patients, so a leak cannot be seen."))
    else:
        leaks = leak(found) > GATE
        numbers = f"{scanner.neighbours:.2f}, untrained {scanner.neighbours_untrained:.2f}, chance {scanner.chance:.2f}"
        said.append(("▲" if leaks else "✓", f"The scanner {'leaks' if leaks else 'does not leak'} ({numbers})."))
    numbers = f"{found.rank:.1f} directions in use, untrained {found.rank_untrained:.1f}"
    if found.collapse:
        said.append(("▲", f"Collapsed, says the guard: {found.collapse}."))
    elif any("have collapsed" in text for text in found.advice):
        said.append(("▲", f"The features have collapsed ({numbers})."))
    else:
        said.append(("✓", f"The features have not collapsed ({numbers})."))
    return said


def advice(found: Findings, most: int) -> list[str]:
    """What to do about what was found; `most` is the greatest rank that there could be."""
    said = []
    for question in found.questions:
        if question.name == "scanner" and leak(found) > GATE:
            said.append(
                f"the scanner can be read from the features ({question.neighbours:.2f}, chance {question.chance:.2f}): take "
                "negatives from the same scanner only (same_scanner: true) where it is not so yet, and stronger changes of "
                "intensity"
            )
    if found.rank < max(2.0, COLLAPSED * most):
        said.append(
            f"the features use {found.rank:.1f} of {most} directions: they have collapsed; raise the batch, add vicreg, or "
            "lower the rate"
        )
    if found.dead > MOST_DEAD:
        said.append(f"{found.dead:.0%} of the filters do nothing: lower the rate or the weight decay")
    if poor := [layer.name for layer in found.layers if layer.degenerate]:
        said.append(
            f"{len(poor)} of {len(found.layers)} layers are degenerate ({', '.join(poor[:3])}{', ...' * (len(poor) > 3)}): "
            "train longer or with more data, or take a narrower trunk"
        )
    if found.tokens > ALIKE:
        said.append(
            f"the tokens of a scan are alike (mean |cosine| {found.tokens:.2f}): take fewer blocks, or a local term"
        )
    return said


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
