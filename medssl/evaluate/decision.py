"""What acting on a score is worth: net benefit over thresholds (Vickers and Elkin, Medical Decision Making 2006).

Who acts from a probability of t holds a false alarm t / (1 - t) times as bad as a find is good. At that price the false
alarms are taken off the finds: 0.1 is worth as much as 10 finds among 100 patients and no false alarm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medssl.evaluate.bootstrap import MOST_LOST, REPLICATES, weights

GRID = tuple(percent / 100 for percent in range(1, 100))
"""Thresholds that are asked about; those that would single somebody out are left away, see `cuts`."""


@dataclass(frozen=True, eq=False)
class Acted:
    """Rows of a group: truth, score and the patient's number in the cohort (N,), and the thresholds (T,), rising."""

    truth: np.ndarray
    score: np.ndarray
    patient: np.ndarray
    thresholds: np.ndarray


@dataclass(frozen=True, eq=False)
class Benefit:
    """Net benefit, that of flagging everybody, and by how much the model's is above the better of flagging everybody and
    nobody, each at every threshold (T,). `band` and `gain_band` are lower and upper ends (2, T) over patients at each
    threshold by itself; nan where too many replicates drew nobody.
    """

    value: np.ndarray
    everybody: np.ndarray
    gain: np.ndarray
    band: np.ndarray
    gain_band: np.ndarray


def net_benefit(*, truth: np.ndarray, score: np.ndarray, threshold: float) -> float:
    """Finds less false alarms at the threshold's price, a row; nan without rows."""
    flagged = score >= threshold
    price = threshold / (1 - threshold)
    worth = np.where(truth == 1, 1.0, -price) * flagged
    return float(worth.mean()) if truth.size else np.nan


def cuts(score: np.ndarray, patient: np.ndarray, minimum: int, fixed: float | None = None) -> np.ndarray:
    """The thresholds of `GRID`, and the `fixed` one, between which, below which and above which nobody or at least `minimum`
    patients score: nobody's score can be told from how the curve steps. The fixed one is there in any case.
    """
    kept = [] if fixed is None else [fixed]
    order = np.argsort(score, kind="stable")
    ranked, owner = score[order], patient[order]

    def apart(low: float, high: float) -> bool:
        first, last = np.searchsorted(ranked, [low, high])
        return not 0 < len(np.unique(owner[first:last])) < minimum

    for one in GRID:
        below = max((cut for cut in kept if cut < one), default=-np.inf)
        above = min((cut for cut in kept if cut > one), default=np.inf)
        if one not in kept and apart(below, one) and apart(one, above):
            kept.append(one)
    return np.array(sorted(kept))


def benefits(
    groups: Sequence[Acted], patients: int, level: float = 0.95, prevalence: float | None = None
) -> list[Benefit]:
    """The net benefit of each group with its band by the bootstrap over all `patients`: one set of weights for all groups,
    so that who is in two of them is drawn in both. With a `prevalence`, what it would be where so many have the finding.
    """
    from scipy import sparse

    tables = [_tallies(group, patients) for group in groups]
    places = np.cumsum([0, *(table.shape[0] for table in tables)])
    stacked = sparse.vstack(tables, format="csr")
    draws = [np.empty((2, len(group.thresholds), REPLICATES), np.float32) for group in groups]
    start = 0
    for weight_PR in weights(patients):
        drawn, end = stacked @ weight_PR, start + weight_PR.shape[1]
        for group, draw, first, last in zip(groups, draws, places, places[1:], strict=False):
            value, _, gain = _worth(drawn[first:last], group.thresholds, prevalence)
            draw[0, :, start:end], draw[1, :, start:end] = value, gain
        start = end
    found = []
    for group, table, draw in zip(groups, tables, draws, strict=True):
        value, everybody, gain = (
            one[:, 0] for one in _worth(table @ np.ones((patients, 1)), group.thresholds, prevalence)
        )
        found.append(Benefit(value, everybody, gain, _band(draw[0], level), _band(draw[1], level)))
    return found


def _tallies(group: Acted, patients: int):  # type: ignore[no-untyped-def]  # scipy has no types
    """Rows of each patient (2 (T + 1), P) by how many thresholds they reach, the negatives before the positives."""
    from scipy import sparse

    levels = len(group.thresholds) + 1
    reached = np.searchsorted(group.thresholds, group.score, "right")
    place = reached + levels * (group.truth == 1)
    return sparse.csr_matrix((np.ones(len(place)), (place, group.patient)), (2 * levels, patients))


def _worth(
    drawn: np.ndarray, thresholds: np.ndarray, prevalence: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Net benefit, that of flagging everybody and the gain (T, R) of tallies (2 (T + 1), R); nan where nobody was drawn, or
    with a prevalence nobody of a class.
    """
    price = (thresholds / (1 - thresholds))[:, None]
    negative, positive = drawn.reshape(2, len(thresholds) + 1, -1)
    if prevalence is None:
        rows = _some(drawn)
    else:
        negative, positive = (1 - prevalence) * negative / _some(negative), prevalence * positive / _some(positive)
        rows = np.ones(drawn.shape[1])
    found, alarmed = (np.cumsum(one[:0:-1], 0)[::-1] for one in (positive, negative))
    value = (found - price * alarmed) / rows
    everybody = (positive.sum(0) - price * negative.sum(0)) / rows
    return value, everybody, value - np.maximum(everybody, 0)


def _some(drawn: np.ndarray) -> np.ndarray:
    rows = drawn.sum(0)
    return np.where(rows > 0, rows, np.nan)


def _band(draws: np.ndarray, level: float) -> np.ndarray:
    known = draws[:, ~np.isnan(draws).any(0)].astype(float)
    if known.shape[1] < (1 - MOST_LOST) * draws.shape[1]:
        return np.full((2, len(draws)), np.nan)
    return np.quantile(known, [(1 - level) / 2, (1 + level) / 2], axis=1)
