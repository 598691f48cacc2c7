"""Metrics as functions of truth and score, and how far each patient moves them.

A `Measured` carries, beside its value, an influence for each patient: how much the metric changes when the patient
weighs more. Sums of their squares are variances that respect that two eyes of a patient are not two patients; sums of
products are covariances between groups and between models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, eq=False)
class Measured:
    """A metric's value, the influence of each patient (P,), degrees of freedom, and the scale on which it is normal.

    `value` is nan with a `reason` where the metric does not exist.
    """

    value: float
    influence: np.ndarray
    freedom: float
    scale: str
    reason: str = ""

    @property
    def error(self) -> float:
        """Standard error of the value, with the patient as the unit."""
        return float(np.sqrt(np.square(self.influence).sum()))


def auroc(*, truth: np.ndarray, score: np.ndarray) -> float:
    """Chance that a random positive outscores a random negative; ties count half.

    nan when either class is absent: a subgroup with no cases has no AUROC, and 0.5 would be a lie.
    """
    high, _ = _placements(truth, score)
    return float(high.mean()) if high.size else math.nan


def measure_auroc(truth: np.ndarray, score: np.ndarray, patient: np.ndarray, patients: int) -> Measured:
    """AUROC with the influence of each of `patients` patients; `patient` (N,) are their numbers.

    DeLong et al., Biometrics 1988, summed within patients as in Obuchowski, Biometrics 1997. Degrees of freedom after
    Welch and Satterthwaite, counted in patients, of variances that are less certain than those of normal values: most
    positives lie above all negatives, and the few that do not make the variance.
    """
    high, low = _placements(truth, score)
    if not high.size:
        return Measured(math.nan, np.zeros(patients), math.nan, "logit", "one class only")
    value = float(high.mean())
    parts, frees = [], []
    for rows, placements in (truth == 1, high), (truth == 0, low):
        part = np.bincount(patient[rows], (placements - value) / rows.sum(), patients)
        count = len(np.unique(patient[rows]))
        parts.append(part * math.sqrt(count / max(count - 1, 1)))
        frees.append((float(np.square(parts[-1]).sum()), freedom_of(part, count)))
    weight = sum(variance**2 / free for variance, free in frees)
    freedom = sum(variance for variance, _ in frees) ** 2 / weight if weight else math.nan
    return Measured(value, parts[0] + parts[1], freedom, "logit")


def freedom_of(part: np.ndarray, count: float) -> float:
    """Degrees of freedom of the variance of `count` patients' parts (P,), whose sum is zero: 2 / Var(S^2 / sigma^2), which
    takes their kurtosis, and is count - 1 where it is that of a normal; never more than that, nor less than 1.
    """
    square = float(np.square(part).sum())
    if count < 2 or square == 0:
        return max(count - 1, 1)
    kurtosis = count * float(np.square(np.square(part)).sum()) / square**2
    return max(1.0, min(count - 1, 2 / (2 / (count - 1) + (kurtosis - 3) / count)))


def measure_share(hit: np.ndarray, patient: np.ndarray, patients: int) -> Measured:
    """The share of rows that are a hit (sensitivity of the positives, specificity of the negatives, prevalence)."""
    if not hit.size:
        return Measured(math.nan, np.zeros(patients), math.nan, "logit", "no rows")
    value = float(hit.mean())
    influence = np.bincount(patient, (hit - value) / hit.size, patients)
    count = len(np.unique(patient))
    return Measured(value, influence * math.sqrt(count / max(count - 1, 1)), count - 1, "logit")


def measure_brier(truth: np.ndarray, score: np.ndarray, patient: np.ndarray, patients: int) -> Measured:
    """The mean over rows of the squared difference of score and label, with the influence of each patient."""
    return replace(measure_share(np.square(score - truth), patient, patients), scale="identity")


def measure_mean(values: np.ndarray, patient: np.ndarray, patients: int) -> Measured:
    """The mean over patients of each patient's mean; nan values are left out and a patient without any does not count."""
    kept = ~np.isnan(values)
    rows = np.bincount(patient[kept], minlength=patients)
    if not kept.any():
        return Measured(math.nan, np.zeros(patients), math.nan, "identity", "no values")
    there = rows > 0
    means = np.bincount(patient[kept], values[kept], patients)[there] / rows[there]
    influence = np.zeros(patients)
    count = len(means)
    influence[there] = (means - means.mean()) / count * math.sqrt(count / max(count - 1, 1))
    return Measured(float(means.mean()), influence, count - 1, "identity")


def patient_means(values: np.ndarray, patient: np.ndarray) -> np.ndarray:
    """Each patient's mean, of those who have a value."""
    kept = ~np.isnan(values)
    rows = np.bincount(patient[kept]) if kept.any() else np.zeros(0, int)
    return np.bincount(patient[kept], values[kept])[rows > 0] / rows[rows > 0] if kept.any() else np.zeros(0)


def average_precision(*, truth: np.ndarray, score: np.ndarray) -> float:
    """Area under precision over recall, as a step sum over distinct scores; nan without positives."""
    if not (truth == 1).any():
        return math.nan
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)
    hits = np.cumsum(truth[order] == 1)[last]
    precision = hits / (np.flatnonzero(last) + 1)
    return float((np.diff(np.append(0, hits)) * precision).sum() / hits[-1])


def brier(*, truth: np.ndarray, score: np.ndarray) -> float:
    """Mean squared difference of score and label; nan without rows."""
    return float(np.square(score - truth).mean()) if truth.size else math.nan


def sensitivity(*, truth: np.ndarray, score: np.ndarray, threshold: float) -> float:
    """Share of the positives with a score at or above the threshold; nan without positives."""
    return float((score[truth == 1] >= threshold).mean()) if (truth == 1).any() else math.nan


def specificity(*, truth: np.ndarray, score: np.ndarray, threshold: float) -> float:
    """Share of the negatives with a score below the threshold; nan without negatives."""
    return float((score[truth == 0] < threshold).mean()) if (truth == 0).any() else math.nan


def _placements(truth: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each positive the share of negatives below it, for each negative the share of positives above; ties half.

    Both are empty when a class is absent. O(n log n) by binary search.
    """
    positive, negative = np.sort(score[truth == 1]), np.sort(score[truth == 0])
    if not positive.size or not negative.size:
        return np.zeros(0), np.zeros(0)
    own = score[truth == 1]
    below = (np.searchsorted(negative, own, "left") + np.searchsorted(negative, own, "right")) / (2 * negative.size)
    own = score[truth == 0]
    up_to = (np.searchsorted(positive, own, "left") + np.searchsorted(positive, own, "right")) / (2 * positive.size)
    return below, 1 - up_to
