"""Intervals with the patient as the unit."""

from __future__ import annotations

import math

import numpy as np

from medssl.evaluate.bootstrap import (
    MOST_LOST,
    REPLICATES,
    accelerated_interval,
    bootstrap_interval,
    resampled,
    weighted_average_precision,
    weighted_mean,
)
from medssl.evaluate.metrics import Measured, average_precision

MANY_PATIENTS = 50
"""From here on a mean's interval is a bootstrap over patients; below it is Student's."""

FEWEST_POSITIVE_PATIENTS = 10
"""Patients with a positive row below which average precision gets no interval: the bootstrap would be too narrow."""

Interval = tuple[float, float, str]
"""Lower end, upper end, and the name of the method."""


def logit(p: float) -> float:
    """Log odds."""
    return math.log(p / (1 - p))


def expit(x: float) -> float:
    """Inverse of logit, safe at both ends."""
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def quantile(level: float, freedom: float) -> float:
    """Two-sided Student quantile; the normal one where degrees of freedom are unknown or many."""
    from scipy import stats

    share = (1 + level) / 2
    return float(stats.norm.ppf(share) if not freedom < 1e6 else stats.t.ppf(share, max(freedom, 1.0)))


def auroc_interval(measured: Measured, positives: int, negatives: int, level: float = 0.95) -> Interval:
    """Interval of an AUROC: symmetric on the logit scale with Student's t; at 0 or 1 a score bound.

    `positives` and `negatives` count patients. At the boundary the DeLong variance is zero and says nothing; the bound
    solves the score equation with Newcombe's method-5 variance (Statistics in Medicine 2006). nan where a class has one
    patient, or where all scores are equal: nothing varies, which is not the same as certainty.
    """
    a = measured.value
    if math.isnan(a):
        return math.nan, math.nan, "none"
    if a in (0.0, 1.0):
        bound = _newcombe_bound(max(a, 1 - a), positives, negatives, level)
        return (bound, 1.0, "Newcombe score bound") if a > 0.5 else (0.0, 1 - bound, "Newcombe score bound")
    if min(positives, negatives) < 2:
        return math.nan, math.nan, "none: one patient of a class"
    if measured.error == 0:
        return math.nan, math.nan, "none: all scores are equal"
    half = quantile(level, measured.freedom) * measured.error / (a * (1 - a))
    return expit(logit(a) - half), expit(logit(a) + half), "clustered DeLong, logit t"


def _newcombe_bound(a: float, positives: int, negatives: int, level: float) -> float:
    """The smallest AUROC that an observed `a` does not contradict, by bisection."""
    z = quantile(level, math.inf)
    star = (positives + negatives) / 2 - 1

    def contradicted(truth: float) -> bool:
        share = 1 + star * (1 - truth) / (2 - truth) + star * truth / (1 + truth)
        variance = truth * (1 - truth) * share / max(positives * negatives, 1)
        return (a - truth) ** 2 > z**2 * variance

    low, high = 0.0, a - 1e-12
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if contradicted(middle) else (low, middle)
    return low


def share_interval(measured: Measured, rows: int, patients: int, level: float = 0.95) -> Interval:
    """Wilson interval of a share on the effective number of rows (Rao and Scott's design effect of patients).

    At 0 or 1 the rows of a patient are taken to agree wholly, so the number of patients is the effective one.
    """
    p = measured.value
    if math.isnan(p):
        return math.nan, math.nan, "none"
    inside = p * (1 - p)
    effect = max(1.0, measured.error**2 * (rows - 1) / inside) if inside > 0 else rows / max(patients, 1)
    n, z = rows / effect, quantile(level, math.inf)
    middle, spread = p + z**2 / (2 * n), z * math.sqrt(inside / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale), "Wilson on effective n"


def mean_interval(values: np.ndarray, level: float = 0.95) -> Interval:
    """Interval of the mean of one value a patient: Student below 50 patients, BCa bootstrap from there on."""
    count = len(values)
    if count < 2:
        return math.nan, math.nan, "none: one patient"
    mean = float(values.mean())
    if count < MANY_PATIENTS or float(np.ptp(values)) == 0:
        half = quantile(level, count - 1) * float(values.std(ddof=1)) / math.sqrt(count)
        return mean - half, mean + half, "Student t over patients"
    low, high = bootstrap_interval(mean, weighted_mean(values), count, level)
    return low, high, f"BCa bootstrap over patients, {REPLICATES} replicates"


def median_interval(values: np.ndarray, level: float = 0.95) -> Interval:
    """Interval of the median of one value a patient, between two of them: right for any distribution, and never narrower
    than `level` says; none below 6 patients (Conover, Practical Nonparametric Statistics).

    Not by the bootstrap, which draws the same few values over and over.
    """
    from scipy import stats

    place = int(stats.binom.ppf((1 - level) / 2, len(values), 0.5))
    if place < 1:
        return math.nan, math.nan, "none: fewer than 6 patients"
    ranked = np.sort(values)
    return float(ranked[place - 1]), float(ranked[-place]), "order statistics"


def error_interval(measured: Measured, level: float = 0.95) -> Interval:
    """Interval of a mean over rows (Brier score), its error from the patients' influence; kept within 0..1."""
    if math.isnan(measured.value) or measured.freedom < 1:
        return math.nan, math.nan, "none: one patient"
    half = quantile(level, measured.freedom) * measured.error
    return max(0.0, measured.value - half), min(1.0, measured.value + half), "clustered mean, t"


def precision_interval(
    truth: np.ndarray,
    score: np.ndarray,
    patient: np.ndarray,
    level: float = 0.95,
    *,
    draws: tuple[np.ndarray, np.ndarray] | None = None,
) -> Interval:
    """Interval of average precision by the bootstrap over patients; nan below 10 patients with a positive row, and where
    whoever is drawn does not change it, as with perfect scores.

    `draws`: its replicates and jackknife values, where these were found before.
    """
    if len(np.unique(patient[truth == 1])) < FEWEST_POSITIVE_PATIENTS:
        return math.nan, math.nan, f"none: fewer than {FEWEST_POSITIVE_PATIENTS} patients with a positive"
    value, patients = average_precision(truth=truth, score=score), int(patient.max()) + 1
    found = draws or resampled(weighted_average_precision(truth, score, patient), patients)
    low, high = accelerated_interval(value, *found, level)
    if math.isnan(low) or low == high:
        return math.nan, math.nan, "none: at its boundary"
    return low, high, f"BCa bootstrap over patients, {REPLICATES} replicates"


def attained_interval(value: float, drawn: np.ndarray, patients: int, level: float = 0.95) -> Interval:
    """Interval of a sensitivity or specificity whose threshold was found anew in each of its replicates `drawn` (R,): their
    percentiles; nan where more than 1 % have none.

    At 0 or 1 it holds Wilson's interval of `patients` as well, those of the class that the share is of: replicates of what
    went right every time do not vary.
    """
    known = drawn[~np.isnan(drawn)]
    if len(known) < (1 - MOST_LOST) * len(drawn):
        return math.nan, math.nan, "none: a class is often drawn empty"
    low, high = (float(end) for end in np.quantile(known, [(1 - level) / 2, (1 + level) / 2]))
    if value in (0.0, 1.0):
        certain = Measured(value, np.zeros(patients), math.nan, "logit")
        bounds = share_interval(certain, patients, patients, level)
        low, high = min(low, bounds[0]), max(high, bounds[1])
    return low, high, f"bootstrap over patients, {REPLICATES} replicates, each with a threshold of its own"
