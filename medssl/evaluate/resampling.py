"""Metrics whose intervals come from one bootstrap: average precision, and sensitivity and specificity at each other's
targets. Drawing the patients is most of the work, so the three share it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from medssl.evaluate.bootstrap import resampled
from medssl.evaluate.intervals import Interval, attained_interval, precision_interval
from medssl.evaluate.measures import AVERAGE_PRECISION, Metric, positives
from medssl.evaluate.metrics import Measured
from medssl.evaluate.ranking import Levels, average_precision_of, rank, sensitivity_at, specificity_at

TARGET = 0.90
"""The specificity at which sensitivity is told, and the sensitivity at which specificity is."""

FEWEST_AT_TARGET = 20
"""Patients of either class below which no threshold is looked for: among fewer, one patient moves the target by 5 %."""

Draws = tuple[np.ndarray, np.ndarray]
"""Replicates (3, R) of the three metrics and their values (3, blocks) with blocks of patients left out."""


def resampled_metrics() -> list[Metric]:
    """Average precision, sensitivity at a specificity of 0.90, specificity at a sensitivity of 0.90.

    The latter two find their threshold on the rows that are judged: they say how well scores separate, for models without
    a common threshold, and not what happens at one that was fixed. A small sample flatters them (the interval knows how
    much they vary, not that), so groups are not compared by them. Draws of the same rows are found once, and kept for as
    long as these metrics are.
    """
    kept: dict[bytes, Draws] = {}

    def draws(rows: pd.DataFrame) -> Draws:
        truth, score, patient = _arrays(rows)
        key = hashlib.blake2b(b"".join(column.tobytes() for column in (truth, score, patient))).digest()
        if key not in kept:
            kept[key] = resampled(_all_three(truth, score, patient), int(patient.max()) + 1)
        return kept[key]

    def precision(rows: pd.DataFrame, _: Measured) -> Interval:
        drawn, left_out = draws(rows)
        return precision_interval(*_arrays(rows), draws=(drawn[0], left_out[0]))

    def at(label: int, place: int) -> Callable[[pd.DataFrame, Measured], Interval]:
        def interval(rows: pd.DataFrame, measured: Measured) -> Interval:
            people = rows.loc[rows["label"] == label, "patient"].nunique()
            return attained_interval(measured.value, draws(rows)[0][place], people)

        return interval

    return [
        replace(AVERAGE_PRECISION, interval=precision),
        _at_target("sensitivity_at_specificity_90", sensitivity_at, at(1, 1)),
        _at_target("specificity_at_sensitivity_90", specificity_at, at(0, 2)),
    ]


def _at_target(
    name: str,
    share: Callable[[Levels, float], np.ndarray],
    interval: Callable[[pd.DataFrame, Measured], Interval],
) -> Metric:
    def measure(rows: pd.DataFrame, patients: int) -> Measured:
        everybody = np.ones((patients, 1), np.uint8)
        value = float(share(rank(*_arrays(rows)).levels(everybody), TARGET)[0])
        return Measured(value, np.zeros(patients), float("nan"), "logit")

    return Metric(name, measure, interval, positives, _too_few, compared=False)


def _too_few(rows: pd.DataFrame) -> str:
    for label, name in (1, "positive"), (0, "negative"):
        if rows.loc[rows["label"] == label, "patient_id"].nunique() < FEWEST_AT_TARGET:
            return f"fewer than {FEWEST_AT_TARGET} patients with a {name}"
    return ""


def _all_three(truth: np.ndarray, score: np.ndarray, patient: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    ranking = rank(truth, score, patient)

    def statistic(weight_PR: np.ndarray) -> np.ndarray:
        levels = ranking.levels(weight_PR)
        return np.stack([
            average_precision_of(levels), sensitivity_at(levels, TARGET), specificity_at(levels, TARGET),
        ])  # fmt: skip

    return statistic


def _arrays(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return rows["label"].to_numpy(float), rows["score"].to_numpy(float), rows["patient"].to_numpy(int)
