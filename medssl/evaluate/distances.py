"""How far the scores of a site lie from those of all others, and how far they would by chance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medssl.evaluate.bootstrap import SEED

PERMUTATIONS = 999
MOST_VALUES = 1000
"""Scores at which distributions are compared; with more different ones, a distance may be 0.001 too small."""


class Apart(NamedTuple):
    """The largest difference between two shares of scores up to some value (Kolmogorov and Smirnov's distance); what 95 % of
    random sites do not exceed; and the p, corrected for the number of sites by Holm's method.
    """

    distance: float
    by_chance: float
    p: float


def distances(score: np.ndarray, patient: np.ndarray, site: np.ndarray, sites: int) -> list[Apart]:
    """The distance of each of `sites` from all others, of rows (N,) with a score, the number of their patient and of their
    site; nan of a site with no rows or all of them. The number `sites` is that of any further one, of which nothing is told.

    By chance: sites are dealt anew to the patients, each with all rows that a patient has at a site, so that a patient with
    many rows is one. At least one patient.
    """
    units, unit = np.unique(patient * (sites + 1) + site, return_inverse=True)
    home = units % (sites + 1)
    values = np.unique(score)
    if len(values) > MOST_VALUES:
        values = np.quantile(score, np.linspace(0, 1, MOST_VALUES), method="higher")
    step = np.minimum(np.searchsorted(values, score), len(values) - 1)
    rng = np.random.default_rng(SEED)
    seen = _distances(step, home[unit], len(values), sites)
    dealt = np.array([_distances(step, rng.permutation(home)[unit], len(values), sites) for _ in range(PERMUTATIONS)])
    # Rounding is no difference: a permutation that deals the same sites anew is as far.
    p = np.where(np.isnan(seen), np.nan, (1 + (dealt >= seen - 1e-12).sum(0)) / (1 + PERMUTATIONS))
    columns = seen, np.quantile(dealt, 0.95, axis=0), _holm(p)
    return [Apart(*map(float, one)) for one in zip(*columns, strict=True)]


def _distances(step: np.ndarray, site: np.ndarray, values: int, sites: int) -> np.ndarray:
    """The distance of each site (S,), of rows whose score is number `step` of so many values."""
    wide = sites + 1
    up_to = np.cumsum(np.bincount(step * wide + site, minlength=values * wide).reshape(values, wide), 0)
    inside, others = up_to[-1], len(step) - up_to[-1]
    apart = up_to / np.maximum(inside, 1) - (up_to.sum(1, keepdims=True) - up_to) / np.maximum(others, 1)
    return np.where((inside > 0) & (others > 0), np.abs(apart).max(0), np.nan)[:sites]


def _holm(p: np.ndarray) -> np.ndarray:
    """p corrected for how many are known (Holm 1979)."""
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1))
    found = np.full(len(p), np.nan)
    found[order] = np.minimum(steps, 1)
    return found
