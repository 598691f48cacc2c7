"""The bootstrap over patients: multinomial weights from a fixed seed, shared by whatever is measured on the same patients.

A replicate is a column of weights, one a patient: all rows of a patient are drawn together. The same number of patients
and the same seed give the same weights, so that differences between two models, or two groups, keep what their errors
have in common. Memory does not grow with the number of replicates: a few of them are held at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from medssl.evaluate.ranking import auroc_of, average_precision_of, rank

REPLICATES = 2000
SEED = 20_260_101
CELLS = 2**18
"""Weights held at once (patients times replicates), but one whole replicate at least: what stays in a processor's cache."""

MOST_LOST = 0.01
"""Share of replicates without a value (a class drawn empty) beyond which no interval is given."""

BLOCKS = 200
"""Patients, or equal blocks of patients, left out in turn to estimate the acceleration."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""Weights (patients, replicates) -> values (replicates,), or (several statistics, replicates)."""


def counts(patients: int, replicates: int = REPLICATES, seed: int = SEED) -> Iterator[np.ndarray]:
    """How often each patient is drawn, as bytes (patients, some replicates); every column adds up to `patients`.

    Each column lies together in memory. Bytes wrap around at 256: sum them into a wider type.
    """
    rng = np.random.default_rng(seed)
    for start, stop in _chunks(patients, replicates):
        drawn = rng.integers(0, patients, (stop - start, patients))
        drawn += patients * np.arange(stop - start)[:, None]
        many = np.bincount(drawn.ravel(), minlength=drawn.size).astype(np.uint8)
        yield many.reshape(drawn.shape).T


def weights(patients: int, replicates: int = REPLICATES, seed: int = SEED) -> Iterator[np.ndarray]:
    """`counts` as floats, for arithmetic of any kind."""
    return (drawn.astype(float) for drawn in counts(patients, replicates, seed))


def resampled(statistic: Statistic, patients: int) -> tuple[np.ndarray, np.ndarray]:
    """The values of a statistic of `counts` in every replicate, and with each block of patients left out in turn.

    Replicates are the last axis of both. Several statistics that are found together cost the draws once.
    """
    drawn = np.concatenate([statistic(chunk) for chunk in counts(patients)], axis=-1)
    blocks = min(patients, BLOCKS)
    block = np.arange(patients) % blocks
    left_out = [
        statistic((block != np.arange(start, stop)[:, None]).astype(np.uint8).T)
        for start, stop in _chunks(patients, blocks)
    ]
    return drawn, np.concatenate(left_out, axis=-1)


def bootstrap_interval(value: float, statistic: Statistic, patients: int, level: float = 0.95) -> tuple[float, float]:
    """The bias-corrected and accelerated interval of `statistic` of float weights, see `accelerated_interval`."""
    return accelerated_interval(value, *resampled(lambda drawn: statistic(drawn.astype(float)), patients), level)


def accelerated_interval(
    value: float, drawn: np.ndarray, left_out: np.ndarray, level: float = 0.95
) -> tuple[float, float]:
    """The bias-corrected and accelerated interval of a value whose replicates (R,) are `drawn` and whose jackknife values
    are `left_out`; nan where too many replicates have no value.

    Efron, Journal of the American Statistical Association 1987. Invariant to rescaling, so no logit is needed. The
    acceleration is that of at most 200 blocks of patients: of independent patients, blocks estimate the same number.
    """
    from scipy import stats

    known = np.sort(drawn[~np.isnan(drawn)])
    if len(known) < (1 - MOST_LOST) * len(drawn):
        return math.nan, math.nan
    if known[0] == known[-1]:
        return float(known[0]), float(known[0])
    below = (np.sum(known < value) + 0.5 * np.sum(known == value)) / len(known)
    if not 0 < below < 1:
        return math.nan, math.nan
    bias, pull = stats.norm.ppf(below), _acceleration(left_out)
    ends = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        z = bias + stats.norm.ppf(share)
        ends.append(float(np.quantile(known, stats.norm.cdf(bias + z / (1 - pull * z)))))
    return ends[0], ends[1]


def _acceleration(left_out: np.ndarray) -> float:
    """Skewness of the jackknife values over six."""
    values = left_out[~np.isnan(left_out)]
    moved = values.mean() - values
    size = np.square(moved).sum()
    return float((moved**3).sum() / (6 * size**1.5)) if size > 0 else 0.0


def _chunks(patients: int, columns: int) -> Iterator[tuple[int, int]]:
    """First and last (excluded) of the columns to hold at a time."""
    width = max(1, CELLS // max(patients, 1))
    return ((start, min(start + width, columns)) for start in range(0, columns, width))


def weighted_mean(values: np.ndarray) -> Statistic:
    """The mean of one value a patient, as a function of the patients' weights."""
    return lambda weight_PR: values @ weight_PR / weight_PR.sum(0)


def weighted_auroc(truth: np.ndarray, score: np.ndarray, patient: np.ndarray) -> Statistic:
    """AUROC of rows (N,) that belong to `patient` (N,), ties count half; nan where a class has no weight."""
    ranking = rank(truth, score, patient)
    return lambda weight_PR: auroc_of(ranking.levels(weight_PR))


def weighted_average_precision(truth: np.ndarray, score: np.ndarray, patient: np.ndarray) -> Statistic:
    """Average precision of rows (N,) that belong to `patient` (N,); nan where no positive has weight."""
    ranking = rank(truth, score, patient)
    return lambda weight_PR: average_precision_of(ranking.levels(weight_PR))


def weighted_confusion(truth: np.ndarray, flagged: np.ndarray, patient: np.ndarray) -> Statistic:
    """Weights (4, replicates) of the rows (N,) found, missed, falsely flagged and spared; all rates are ratios of these."""
    cell = np.where(truth == 1, np.where(flagged, 0, 1), np.where(flagged, 2, 3))
    people = int(patient.max(initial=-1)) + 1
    rows_4P = np.bincount(cell * people + patient, minlength=4 * people).reshape(4, people).astype(float)
    return lambda weight_PR: rows_4P @ weight_PR[:people]
