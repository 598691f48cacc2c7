"""Whether scores are probabilities: of those told 20 %, it should be true of 20 %.

Recalibration regresses the label on the log odds of the score (Cox, Biometrika 1958; Van Calster et al., BMC Medicine 2019).
Errors come from what each patient contributes, so two eyes of a patient are not two patients. Scores of 0 and 1 count as
`temperature.SURE` from them: their log odds have no end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from medssl.evaluate.bootstrap import SEED
from medssl.evaluate.intervals import quantile
from medssl.evaluate.metrics import Measured, measure_brier, measure_share
from medssl.evaluate.temperature import SURE, logit

MOST_STEPS = 100
"""Newton steps after which a likelihood is said to have no maximum."""

KNOTS = (0.05, 0.35, 0.65, 0.95)
"""Quantiles of the log odds between which the smooth curve bends (Harrell, Regression Modeling Strategies)."""

CHANCE_DRAWS = 1000
"""Draws behind what a perfectly calibrated model would show."""

CHANCE_ROWS = 2000
"""Rows, evenly spread over the scores, on which the draws of the smooth curve are looked at."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A logistic regression: its coefficients (K,) and how far each patient moves them (P, K)."""

    coefficients: np.ndarray
    influence: np.ndarray


@dataclass(frozen=True)
class AgainstChance:
    """An error that is never negative, and what of it a perfectly calibrated model with the same scores would show: the
    mean, and the range of 19 in 20 such cohorts. `reason` says why there is none.
    """

    value: float
    chance: float
    low: float
    high: float
    reason: str = ""


def fit_logistic(
    design: np.ndarray, truth: np.ndarray, offset: np.ndarray, patient: np.ndarray, patients: int
) -> Fit | None:
    """The fit of highest likelihood by Newton's method; None where there is none or more than one.

    `design` is (N, K) and `offset` (N,) is added to its log odds. The influence is that of the sandwich over patients, of
    which `patients` bounds the numbers, times G / (G - 1) in the variance for G patients that have rows.
    """
    coefficients = np.zeros(design.shape[1])
    for _ in range(MOST_STEPS):
        mean = _expit(offset + design @ coefficients)
        information = design.T @ (design * (mean * (1 - mean))[:, None])
        try:
            step = np.linalg.solve(information, design.T @ (truth - mean))
        except np.linalg.LinAlgError:
            return None
        if not np.isfinite(step).all():
            return None
        before = _log_likelihood(truth, offset + design @ coefficients)
        # Full steps overshoot where the scores are surer than the truth.
        while _log_likelihood(truth, offset + design @ (coefficients + step)) < before - 1e-9 * abs(before):
            step = step / 2
        coefficients = coefficients + step
        if np.abs(step).max() <= 1e-10 * (1 + np.abs(coefficients).max()):
            break
    else:
        return None
    residual = truth - _expit(offset + design @ coefficients)
    sums = np.stack([np.bincount(patient, residual * column, patients) for column in design.T], axis=1)
    return Fit(coefficients, np.linalg.solve(information, sums.T).T * _few(patient))


def measure_in_the_large(truth: np.ndarray, score: np.ndarray, patient: np.ndarray, patients: int) -> Measured:
    """Calibration in the large: what must be added to the log odds of every score so that they agree with the truth on
    average. 0 is right, above 0 the scores are too low. nan for one class only.
    """
    if reason := _one_class(truth):
        return _none(patients, reason)
    found = fit_logistic(np.ones((len(truth), 1)), truth, logit(score), patient, patients)
    return _coefficient(found, 0, truth, patient, patients)


def measure_slope(truth: np.ndarray, score: np.ndarray, patient: np.ndarray, patients: int) -> Measured:
    """The slope of the truth's log odds over the score's. 1 is right, below 1 scores are too extreme, above too timid.

    nan for one class only, equal scores, and scores that separate the classes: then no finite slope is the best.
    """
    if reason := _one_class(truth):
        return _none(patients, reason)
    odds = logit(score)
    if odds.min() == odds.max():
        return _none(patients, "all scores are equal")
    well, sick = odds[truth == 0], odds[truth == 1]
    if well.max() <= sick.min() or sick.max() <= well.min():
        return _none(patients, "the scores separate the classes: no finite slope")
    design = np.stack([np.ones(len(odds)), odds], axis=1)
    found = fit_logistic(design, truth, np.zeros(len(odds)), patient, patients)
    return _coefficient(found, 1, truth, patient, patients)


def measure_ratio(truth: np.ndarray, score: np.ndarray, patient: np.ndarray, patients: int) -> Measured:
    """The logarithm of how many positives there are for each that the scores expect (O:E); 0 is right.

    nan without positives, or where the scores expect none.
    """
    observed, expected = float(truth.sum()), float(score.sum())
    if observed == 0 or expected == 0:
        return _none(patients, "no positive" if observed == 0 else "the scores expect no positive")
    influence = np.bincount(patient, truth / observed - score / expected, patients) * _few(patient)
    return Measured(math.log(observed / expected), influence, _freedom(truth, patient), "identity")


def measure_log_loss(truth: np.ndarray, score: np.ndarray, patient: np.ndarray, patients: int) -> Measured:
    """The mean over rows of minus the logarithm of the probability given to what was true."""
    loss = -np.log(np.clip(np.where(truth == 1, score, 1 - score), SURE, 1))
    return replace(measure_share(loss, patient, patients), scale="identity")


