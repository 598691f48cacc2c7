"""How far apart groups are: rates and AUROC by group, their largest difference and how much of it is noise.

The largest difference of several noisy values is above zero also where all groups are equal, the more so the more groups
there are and the smaller they are. So each stands beside what it would be by chance (`null_draws`), its interval is one in
which all pairs of groups hold together, and the spread between groups is corrected for noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from medssl.errors import UserError
from medssl.evaluate.bootstrap import SEED
from medssl.evaluate.groups import DRAWS, scaled, slope, unscaled
from medssl.evaluate.intervals import quantile
from medssl.evaluate.metrics import Measured, measure_auroc, measure_share

MEASURES = ("auroc", "sensitivity", "specificity", "ppv", "flagged")
"""What is measured in a group: in this order wherever they are rows of an array."""

PERMUTATIONS = 300
"""Cohorts with shuffled groups; two times in three the 95 % point of so many is a true 93.7 to 96.3 % point."""

AT_ITS_END = "a group is at 0 or 1: its error cannot be estimated"


@dataclass(frozen=True, eq=False, kw_only=True)
class Cohort:
    """Rows by group as arrays (N,): truth 0 or 1, score, number of the patient, number of the group. By name only, since
    truth and score are easily swapped; then truth is not 0 or 1 and this raises UserError.

    `threshold` is the score from which a row is flagged, None where there is none: then only AUROC is measured.
    """

    truth: np.ndarray
    score: np.ndarray
    patient: np.ndarray
    group: np.ndarray
    threshold: float | None

    def __post_init__(self) -> None:
        wrong = self.truth[~np.isin(self.truth, (0, 1))]
        if wrong.size:
            raise UserError(f"disparity: truth {wrong[0]} is not 0 or 1; were truth and score swapped?")

    def rows_of(self, measure: str) -> np.ndarray:
        """Which rows a measure is of (N,)."""
        if measure in ("auroc", "flagged"):
            return np.ones(len(self.truth), bool)
        return self.flagged if measure == "ppv" else self.truth == (measure == "sensitivity")

    @property
    def flagged(self) -> np.ndarray:
        """Which rows are flagged (N,)."""
        return self.score >= (math.inf if self.threshold is None else self.threshold)

    @property
    def measures(self) -> tuple[str, ...]:
        """What can be measured."""
        return MEASURES if self.threshold is not None else MEASURES[:1]


def measure(cohort: Cohort, name: str, rows: np.ndarray, patients: int) -> Measured:
    """A measure of some of the rows (N,) bool, with the influence of each of `patients` patients."""
    if name == "auroc":
        return measure_auroc(cohort.truth[rows], cohort.score[rows], cohort.patient[rows], patients)
    kept = rows & cohort.rows_of(name)
    yes = {"ppv": cohort.truth == 1, "specificity": ~cohort.flagged}.get(name, cohort.flagged)
    return measure_share(yes[kept].astype(float), cohort.patient[kept], patients)


def values_by_group(cohort: Cohort, groups: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function from the group of each row (N,) to all measures (measures, groups); nan where a group has none.

    Sorted once, so that thousands of groupings of the same rows cost O(N) each.
    """
    order = np.argsort(cohort.score, kind="stable")
    sick, flagged, score = cohort.truth[order] == 1, cohort.flagged[order], cohort.score[order]
    level = np.cumsum(np.append(True, np.diff(score) != 0)[: len(score)])

    def by_group(group: np.ndarray) -> np.ndarray:
        group = group[order].astype(np.int16)
        counts = np.bincount(4 * group + 2 * sick + flagged, minlength=4 * groups).reshape(groups, 4).astype(float)
        spared, false, missed, found = counts.T
        area = _share(_wins(group, sick, level, groups), (missed + found) * (spared + false))
        rates = [
            (found, missed + found),
            (spared, spared + false),
            (found, found + false),
            (found + false, counts.sum(1)),
        ]
        return np.stack([area, *(_share(*rate) for rate in rates)])[: len(cohort.measures)]

    return by_group


