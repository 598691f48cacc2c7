"""The bootstrap over patients: multinomial weights from a fixed seed, shared by whatever is measured on the same patients.

A replicate is a column of weights, one a patient: all rows of a patient are drawn together. The same number of patients
and the same seed give the same weights, so that differences between two models keep what their errors have in common.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

REPLICATES = 2000
SEED = 20_260_101
CHUNK = 64
"""Replicates held at once: bounds the memory at this many numbers a row."""

MOST_LOST = 0.01
"""Share of replicates without a value (a class drawn empty) beyond which no interval is given."""

BLOCKS = 200
"""Patients, or equal blocks of patients, left out in turn to estimate the acceleration."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""Weights (patients, replicates) -> values (replicates,)."""


def weights(patients: int, replicates: int = REPLICATES, seed: int = SEED) -> Iterator[np.ndarray]:
    """Counts (patients, up to 64) of how often each patient is drawn; every column adds up to `patients`."""
    rng = np.random.default_rng(seed)
    for start in range(0, replicates, CHUNK):
        drawn = rng.integers(0, patients, (min(CHUNK, replicates - start), patients))
        yield np.stack([np.bincount(row, minlength=patients) for row in drawn], axis=1).astype(float)


def bootstrap_interval(value: float, statistic: Statistic, patients: int, level: float = 0.95) -> tuple[float, float]:
    """The bias-corrected and accelerated interval of `statistic`; nan where too many replicates have no value.

    Efron, Journal of the American Statistical Association 1987. Invariant to rescaling, so no logit is needed.
    """
    from scipy import stats

    draws = np.concatenate([statistic(chunk) for chunk in weights(patients)])
    known = np.sort(draws[~np.isnan(draws)])
    if len(known) < (1 - MOST_LOST) * len(draws):
        return math.nan, math.nan
    if known[0] == known[-1]:
        return float(known[0]), float(known[0])
    below = (np.sum(known < value) + 0.5 * np.sum(known == value)) / len(known)
    if not 0 < below < 1:
        return math.nan, math.nan
    bias, pull = stats.norm.ppf(below), _acceleration(statistic, patients)
    ends = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        z = bias + stats.norm.ppf(share)
        ends.append(float(np.quantile(known, stats.norm.cdf(bias + z / (1 - pull * z)))))
    return ends[0], ends[1]


def _acceleration(statistic: Statistic, patients: int) -> float:
    """Skewness of the jackknife values over six."""
    blocks = min(patients, BLOCKS)
    left_out = np.ones((patients, blocks))
    left_out[np.arange(patients), np.arange(patients) % blocks] = 0
    values = np.concatenate([statistic(left_out[:, k : k + CHUNK]) for k in range(0, blocks, CHUNK)])
    values = values[~np.isnan(values)]
    moved = values.mean() - values
    size = np.square(moved).sum()
    return float((moved**3).sum() / (6 * size**1.5)) if size > 0 else 0.0


def weighted_mean(values: np.ndarray) -> Statistic:
    """The mean of one value a patient, as a function of the patients' weights."""
    return lambda weight_PR: values @ weight_PR / weight_PR.sum(0)


def weighted_average_precision(truth: np.ndarray, score: np.ndarray, patient: np.ndarray) -> Statistic:
    """Average precision of rows (N,) that belong to `patient` (N,); nan where no positive has weight."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)
    sick, owner = (truth[order] == 1)[:, None], patient[order]

    def statistic(weight_PR: np.ndarray) -> np.ndarray:
        row_NR = weight_PR[owner]
        all_LR, hit_LR = np.cumsum(row_NR, 0)[last], np.cumsum(row_NR * sick, 0)[last]
        # A level above which nobody was drawn has no precision, and no recall to multiply it with.
        precision_LR = hit_LR / np.maximum(all_LR, 1)
        gained_LR = np.diff(hit_LR, axis=0, prepend=0)
        positives = hit_LR[-1]
        found = (gained_LR * precision_LR).sum(0) / np.maximum(positives, 1)
        return np.where(positives > 0, found, np.nan)

    return statistic
