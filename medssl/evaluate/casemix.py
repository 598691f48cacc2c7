"""Groups compared as if their patients were alike in other things: weights that balance them, and metrics with weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from medssl.evaluate.metrics import Measured, freedom_of


@dataclass(frozen=True, eq=False)
class Balance:
    """What makes two sides alike: the weight of each row (N,), 0 where only one side has such rows, and which share of each
    class's rows (negative, positive) that is; 1 where no row has a like on the other side.
    """

    weight: np.ndarray
    outside: tuple[float, float]


def balance(*, truth: np.ndarray, inside: np.ndarray, stratum: np.ndarray) -> Balance:
    """Weights by which a group (`inside`, (N,) bool) and the rest have the same mix of strata (N,) among the positives, and
    among the negatives, as both together (direct standardisation; for AUROC as in Janes and Pepe, Biometrika 2009).

    Within each class, since AUROC, sensitivity and specificity are of rows of a class; so prevalence plays no part. Only
    strata that both sides have can be compared. Weights of a side and class are 1 on average over the rows that count.
    """
    weight, outside = np.zeros(len(truth)), []
    _, strata = np.unique(stratum, return_inverse=True)
    for label in (0, 1):
        sides = [(truth == label) & inside, (truth == label) & ~inside]
        counts = np.array([np.bincount(strata[side], minlength=strata.max(initial=0) + 1) for side in sides])
        both = (counts > 0).all(0)
        total = counts[:, both].sum()
        outside.append(1 - float(total) / max(int(counts.sum()), 1))
        for side, own in zip(sides, counts, strict=True):
            share = np.where(both, counts.sum(0) / max(int(total), 1), 0) / np.maximum(own, 1)
            weight[side] = share[strata[side]] * own[both].sum()
    return Balance(weight, (outside[0], outside[1]))


def effective_patients(weight: np.ndarray, patient: np.ndarray) -> float:
    """How many patients of equal weight would say as much as these rows; of rows without weight 0 (Kish)."""
    kept = weight > 0
    if not kept.any():
        return 0.0
    _, codes = np.unique(patient[kept], return_inverse=True)
    mean = np.bincount(codes, weight[kept]) / np.bincount(codes)
    return float(mean.sum() ** 2 / np.square(mean).sum())


def measure_weighted_auroc(
    *, truth: np.ndarray, score: np.ndarray, weight: np.ndarray, patient: np.ndarray, patients: int
) -> Measured:
    """AUROC of rows (N,) that count by their weight, with the influence of each of `patients` patients; nan where a class
    has no weight. With equal weights it is `measure_auroc`.

    The weights are taken as given. Those of `balance` are estimated, which makes the true error smaller, not larger: what
    strata differ by counts as noise here.
    """
    order = np.argsort(score, kind="stable")
    sick, weight, patient, score = truth[order] == 1, weight[order], patient[order], score[order]
    up, down = weight * sick, weight * ~sick
    if not up.any() or not down.any():
        return Measured(math.nan, np.zeros(patients), math.nan, "logit", "one class only")
    first = np.flatnonzero(np.append(True, np.diff(score) != 0))
    sizes = np.diff(np.append(first, len(score)))
    wins = []
    for other in (down, up):
        at = np.add.reduceat(other, first)
        wins.append(np.repeat((np.cumsum(at) - at / 2) / other.sum(), sizes))
    value = float((up * wins[0]).sum() / up.sum())
    parts, frees = [], []
    for own, placed in (up, wins[0]), (down, 1 - wins[1]):
        part = np.bincount(patient, own * (placed - value), patients) / own.sum()
        parts.append(part * _small(own, patient))
        frees.append(freedom_of(part, effective_patients(own, patient)))
    variances = [float(np.square(part).sum()) for part in parts]
    divisor = sum(variance**2 / free for variance, free in zip(variances, frees, strict=True))
    return Measured(value, parts[0] + parts[1], sum(variances) ** 2 / divisor if divisor else math.nan, "logit")


def measure_weighted_share(*, hit: np.ndarray, weight: np.ndarray, patient: np.ndarray, patients: int) -> Measured:
    """The share of weight on rows that are a hit (N,), as `measure_weighted_auroc`; nan where no row has weight."""
    if not weight.any():
        return Measured(math.nan, np.zeros(patients), math.nan, "logit", "no rows")
    value = float((weight * hit).sum() / weight.sum())
    part = np.bincount(patient, weight * (hit - value), patients) / weight.sum() * _small(weight, patient)
    return Measured(value, part, effective_patients(weight, patient) - 1, "logit")


def _small(weight: np.ndarray, patient: np.ndarray) -> float:
    """What a standard error over few patients must grow by."""
    count = len(np.unique(patient[weight > 0]))
    return math.sqrt(count / max(count - 1, 1))
