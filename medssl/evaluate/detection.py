"""Lesion detection: which candidates are which lesions, and how well they are ranked. As PI-CAI scores prostate lesions.

Judging sees no voxels, so `predict` calls `lesions_of` and writes one row an entry; the rest works on these rows.
Saha et al., Lancet Oncology 2024 (PI-CAI); equal to its picai_eval 1.4.13, which the tests compare with, but for the end
of the FROC curve: picai_eval leaves out the lowest confidence where no lesion was missed, so that its sensitivity does not
reach what was found.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.ndimage import label
from scipy.optimize import linear_sum_assignment

from medssl.errors import UserError
from medssl.evaluate.bootstrap import Statistic, bootstrap_interval
from medssl.evaluate.metrics import Measured

TOUCHING = np.ones((3, 3, 3))
"""Voxels that share a face, an edge or a corner belong together (26 neighbours)."""

LEAST_OVERLAP = 0.1
"""Intersection over union from which a candidate may be a lesion."""


class Lesion(NamedTuple):
    """An entry of a case: a lesion found or missed (`truth` 1), or a false alarm (0); the candidate's confidence, 0 for a
    missed lesion; its intersection over union with the lesion.
    """

    truth: int
    score: float
    overlap: float


def lesions_of(
    detected: np.ndarray, truth: np.ndarray, *, least_overlap: float = LEAST_OVERLAP, strict: bool = False
) -> list[Lesion]:
    """The entries of a case: one for each lesion of `truth` (I, J, K), one for each false alarm; none for an empty pair.

    `detected` (I, J, K) is 0 but for candidates, each of one confidence; it is on the grid of `truth`. A lesion has at
    most one candidate and a candidate one lesion: as many pairs as possible that overlap enough, among those the ones that
    overlap most. A candidate left over that does overlap a lesion enough is no entry, as one of two halves of a lesion is
    no false alarm; with `strict` it is one. Raises UserError for maps of two shapes, and for candidates of several values.
    """
    if detected.shape != truth.shape or detected.ndim != 3:
        raise UserError(
            f"detection map {detected.shape}, lesion mask {truth.shape}: not two volumes on one grid; resample the map to "
            "the mask's grid"
        )
    candidates, found = label(detected > 0, TOUCHING)
    lesions, there = label(truth > 0, TOUCHING)
    scores = _confidences(detected, candidates, found)
    overlap = _overlaps(lesions, there, candidates, found)
    enough = overlap >= least_overlap
    rows, columns = linear_sum_assignment(np.where(enough, 1 + overlap, 0), maximize=True)
    pairs = {row: column for row, column in zip(rows, columns, strict=True) if enough[row, column]}
    entries = [
        Lesion(1, float(scores[pairs[n]]), float(overlap[n, pairs[n]])) if n in pairs else Lesion(1, 0.0, 0.0)
        for n in range(there)
    ]
    excused = set(pairs.values()) if strict else set(np.flatnonzero(enough.any(0)))
    return entries + [Lesion(0, float(scores[n]), 0.0) for n in range(found) if n not in excused]


def lesion_average_precision(*, truth: np.ndarray, score: np.ndarray) -> float:
    """Area under precision over recall of entries of all cases, as a step sum; a missed lesion is never recalled.

    nan without a lesion.
    """
    lesions = int((truth == 1).sum())
    if not lesions:
        return math.nan
    seen = score > 0
    order = np.argsort(-score[seen], kind="stable")
    last = np.append(np.diff(score[seen][order]) != 0, True)[: len(order)]
    hits = np.cumsum(truth[seen][order] == 1)[last]
    precision = hits / (np.flatnonzero(last) + 1)
    return float((np.diff(np.append(0, hits)) * precision).sum() / lesions)


def lesion_sensitivity(*, truth: np.ndarray, score: np.ndarray, cases: int, alarms: float) -> float:
    """The most lesions found, as a share, with at most `alarms` false alarms a case (a point of the FROC curve).

    nan without a lesion.
    """
    lesions = int((truth == 1).sum())
    if not lesions:
        return math.nan
    thresholds = np.unique(score[score > 0])
    false = np.array([((truth == 0) & (score >= t)).sum() for t in thresholds]) / cases
    found = np.array([((truth == 1) & (score >= t)).sum() for t in thresholds]) / lesions
    return float(found[false <= alarms].max(initial=0.0))


def weighted_lesion_precision(truth: np.ndarray, score: np.ndarray, patient: np.ndarray) -> Statistic:
    """`lesion_average_precision` of entries (N,) that belong to `patient` (N,), numbers, as a function of their weights; nan
    where no lesion has weight.
    """
    seen = np.flatnonzero(score > 0)
    order = seen[np.argsort(-score[seen], kind="stable")]
    last = np.append(np.diff(score[order]) != 0, True)[: len(order)]
    real = truth == 1

    def statistic(weight_PR: np.ndarray) -> np.ndarray:
        lesions_R = weight_PR[patient[real]].sum(0)
        row_NR = weight_PR[patient[order]]
        all_LR, hit_LR = np.cumsum(row_NR, 0)[last], np.cumsum(row_NR * real[order, None], 0)[last]
        gained_LR = np.diff(hit_LR, axis=0, prepend=0)
        found = (gained_LR * hit_LR / np.maximum(all_LR, 1)).sum(0) / np.maximum(lesions_R, 1)
        return np.where(lesions_R > 0, found, np.nan)

    return statistic


def weighted_lesion_sensitivity(
    truth: np.ndarray, score: np.ndarray, patient: np.ndarray, cases: np.ndarray, alarms: float
) -> Statistic:
    """`lesion_sensitivity` of entries (N,) that belong to `patient` (N,), numbers, who have so many `cases` (P,) each, as a
    function of the patients' weights; nan where no lesion has weight. The threshold is found anew for each weighting.
    """
    seen = np.flatnonzero(score > 0)
    order = seen[np.argsort(-score[seen], kind="stable")]
    last = np.append(np.diff(score[order]) != 0, True)[: len(order)]
    real = truth == 1

    def statistic(weight_PR: np.ndarray) -> np.ndarray:
        lesions_R, row_NR = weight_PR[patient[real]].sum(0), weight_PR[patient[order]]
        real_NR = row_NR * real[order, None]
        hit_LR, false_LR = np.cumsum(real_NR, 0)[last], np.cumsum(row_NR - real_NR, 0)[last]
        few_LR = false_LR / np.maximum(cases @ weight_PR, 1) <= alarms
        found_R = np.where(few_LR, hit_LR, 0).max(0, initial=0)
        return np.where(lesions_R > 0, found_R / np.maximum(lesions_R, 1), np.nan)

    return statistic


def measure_lesion_precision(truth: np.ndarray, score: np.ndarray, patient: np.ndarray, patients: int) -> Measured:
    """`lesion_average_precision` with the influence of each of `patients` patients, also of those without an entry.

    The influence is the derivative by the patient's weight (the infinitesimal jackknife). Degrees of freedom count the
    patients with a lesion.
    """
    value, lesions = lesion_average_precision(truth=truth, score=score), int((truth == 1).sum())
    if math.isnan(value):
        return Measured(value, np.zeros(patients), math.nan, "logit", "no lesion")
    real = truth == 1
    moved = np.where(real, -value, 0.0)
    level = np.unique(score[score > 0])
    if len(level):
        place = np.searchsorted(level, score[score > 0])
        gained = np.bincount(place, real[score > 0], len(level))
        # Precision at a level, and what one more entry at or above a level does to the precision there, if a lesion or not.
        flagged = np.cumsum(np.bincount(place, minlength=len(level))[::-1])[::-1]
        precision = np.cumsum(gained[::-1])[::-1] / flagged
        more, fewer = np.cumsum(gained / flagged), np.cumsum(gained * precision / flagged)
        moved[score > 0] += real[score > 0] * (precision + more)[place] - fewer[place]
    influence = np.bincount(patient, moved / lesions, patients) * math.sqrt(patients / max(patients - 1, 1))
    return Measured(value, influence, len(np.unique(patient[real])) - 1, "logit")


def told(lesions: pd.DataFrame, cases: pd.DataFrame) -> str:
    """A sentence for people: average precision of the entries `lesions` with its interval over the patients of `cases`, and
    how many lesions are found at the price of a half, one and two false alarms a case.
    """
    people = pd.Index(cases["patient_id"].unique())
    truth, score = lesions["truth"].to_numpy(), lesions["score"].to_numpy(float)
    value = lesion_average_precision(truth=truth, score=score)
    if math.isnan(value):
        return f"{len(cases)} cases without a lesion, {len(lesions)} false alarms"
    statistic = weighted_lesion_precision(truth, score, people.get_indexer(lesions["patient_id"]))
    low, high = bootstrap_interval(value, statistic, len(people))
    found = [lesion_sensitivity(truth=truth, score=score, cases=len(cases), alarms=n) for n in (0.5, 1, 2)]
    return (
        f"{int((truth == 1).sum())} lesions in {len(cases)} cases: average precision {value:.3f} ({low:.3f} to {high:.3f}); "
        "found "
        + ", ".join(f"{share:.0%} at {n:g}" for share, n in zip(found, (0.5, 1, 2), strict=True))
        + " false alarms a case"
    )


def _confidences(detected: np.ndarray, candidates: np.ndarray, found: int) -> np.ndarray:
    """The confidence of each candidate."""
    inside = candidates > 0
    numbers, values = candidates[inside] - 1, detected[inside].astype(float)
    low, high = np.full(found, np.inf), np.full(found, -np.inf)
    np.minimum.at(low, numbers, values)
    np.maximum.at(high, numbers, values)
    if (low != high).any():
        first = int(np.flatnonzero(low != high)[0])
        raise UserError(
            f"detection map: candidate {first + 1} has confidences from {low[first]:g} to {high[first]:g}; give each "
            "connected candidate one, e.g. by medssl.heads.candidates"
        )
    return high


def _overlaps(lesions: np.ndarray, there: int, candidates: np.ndarray, found: int) -> np.ndarray:
    """Intersection over union (lesions, candidates)."""
    joint = np.bincount(
        lesions.ravel().astype(np.int64) * (found + 1) + candidates.ravel(), minlength=(there + 1) * (found + 1)
    ).reshape(there + 1, found + 1)
    both = joint[1:, 1:]
    either = joint.sum(1)[1:, None] + joint.sum(0)[None, 1:] - both
    return both / np.maximum(either, 1)
