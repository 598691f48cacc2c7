"""Scores in bins: what was expected and what came, its error against what chance alone would show, and how scores spread.

Bins hold equally many rows, by one rule for any group, and equal scores are never parted. The error of bins grows as rows
become fewer even where every score is right, so it is never told alone (Ricci Lara et al., arXiv:2305.05101).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from medssl.evaluate.bootstrap import SEED
from medssl.evaluate.calibration import AgainstChance, kinship
from medssl.evaluate.intervals import quantile, share_interval
from medssl.evaluate.metrics import measure_share

BINS = 10

REPLICATES = 400
"""Cohorts of a perfectly calibrated model that are drawn to tell what chance alone shows."""

DRAWN_AT_ONCE = 4_000_000
"""Labels drawn at once: bounds the memory."""


def bins_of(score: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The bin (N,), 0 to below `bins`, of each score: by the middle rank of those equal to it. A bin may be empty."""
    ranked = np.sort(score)
    middle = (np.searchsorted(ranked, score, "left") + np.searchsorted(ranked, score, "right")) / 2
    return np.minimum((middle * bins / len(score)).astype(int), bins - 1)


def expected_error(truth: np.ndarray, score: np.ndarray, patient: np.ndarray) -> AgainstChance:
    """Expected calibration error (ECE): the mean over rows of how far their bin's share of positives is from its mean score.

    Chance is the same number for labels drawn from the scores, from a fixed seed; two rows of a patient are drawn together
    as often as `kinship` says.
    """
    _, place = np.unique(bins_of(score), return_inverse=True)
    value = float(_error(np.bincount(place, truth - score)[None]).mean() / len(score))
    together, rng = kinship(truth, score, patient), np.random.default_rng(SEED)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(place.max() + 1))
    _, owner = np.unique(patient, return_inverse=True)
    drawn: list[np.ndarray] = []
    at_once = max(1, DRAWN_AT_ONCE // len(score))
    for start in range(0, REPLICATES, at_once):
        count = min(at_once, REPLICATES - start)
        luck = rng.random((count, len(score)))
        if together > 0:
            shared, one = rng.random((count, owner.max() + 1)), rng.random((count, owner.max() + 1))
            luck = np.where((shared < together)[:, owner], one[:, owner], luck)
        residual = ((luck < score) - score)[:, order]
        drawn.append(_error(np.add.reduceat(residual, starts, axis=1)) / len(score))
    chance = np.concatenate(drawn)
    low, high = np.quantile(chance, [0.025, 0.975])
    return AgainstChance(value, float(chance.mean()), float(low), float(high))


def _error(sums_RB: np.ndarray) -> np.ndarray:
    return np.abs(sums_RB).sum(1)


def squared_error(truth: np.ndarray, score: np.ndarray, patient: np.ndarray, level: float = 0.95) -> dict[str, float]:
    """`value`, `low` and `high` of the mean over rows of the square of their bin's error, less what chance adds to it.

    On average that of the bins' true errors: 0 for a perfectly calibrated model of any size, and then below 0 every other
    time (Kumar et al., arXiv:1909.10155). We differ in counting patients: bins that share one vary together. The interval
    solves a score equation like Wilson's: the variance of the quadratic form grows with the error it is of, and does not
    vanish with it.
    """
    _, place = np.unique(bins_of(score), return_inverse=True)
    _, owner = np.unique(patient, return_inverse=True)
    rows = np.bincount(place)
    error = np.bincount(place, truth - score) / rows
    moves = np.zeros((owner.max() + 1, len(rows)))
    np.add.at(moves, (owner, place), (truth - score - error[place]) / rows[place])
    there = np.zeros(moves.shape, bool)
    there[owner, place] = True
    people = there.sum(0)
    moves *= np.sqrt(people / np.maximum(people - 1, 1))
    weight, covariance = rows / len(score), moves.T @ moves
    value = float(weight @ (error**2 - np.diag(covariance)))
    both = (weight[:, None] * covariance) * weight
    noise, plain = 2 * float((both * covariance.T).sum()), float(weight @ error**2)
    growth, z = 2 * float(error @ both @ error) / plain if plain else 0.0, quantile(level, math.inf)
    middle = value + z**2 * growth
    half = z * math.sqrt(max(noise + 2 * growth * value + (z * growth) ** 2, 0.0))
    return {"value": value, "low": middle - half, "high": middle + half}


def curve(truth: np.ndarray, score: np.ndarray, patient: np.ndarray, minimum: int) -> list[dict[str, Any]]:
    """Points of a reliability curve by rising score: mean score, share of positives with Wilson's interval over patients,
    and how many patients. Of as many bins as 10 allow `minimum` patients each; one with fewer is joined to the next.
    """
    bins = min(max(len(np.unique(patient)) // minimum, 1), BINS)
    place = bins_of(score, bins)
    groups, pending = [], np.zeros(len(score), bool)
    for one in range(bins):
        pending = pending | (place == one)
        if len(np.unique(patient[pending])) >= minimum:
            groups.append(pending)
            pending = np.zeros(len(score), bool)
    if pending.any():
        groups[-1:] = [groups[-1] | pending if groups else pending]
    return [_point(truth[inside], score[inside], patient[inside]) for inside in groups]


def _point(truth: np.ndarray, score: np.ndarray, patient: np.ndarray) -> dict[str, Any]:
    names, codes = np.unique(patient, return_inverse=True)
    measured = measure_share(truth, codes, len(names))
    low, high, _ = share_interval(measured, len(truth), len(names))
    return {
        "score": float(score.mean()), "value": measured.value, "low": low, "high": high, "n_patients": len(names),
    }  # fmt: skip


def spread(score: np.ndarray, patient: np.ndarray, edges: Sequence[float], minimum: int) -> list[int | None]:
    """How many rows have a score between each two `edges` (the last one included); None for those of fewer than `minimum`
    patients, and for the next smallest ones until those hidden are as many together, so that no sum gives them away.
    """
    place = np.clip(np.searchsorted(edges, score, "right") - 1, 0, len(edges) - 2)
    people = np.array([len(np.unique(patient[place == one])) for one in range(len(edges) - 1)])
    hidden = (people > 0) & (people < minimum)
    while hidden.any() and people[hidden].sum() < minimum and (rest := ~hidden & (people > 0)).any():
        hidden[np.flatnonzero(rest)[np.argmin(people[rest])]] = True
    rows = np.bincount(place, minlength=len(edges) - 1)
    return [None if hide else int(count) for hide, count in zip(hidden, rows, strict=True)]