def _wins(group: np.ndarray, sick: np.ndarray, level: np.ndarray, groups: int) -> np.ndarray:
    """In each group how many pairs of a positive and a negative row are ranked rightly, ties half; rows sorted by score."""
    place = np.argsort(group, kind="stable")  # of 16-bit numbers a counting sort
    group, sick, level = group[place], sick[place], level[place]
    starts = np.flatnonzero(np.append(True, (np.diff(group) != 0) | (np.diff(level) != 0)))
    ill, well, of = (
        np.add.reduceat(sick.astype(int), starts),
        np.add.reduceat((~sick).astype(int), starts),
        group[starts],
    )
    before = np.cumsum(np.bincount(of, well, groups)) - np.bincount(of, well, groups)
    below = np.cumsum(well) - well - before[of]
    return np.bincount(of, ill * (below + well / 2), groups)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def largest(values: np.ndarray) -> np.ndarray:
    """The largest minus the smallest along the last axis; nan where fewer than two are known."""
    known = np.where(np.isnan(values), -np.inf, values).max(-1) - np.where(np.isnan(values), np.inf, values).min(-1)
    return np.where((~np.isnan(values)).sum(-1) > 1, known, np.nan)


def equity_scaled(*, whole: np.ndarray | float, groups: np.ndarray) -> dict[str, np.ndarray]:
    """An AUROC `whole` scaled down by how far those of `groups` (..., G) are from it, each form by its own name.

    es_auc_sum  whole / (1 + sum of |group - whole|); Luo et al., IEEE TMI 2024. The more groups, the smaller: never to be
                compared between attributes
    es_auc_std  whole / (1 + standard deviation of the groups); Tian et al., ICLR 2024
    disparity_std, disparity_max  standard deviation, and largest minus smallest, over whole
    Standard deviations divide by the number of groups, as in the code of these papers; over a `whole` of 0 both are nan.
    Groups without a value must be left out by the caller and named; there a missing one was entered as -1.
    """
    some = np.where(np.asarray(whole) == 0, np.nan, whole)
    gap, spread = np.abs(groups - np.asarray(whole)[..., None]).sum(-1), groups.std(-1)
    return {
        "es_auc_sum": whole / (1 + gap),
        "es_auc_std": whole / (1 + spread),
        "disparity_std": spread / some,
        "disparity_max": np.ptp(groups, axis=-1) / some,
    }


def null_draws(cohort: Cohort, groups: int) -> Iterator[np.ndarray]:
    """All measures (measures, groups) in cohorts whose patients of equal outcome were shuffled between groups.

    The outcome of a patient is whether there are positive rows, negative ones, or both. Each group keeps how many it has of
    each, so what is left of a difference is noise; of `ppv` and `flagged` it is also what unequal prevalence makes of equal
    sensitivity and specificity. A patient in several groups is shuffled as one patient in each.
    """
    by_group = values_by_group(cohort, groups)
    key = cohort.patient.astype(np.int64) * groups + cohort.group
    _, first, block = np.unique(key, return_index=True, return_inverse=True)
    outcome = 2 * (np.bincount(block, cohort.truth) > 0) + (np.bincount(block, 1 - cohort.truth) > 0)
    own, strata = cohort.group[first], [np.flatnonzero(outcome == one) for one in np.unique(outcome)]
    rng = np.random.default_rng(SEED)
    for _ in range(PERMUTATIONS):
        shuffled = np.empty_like(own)
        for members in strata:
            shuffled[members] = rng.permutation(own[members])
        yield by_group(shuffled[block])


def no_error(measured: Sequence[Measured]) -> str:
    """Why nothing can be said of the errors of some groups' values, or ""."""
    return AT_ITS_END if any(one.value in (0.0, 1.0) or one.error == 0 for one in measured) else ""