def measure_scaled_brier(truth: np.ndarray, score: np.ndarray, patient: np.ndarray, patients: int) -> Measured:
    """By which share the Brier score is below that of telling everybody the prevalence (index of prediction accuracy).

    1 is perfect, 0 says nothing, below 0 the scores mislead. nan for one class only. Kattan and Gerds, Diagnostic and
    Prognostic Research 2018.
    """
    if reason := _one_class(truth):
        return _none(patients, reason)
    own, share = measure_brier(truth, score, patient, patients), measure_share(truth, patient, patients)
    useless = share.value * (1 - share.value)
    change = (1 - 2 * share.value) * share.influence
    influence = own.value / useless**2 * change - own.influence / useless
    return Measured(1 - own.value / useless, influence, own.freedom, "identity")


def integrated_index(truth: np.ndarray, score: np.ndarray, patient: np.ndarray, patients: int) -> AgainstChance:
    """The mean distance of the scores from the smooth curve of the truth over them (ICI), against chance.

    Austin and Steyerberg, Statistics in Medicine 2019. The curve is a logistic regression on a natural cubic spline of the
    log odds with four knots (a straight line where scores have too few values), not a loess: that has no errors
    over patients. Chance is that of the coefficients where the scores are right, drawn from a fixed seed with `kinship`.
    """
    if reason := _one_class(truth):
        return AgainstChance(math.nan, math.nan, math.nan, math.nan, reason)
    design = spline(logit(score))
    found = fit_logistic(design, truth, np.zeros(len(truth)), patient, patients)
    if found is None:
        return AgainstChance(math.nan, math.nan, math.nan, math.nan, "no smooth curve fits best")
    value = float(np.abs(_expit(design @ found.coefficients) - score).mean())
    rows = np.argsort(score, kind="stable")[:: -(-len(score) // CHANCE_ROWS)]
    root = _root_of_chance(design, score, patient, kinship(truth, score, patient))
    moved = np.random.default_rng(SEED).standard_normal((CHANCE_DRAWS, design.shape[1])) @ root
    drawn = np.abs(_expit(logit(score[rows]) + moved @ design[rows].T) - score[rows]).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return AgainstChance(value, float(drawn.mean()), float(low), float(high))


def kinship(truth: np.ndarray, score: np.ndarray, patient: np.ndarray) -> float:
    """The correlation, 0 to 1, of what the scores do not explain of two rows of a patient; 0 where nobody has two."""
    residual, spread = truth - score, np.sqrt(score * (1 - score))

    def pairs(values: np.ndarray) -> float:
        return float((np.bincount(patient, values) ** 2 - np.bincount(patient, values**2)).sum())

    possible = pairs(spread)
    return min(max(pairs(residual) / possible, 0.0), 1.0) if possible > 1e-12 else 0.0


def spline(odds: np.ndarray) -> np.ndarray:
    """The columns (N, K) of a natural cubic spline of `odds` (N,): 1, itself, and where it has enough values two more that
    are straight beyond the outer knots; only 1 where all are equal.
    """
    if odds.min() == odds.max():
        return np.ones((len(odds), 1))
    knots = np.unique(np.quantile(odds, KNOTS))
    columns = [np.ones(len(odds)), odds]
    if len(knots) >= 3:
        *inner, one, last = knots
        for knot in inner:
            later = _cubed(odds - one) * (last - knot) - _cubed(odds - last) * (one - knot)
            columns.append((_cubed(odds - knot) - later / (last - one)) / (last - knots[0]) ** 2)
    return np.stack(columns, axis=1)


def interval(measured: Measured, level: float = 0.95) -> tuple[float, float]:
    """Student's interval of a value whose errors are of patients; nan where one patient has all rows."""
    if math.isnan(measured.value) or measured.freedom < 1 or measured.error == 0:
        return math.nan, math.nan
    half = quantile(level, measured.freedom) * measured.error
    return measured.value - half, measured.value + half


def _coefficient(found: Fit | None, place: int, truth: np.ndarray, patient: np.ndarray, patients: int) -> Measured:
    if found is None:
        return _none(patients, "no best fit")
    return Measured(float(found.coefficients[place]), found.influence[:, place], _freedom(truth, patient), "identity")


def _none(patients: int, reason: str) -> Measured:
    return Measured(math.nan, np.zeros(patients), math.nan, "identity", reason)


def _one_class(truth: np.ndarray) -> str:
    return "" if 0 < truth.sum() < len(truth) else "one class only"


def _freedom(truth: np.ndarray, patient: np.ndarray) -> float:
    """How many patients of the rarer class there are, less one: they are what is scarce."""
    return min(len(np.unique(patient[truth == label])) for label in (0, 1)) - 1


def _few(patient: np.ndarray) -> float:
    """By how much a sum over patients is too small as an error, of so few."""
    count = len(np.unique(patient))
    return math.sqrt(count / max(count - 1, 1))


def _root_of_chance(design: np.ndarray, score: np.ndarray, patient: np.ndarray, together: float) -> np.ndarray:
    """A matrix R (K, K) that gives normal draws (., K) the covariance of the coefficients where the scores are right."""
    likely = np.clip(score, SURE, 1 - SURE)
    weighed = design * np.sqrt(likely * (1 - likely))[:, None]
    alone = weighed.T @ weighed
    sums = np.stack([np.bincount(patient, column) for column in weighed.T], axis=1)
    bread = np.linalg.inv(alone)
    values, vectors = np.linalg.eigh(bread @ ((1 - together) * alone + together * sums.T @ sums) @ bread)
    return np.sqrt(np.clip(values, 0, None))[:, None] * vectors.T


def _cubed(x: np.ndarray) -> np.ndarray:
    return np.clip(x, 0, None) ** 3


def _expit(odds: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -odds))


def _log_likelihood(truth: np.ndarray, odds: np.ndarray) -> float:
    return float((truth * odds - np.logaddexp(0, odds)).sum())
