"""What is measured: each metric with its interval, the rows it needs, and whether groups are compared by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from medssl.evaluate.intervals import (
    Interval,
    auroc_interval,
    error_interval,
    mean_interval,
    median_interval,
    precision_interval,
    share_interval,
)
from medssl.evaluate.metrics import (
    Measured,
    average_precision,
    measure_auroc,
    measure_brier,
    measure_mean,
    measure_share,
    patient_means,
)
from medssl.evaluate.outlines import FAILURES, MEDIAN, measure_of, split_name

FEWEST_OF_A_CLASS = 2
"""Patients of a class below which nothing that needs it is shown: one is an anecdote, and would be recognisable."""


@dataclass(frozen=True)
class Metric:
    """How a metric is measured on rows, its interval, and which rows count.

    `measure(rows, patients)` uses the column `patient` (numbers below `patients`). `positives(rows)` counts positive
    rows, None where there is no such thing. `too_few(rows)` gives a reason to show nothing, or "". `uses(rows)` are the
    rows that have a value. `compared`: whether groups are compared by it; what moves with prevalence alone is not.
    """

    name: str
    measure: Callable[[pd.DataFrame, int], Measured]
    interval: Callable[[pd.DataFrame, Measured], Interval]
    positives: Callable[[pd.DataFrame], int | None]
    too_few: Callable[[pd.DataFrame], str]
    uses: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows
    compared: bool = True


def positives(rows: pd.DataFrame) -> int:
    """The rows with label 1."""
    return int((rows["label"] == 1).sum())


def _needs(*labels: int) -> Callable[[pd.DataFrame], str]:
    """A check that each label has enough patients."""
    names = {1: "positive", 0: "negative"}

    def too_few(rows: pd.DataFrame) -> str:
        counts = {label: rows.loc[rows["label"] == label, "patient_id"].nunique() for label in labels}
        if len(labels) == 2 and 0 in counts.values():
            return "one class only"
        for label, count in counts.items():
            if count < FEWEST_OF_A_CLASS:
                return f"no {names[label]}" if count == 0 else f"only {count} patient with a {names[label]}"
        return ""

    return too_few


def _arrays(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return rows["label"].to_numpy(float), rows["score"].to_numpy(float), rows["patient"].to_numpy(int)


def _auroc_interval(rows: pd.DataFrame, measured: Measured) -> Interval:
    sick, well = (rows.loc[rows["label"] == value, "patient"].nunique() for value in (1, 0))
    return auroc_interval(measured, sick, well)


def _precision(rows: pd.DataFrame, patients: int) -> Measured:
    truth, score, _ = _arrays(rows)
    return Measured(average_precision(truth=truth, score=score), np.zeros(patients), math.nan, "logit")


AUROC = Metric(
    "auroc", lambda rows, patients: measure_auroc(*_arrays(rows), patients), _auroc_interval, positives, _needs(1, 0)
)
AVERAGE_PRECISION = Metric(
    "average_precision",
    _precision,
    lambda rows, _: precision_interval(*_arrays(rows)),
    positives,
    _needs(1, 0),
    compared=False,
)
BRIER = Metric(
    "brier",
    lambda rows, patients: measure_brier(*_arrays(rows), patients),
    lambda _, measured: error_interval(measured),
    positives,
    lambda rows: "",
    compared=False,
)


NO_PROBABILITIES = "not available: scores are not probabilities"


def of_probabilities(metric: Metric, *, told: bool) -> Metric:
    """A metric of scores that are probabilities; where they only rank, one that says why it is not there."""
    return metric if told else replace(metric, too_few=lambda rows: NO_PROBABILITIES)


def share(name: str, label: int, threshold: float) -> Metric:
    """Sensitivity (label 1) or specificity (label 0) at a threshold fixed elsewhere."""

    def measure(rows: pd.DataFrame, patients: int) -> Measured:
        kept = rows[rows["label"] == label]
        yes = kept["score"].to_numpy(float) >= threshold
        return measure_share((yes == bool(label)).astype(float), kept["patient"].to_numpy(int), patients)

    def interval(rows: pd.DataFrame, measured: Measured) -> Interval:
        kept = rows[rows["label"] == label]
        return share_interval(measured, len(kept), kept["patient"].nunique())

    return Metric(name, measure, interval, positives, _needs(label))


def of_outlines(columns: Sequence[str]) -> list[Metric]:
    """The metrics of columns that measure outlines: means, of distances medians too, and failures."""
    failures = [column for column in columns if split_name(column)[0] in FAILURES]
    means = [column for column in columns if column not in failures]
    middles = [column for column in means if measure_of(column).unit]
    return [*map(mean_of, means), *map(median_of, middles), *map(failures_of, failures)]


def mean_of(column: str) -> Metric:
    """The mean over patients of Dice, surface Dice or HD95; a structure absent in truth and answer (blank) has none.

    A failure has its full weight: of HD95 the diagonal of the volume, which is why it has a median too.
    """

    def measure(rows: pd.DataFrame, patients: int) -> Measured:
        return measure_mean(rows[column].to_numpy(float), rows["patient"].to_numpy(int), patients)

    def interval(rows: pd.DataFrame, measured: Measured) -> Interval:
        low, high, method = mean_interval(_per_patient(rows, column))
        return max(low, 0.0) if measure_of(column).unit else low, high, method

    return Metric(column, measure, interval, lambda rows: None, _few_have(column), _uses(column))


def median_of(column: str) -> Metric:
    """The median over patients of their means. Groups are compared by means: those of small ones are less coarse."""

    def measure(rows: pd.DataFrame, patients: int) -> Measured:
        return Measured(float(np.median(_per_patient(rows, column))), np.zeros(patients), math.nan, "identity")

    def interval(rows: pd.DataFrame, _: Measured) -> Interval:
        return median_interval(_per_patient(rows, column))

    return Metric(
        MEDIAN + column, measure, interval, lambda rows: None, _few_have(column), _uses(column), compared=False
    )


def failures_of(column: str) -> Metric:
    """The share of volumes in which a structure that is there was missed, or one that is not was invented; `positives`
    are these failures.
    """

    def measure(rows: pd.DataFrame, patients: int) -> Measured:
        return measure_share(rows[column].to_numpy(float), rows["patient"].to_numpy(int), patients)

    def interval(rows: pd.DataFrame, measured: Measured) -> Interval:
        return share_interval(measured, len(rows), rows["patient"].nunique())

    def failed(rows: pd.DataFrame) -> int:
        return int((rows[column] == 1).sum())

    return Metric(column, measure, interval, failed, _few_have(column), _uses(column), compared=False)


def _per_patient(rows: pd.DataFrame, column: str) -> np.ndarray:
    return patient_means(rows[column].to_numpy(float), rows["patient"].to_numpy(int))


def _uses(column: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda rows: rows[rows[column].notna()]


def _few_have(column: str) -> Callable[[pd.DataFrame], str]:
    """A check that enough patients have the structure, or lack it where it is asked who invented one."""
    have = "is without" if split_name(column)[0] == "invented_" else "has"

    def too_few(rows: pd.DataFrame) -> str:
        count = rows["patient_id"].nunique()
        if count < FEWEST_OF_A_CLASS:
            return f"no patient {have} this structure" if count == 0 else f"only 1 patient {have} this structure"
        return ""

    return too_few
