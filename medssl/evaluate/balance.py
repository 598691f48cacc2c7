"""How two sides of a cohort differ: standardised differences, and whether a split of it goes with another one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from medssl.evaluate.intervals import quantile

Row = dict[str, Any]

FEWEST_EXPECTED = 5.0
"""Expected count of a cell below which chi-squared is not trusted."""


def difference_of_shares(first: np.ndarray, second: np.ndarray) -> Row | None:
    """The standardised difference of two shares (0 or 1 a patient) with its 95 % interval: Austin, Communications in
    Statistics 2009. None where a side is empty or neither varies.
    """
    if not len(first) or not len(second):
        return None
    a, b = first.mean(), second.mean()
    return _standardised(a - b, math.sqrt((a * (1 - a) + b * (1 - b)) / 2), len(first), len(second))


def difference_of_means(first: np.ndarray, second: np.ndarray) -> Row | None:
    """The standardised difference of two means (a value a patient) with its 95 % interval; None with fewer than two values
    on a side, or where neither varies.
    """
    if min(len(first), len(second)) < 2:
        return None
    spread = math.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2)
    return _standardised(first.mean() - second.mean(), spread, len(first), len(second))


def difference_of_sites(counts: np.ndarray) -> Row | None:
    """The standardised difference between two columns of counts (K, 2) over K kinds: Yang and Dalton, SAS Global Forum 2012.

    It has a size and no sign, and no interval: near zero its distribution is not normal. None with an empty column.
    """
    if counts.shape[0] < 2 or (counts.sum(0) == 0).any():
        return None
    shares = (counts / counts.sum(0))[1:]
    spread = sum(np.diag(p) - np.outer(p, p) for p in shares.T) / 2
    apart = shares[:, 0] - shares[:, 1]
    size = float(apart @ np.linalg.pinv(spread) @ apart)
    return {"value": math.sqrt(max(size, 0.0)), "low": None, "high": None}


def independence(counts: np.ndarray) -> Row:
    """{"p", "method", "reason"}: whether rows and columns of counts (K, 2) are independent, by chi-squared without
    correction; of two by two with few expected by Fisher's exact test. `p` is None with the reason where neither can.
    """
    from scipy import stats

    counts = counts[counts.sum(1) > 0]
    nothing: Row = {"p": None, "method": None}
    if counts.shape[0] < 2 or (counts.sum(0) == 0).any():
        return nothing | {"reason": "one side only: nothing to compare"}
    expected = counts.sum(1)[:, None] * counts.sum(0) / counts.sum()
    if expected.min() >= FEWEST_EXPECTED:
        p = float(stats.chi2_contingency(counts, correction=False).pvalue)
        return {"p": p, "method": "chi-squared over patients", "reason": ""}
    if counts.shape == (2, 2):
        return {"p": float(stats.fisher_exact(counts).pvalue), "method": "Fisher over patients", "reason": ""}
    return nothing | {"reason": "too few patients for chi-squared"}


def _standardised(difference: float, spread: float, first: int, second: int) -> Row | None:
    """With the large-sample interval of Hedges and Olkin (1985)."""
    if spread == 0:
        return {"value": 0.0, "low": None, "high": None} if difference == 0 else None
    value = float(difference / spread)
    half = quantile(0.95, math.inf) * math.sqrt(1 / first + 1 / second + value**2 / (2 * (first + second)))
    return {"value": value, "low": value - half, "high": value + half}
