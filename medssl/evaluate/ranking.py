"""Ranking metrics under many weightings of the patients at once, without a sort for each.

Rows are sorted once. Negatives matter only by how many lie below each score that a positive has, so that a weighting
costs two running sums: AUROC, average precision, and sensitivity and specificity at each other's targets are sums over
these levels. Shapes: P patients, R weightings (columns of weights (P, R)), L levels, the distinct scores of positives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

LARGEST_WEIGHT = 255
"""Of a patient whose weight is held in a byte."""

ROUNDING = 1e-9
"""Share by which a weighted sum may fall short of a target and still reach it: 1 - .9 is a little less than .1 in floats."""


class Levels(NamedTuple):
    """Weights (R, L) at each distinct score of the positives, lowest first, and of both classes (R,).

    `gained` is that of the positives with this score, `below` and `up_to` those of the negatives under it, and under it or
    equal to it.
    """

    gained: np.ndarray
    below: np.ndarray
    up_to: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray


@dataclass(frozen=True, eq=False)
class Ranking:
    """Rows in the order of their scores: whose each positive and each negative is, the first positive of each level (L,),
    and how many negatives lie below and up to each level (L,).
    """

    positive: np.ndarray
    negative: np.ndarray
    first: np.ndarray
    below: np.ndarray
    up_to: np.ndarray

    def levels(self, weight_PR: np.ndarray) -> Levels:
        """What the metrics are sums over; `weight_PR` are bytes, or numbers of any kind (slower)."""
        by_weighting = weight_PR.T
        rows = max(len(self.negative), len(self.positive))
        whole = np.int32 if rows * LARGEST_WEIGHT < 2**31 else np.int64
        kind = whole if weight_PR.dtype.itemsize == 1 else float
        running = np.zeros((len(by_weighting), len(self.negative) + 1), kind)
        np.cumsum(by_weighting.take(self.negative, axis=1), axis=1, out=running[:, 1:])
        gained = by_weighting.take(self.positive, axis=1)
        if len(self.first) < len(self.positive):
            gained = np.add.reduceat(gained, self.first, axis=1, dtype=kind)
        below = running.take(self.below, axis=1)
        same = np.array_equal(self.below, self.up_to)
        up_to = below if same else running.take(self.up_to, axis=1)
        return Levels(gained, below, up_to, gained.sum(1, dtype=float), running[:, -1].astype(float))


def rank(truth: np.ndarray, score: np.ndarray, patient: np.ndarray) -> Ranking:
    """Rows (N,) of patients with the numbers `patient` (N,), sorted; either class may be absent."""
    sick, well = np.flatnonzero(truth == 1), np.flatnonzero(truth != 1)
    sick, well = sick[np.argsort(score[sick], kind="stable")], well[np.argsort(score[well], kind="stable")]
    level, first = np.unique(score[sick], return_index=True)
    below, up_to = (np.searchsorted(score[well], level, side) for side in ("left", "right"))
    return Ranking(patient[sick], patient[well], first, below, up_to)


def auroc_of(levels: Levels) -> np.ndarray:
    """AUROC (R,), ties count half; nan where a class has no weight."""
    # Twice the number of pairs in the right order: a whole number, which floats hold exactly.
    won = np.einsum("rl,rl->r", levels.gained, levels.below, dtype=float)
    won += won if levels.up_to is levels.below else np.einsum("rl,rl->r", levels.gained, levels.up_to, dtype=float)
    return _over(won, 2 * levels.positives * levels.negatives)


def average_precision_of(levels: Levels) -> np.ndarray:
    """Average precision (R,), a step sum over distinct scores; nan where no positive has weight."""
    found = levels.positives[:, None] - _missed(levels)
    flagged = found + levels.negatives[:, None] - levels.below
    # A level above which nobody was drawn has no precision, and no recall to multiply it with.
    flagged[flagged == 0] = 1
    precision = np.divide(found, flagged, out=found)
    return _over(np.einsum("rl,rl->r", levels.gained, precision), levels.positives)


def sensitivity_at(levels: Levels, specificity: float) -> np.ndarray:
    """The largest sensitivity (R,) of a threshold that reaches `specificity`, found anew for each weighting; a score at the
    threshold is flagged. nan where a class has no weight, 0 where only a threshold above all positives reaches it.
    """
    reached = levels.below >= (specificity - ROUNDING) * levels.negatives[:, None]
    found = np.einsum("rl,rl->r", levels.gained, reached, dtype=float)
    return np.where(levels.negatives > 0, _over(found, levels.positives), np.nan)


def specificity_at(levels: Levels, sensitivity: float) -> np.ndarray:
    """The largest specificity (R,) of a threshold that reaches `sensitivity`, found anew for each weighting; nan where a
    class has no weight.
    """
    reached = _missed(levels) <= (1 - sensitivity + ROUNDING) * levels.positives[:, None]
    spared = np.where(reached, levels.below, 0).max(1, initial=0).astype(float)
    return np.where(levels.positives > 0, _over(spared, levels.negatives), np.nan)


def _missed(levels: Levels) -> np.ndarray:
    """Weight (R, L) of the positives under each level."""
    missed = np.zeros_like(levels.gained, dtype=levels.below.dtype)
    np.cumsum(levels.gained[:, :-1], axis=1, out=missed[:, 1:])
    return missed


def _over(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)