def range_interval(families: Sequence[Sequence[Measured]]) -> tuple[float, float]:
    """95 % interval of the largest difference between two groups, within whichever of the families it is largest.

    All pairs hold together: the critical value is that of the largest of all their differences, drawn jointly from what
    each patient moves each group (a bootstrap with normal weights shared by all groups), on the scale on which the measure
    is normal, with Welch's degrees of freedom for each pair. So the lower end may be 0, which the percentiles of a
    resampled largest difference never reach. Simulated coverage .93 to .98. `no_error` says where there is none.
    """
    groups = [one for family in families for one in family]
    starts = np.cumsum([0, *(len(family) for family in families)])
    pairs = [
        pair
        for first, family in zip(starts, families, strict=False)
        for pair in combinations(range(first, first + len(family)), 2)
    ]
    spread = np.array([one.influence / slope(one) for one in groups])
    covariance = spread @ spread.T
    left, right = np.array(pairs).T
    variance = covariance[left, left] + covariance[right, right] - 2 * covariance[left, right]
    errors = np.sqrt(np.maximum(variance, 1e-30))
    drawn = _normal(covariance)
    top = np.zeros(len(drawn))
    for i, j, error in zip(left, right, errors, strict=True):
        top = np.maximum(top, np.abs(drawn[:, i] - drawn[:, j]) / error)
    critical, single = float(np.quantile(top, 0.95)), quantile(0.95, math.inf)
    low, high = 0.0, 0.0
    for i, j, error in zip(left, right, errors, strict=True):
        a, b = groups[i], groups[j]
        free = (covariance[i, i] + covariance[j, j]) ** 2 / (
            covariance[i, i] ** 2 / max(a.freedom, 1) + covariance[j, j] ** 2 / max(b.freedom, 1)
        )
        half = max(critical, single) * quantile(0.95, free) / single * float(error)
        ends = [unscaled(a, b, scaled(a) - scaled(b) + sign * half) for sign in (-1, 1)]
        low, high = max(low, ends[0], -ends[1]), max(high, abs(ends[0]), abs(ends[1]))
    return low, high


@dataclass(frozen=True)
class Spread:
    """The standard deviation between groups without the noise, its 95 % interval, and which group came out lowest.

    `shrunken` is that group's value moved to the mean of all by as much of the differences as is noise; `again` how often
    it is lowest in cohorts redrawn around what was seen.
    """

    value: float
    low: float
    high: float
    lowest: int
    shrunken: float
    again: float


def between(measured: Sequence[Measured]) -> Spread:
    """How much groups truly differ, at least two, each counting alike.

    The variance of the values minus their mean sampling variance; in redrawn cohorts, which have that noise twice, minus
    twice of it: Lum, Zhang and Bower, FAccT 2022 (double-corrected). Theirs are binomial draws of independent groups; ours
    are joint normal draws from the patients' influences, so that a patient in two groups is not two. Below 0 it is told as
    0, which means that no more than noise was seen, not that there is no difference.
    """
    values = np.array([one.value for one in measured])
    spread = np.array([one.influence for one in measured])
    covariance, count = spread @ spread.T, len(values)
    own = np.diag(covariance)
    noise = (own.sum() - covariance.sum() / count) / (count - 1)
    variance = max(float(values.var(ddof=1)) - noise, 0.0)
    drawn = values + _normal(covariance)
    ends = np.quantile(drawn.var(1, ddof=1) - 2 * noise, [0.025, 0.975])
    low, high = np.sqrt(np.maximum(ends, 0))
    lowest = int(values.argmin())
    weight = 1 / (variance + own)
    mean = float((weight * values).sum() / weight.sum())
    kept = variance / (variance + own[lowest])
    again = float((drawn.argmin(1) == lowest).mean())
    return Spread(math.sqrt(variance), float(low), float(high), lowest, mean + kept * (values[lowest] - mean), again)


def _normal(covariance: np.ndarray) -> np.ndarray:
    """Draws (DRAWS, K) around zero with a covariance (K, K), from a fixed seed."""
    values, vectors = np.linalg.eigh(covariance)
    draws = np.random.default_rng(SEED).standard_normal((DRAWS, len(values)))
    return np.asarray(draws * np.sqrt(np.clip(values, 0, None)) @ vectors.T)
