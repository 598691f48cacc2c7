"""Whether a score of 20 % means 20 %: recalibration, error of bins against chance and proper scores, by group."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from medssl.evaluate.calibration import (
    AgainstChance,
    integrated_index,
    interval,
    measure_in_the_large,
    measure_log_loss,
    measure_ratio,
    measure_scaled_brier,
    measure_slope,
)
from medssl.evaluate.measures import FEWEST_OF_A_CLASS
from medssl.evaluate.metrics import Measured, measure_brier
from medssl.evaluate.reliability import curve, expected_error, spread, squared_error
from medssl.evaluate.sections.judged import Judged, patients_of
from medssl.evaluate.temperature import SURE

FEWEST_PATIENTS = 200
"""Patients below which no error of bins and no smooth curve is told: chance alone makes them large."""

EDGES = tuple(edge / 10 for edge in range(11))
"""Of the bins in which the spread of scores is shown."""

LIMITS = {"brier": (0.0, 1.0), "log_loss": (0.0, math.inf), "scaled_brier": (-math.inf, 1.0)}

NEEDING_BOTH = ("in_the_large", "slope", "ratio", "scaled_brier")


def calibration(judged: Judged) -> dict[str, Any] | None:
    """For everybody and each group what its scores are worth as probabilities, and the points of a reliability curve; for
    everybody how scores spread by outcome. None for a segmentation, and where scores only rank.

    `numbers` holds value, low, high and, where one of them is None, the reason. A ratio is O:E. `debiased` is the root of
    the mean square of the bins' errors less what chance adds, 0 where that is all. `ece` and `ici` have no interval but
    the range that a perfectly calibrated model would show: never negative, no interval of theirs by resampling holds 0.
    """
    if not judged.probabilities or judged.segmentation:
        return None
    rows = [_row(judged, *group) for group in judged.groups()]
    truth, score, codes = _arrays(judged.rows)
    histogram = {
        name: spread(score[truth == label], codes[truth == label], EDGES, judged.minimum_patients)
        for name, label in (("positive", 1), ("negative", 0))
    }
    extreme = float(((score < SURE) | (score > 1 - SURE)).mean())
    return {"rows": rows, "edges": list(EDGES), "histogram": histogram, "extreme_share": extreme}


def _row(judged: Judged, attribute: str, group: str, inside: pd.DataFrame, reason: str) -> dict[str, Any]:
    row: dict[str, Any] = {"attribute": attribute, "group": group, "reason": reason, "n_patients": None, "expected": None,
                           "observed": None, "numbers": {}, "curve": []}  # fmt: skip
    if reason or inside.empty:
        return row
    truth, score, codes = _arrays(inside)
    count = int(codes.max()) + 1
    numbers = _measured(truth, score, codes, count) | _against_chance(truth, score, codes, count)
    return row | {
        "n_patients": count, "expected": float(score.mean()), "observed": float(truth.mean()), "numbers": numbers,
        "curve": curve(truth, score, codes, judged.minimum_patients),
    }  # fmt: skip


def _arrays(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return rows["label"].to_numpy(float), rows["score"].to_numpy(float), patients_of(rows)[0]


def _measured(truth: np.ndarray, score: np.ndarray, codes: np.ndarray, count: int) -> dict[str, Any]:
    """What has an interval of its own."""
    measures = {
        "in_the_large": measure_in_the_large, "slope": measure_slope, "ratio": measure_ratio, "brier": measure_brier,
        "log_loss": measure_log_loss, "scaled_brier": measure_scaled_brier,
    }  # fmt: skip
    few = _too_few(truth, codes)
    found = {}
    for name, measure in measures.items():
        if few and name in NEEDING_BOTH:
            found[name] = _told(math.nan, math.nan, math.nan, few)
            continue
        measured = measure(truth, score, codes, count)
        found[name] = _told(*_on_its_scale(name, measured), measured.reason)
    return found


def _on_its_scale(name: str, measured: Measured) -> tuple[float, float, float]:
    """A value with its interval, within the values that there are."""
    low, high = interval(measured)
    if name == "ratio":
        low, high = math.exp(low), math.exp(high)
        return math.exp(measured.value), low, high
    lowest, highest = LIMITS.get(name, (-math.inf, math.inf))
    return measured.value, max(low, lowest), min(high, highest)


def _against_chance(truth: np.ndarray, score: np.ndarray, codes: np.ndarray, count: int) -> dict[str, Any]:
    """What is never negative, with what a perfectly calibrated model would show."""
    reason = _too_few(truth, codes)
    if count < FEWEST_PATIENTS:
        reason = f"fewer than {FEWEST_PATIENTS} patients: chance alone would make it large"
    if reason:
        nothing = AgainstChance(math.nan, math.nan, math.nan, math.nan, reason)
        return {
            "ici": _chance(nothing),
            "ece": _chance(nothing),
            "debiased": _told(math.nan, math.nan, math.nan, reason),
        }
    squared = squared_error(truth, score, codes)
    value, low, high = (math.sqrt(max(squared[key], 0.0)) for key in ("value", "low", "high"))
    return {
        "ici": _chance(integrated_index(truth, score, codes, count)),
        "ece": _chance(expected_error(truth, score, codes)),
        "debiased": _told(value, low, high, ""),
    }


def _too_few(truth: np.ndarray, codes: np.ndarray) -> str:
    """Why nothing that needs both classes is told."""
    for label, name in ((1, "positive"), (0, "negative")):
        people = len(np.unique(codes[truth == label]))
        if people < FEWEST_OF_A_CLASS:
            return f"no {name}" if people == 0 else f"only {people} patient with a {name}"
    return ""


def _told(value: float, low: float, high: float, reason: str) -> dict[str, Any]:
    known = {"value": _known(value), "low": _known(low), "high": _known(high)}
    if not reason and None in known.values():
        reason = "nothing varies, or one patient has all: no interval"
    return {**known, "reason": reason}


def _chance(found: AgainstChance) -> dict[str, Any]:
    chance = {"value": found.chance, "low": found.low, "high": found.high}
    known = None if math.isnan(found.value) else chance
    return {"value": _known(found.value), "chance": known, "reason": found.reason}


def _known(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None
