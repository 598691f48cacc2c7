"""By what two models are compared: each metric with what it is measured on, and the margin declared for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from medssl.errors import UserError
from medssl.evaluate.intervals import FEWEST_POSITIVE_PATIENTS
from medssl.evaluate.measures import FEWEST_OF_A_CLASS
from medssl.evaluate.metrics import (
    Measured,
    average_precision,
    measure_auroc,
    measure_brier,
    measure_mean,
    measure_share,
)
from medssl.evaluate.outlines import MEASURES, measure_of, split_name

Measure = Callable[[np.ndarray, np.ndarray, np.ndarray, int], Measured]
"""(label, value, number of the patient) of rows (N,), and how many patients there are -> what is measured."""


@dataclass(frozen=True)
class Compared:
    """A metric of a comparison.

    `labels` are the classes that it needs, of which the rarer one gives the degrees of freedom. `fewest` patients of each
    have an interval. `margin` is the difference that would matter, on the metric's own scale; None: none is declared.
    """

    name: str
    measure: Measure
    labels: tuple[int, ...]
    method: str
    margin: float | None = 0.05
    more_is_better: bool = True
    fewest: int = FEWEST_OF_A_CLASS

    @property
    def of_outlines(self) -> bool:
        """Whether it is a column of the table, measured of outlines."""
        return bool(split_name(self.name)[0])

    @property
    def at_threshold(self) -> bool:
        """Whether each table answers by its own threshold."""
        return self.name in ("sensitivity", "specificity")


def measure_precision(truth: np.ndarray, score: np.ndarray, patient: np.ndarray, patients: int) -> Measured:
    """Average precision with the influence of each of `patients` patients: its derivative by their weights.

    Of a row, what its own level adds (positives only) and what it does to the precision of all levels at or below its score.
    Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982 (infinitesimal jackknife). nan without positives.
    """
    value, sick = average_precision(truth=truth, score=score), truth == 1
    if math.isnan(value):
        return Measured(math.nan, np.zeros(patients), math.nan, "logit", "no positive")
    levels, level = np.unique(score, return_inverse=True)
    positives = np.bincount(level, sick, len(levels))
    hits, rows = (np.cumsum(counts[::-1])[::-1] for counts in (positives, np.bincount(level, minlength=len(levels))))
    precision = hits / rows
    # Sums over levels at or below a row's: a positive raises the precision there by (1 - p) / rows, a negative lowers it.
    up, down = np.cumsum(positives * (1 - precision) / rows), np.cumsum(positives * precision / rows)
    moved = np.where(sick, precision[level] - value + up[level], -down[level]) / sick.sum()
    influence = np.bincount(patient, moved, patients)
    count = len(np.unique(patient))
    return Measured(value, influence * math.sqrt(count / max(count - 1, 1)), count - 1, "logit")


def _of_class(label: int) -> Measure:
    """The share of the rows of a class that were answered rightly."""

    def measure(truth: np.ndarray, right: np.ndarray, patient: np.ndarray, patients: int) -> Measured:
        kept = truth == label
        return measure_share(right[kept], patient[kept], patients)

    return measure


CLUSTERED = "paired, clustered over patients, t"

METRICS = {
    "auroc": Compared("auroc", measure_auroc, (1, 0), "paired clustered DeLong, t"),
    "average_precision": Compared(
        "average_precision", measure_precision, (1,), CLUSTERED, fewest=FEWEST_POSITIVE_PATIENTS
    ),
    "brier": Compared("brier", measure_brier, (), CLUSTERED, 0.02, more_is_better=False),
    "sensitivity": Compared("sensitivity", _of_class(1), (1,), CLUSTERED),
    "specificity": Compared("specificity", _of_class(0), (0,), CLUSTERED),
}

CHOICES = f"{', '.join(METRICS)}, or a dice_, nsd_ or hd95_ column"

OUTLINES_MARGIN = 0.03
"""Of Dice and surface Dice. Of distances none is declared: what matters in mm depends on the organ."""


def metric_of(name: str, margin: float | None) -> Compared:
    """The metric of that name, with another `margin` where one is given. Raises UserError for one that there is not."""
    if name in METRICS:
        found = METRICS[name]
    elif name.startswith(tuple(MEASURES)):
        measure = measure_of(name)
        found = Compared(
            name, lambda truth, value, patient, patients: measure_mean(value, patient, patients), (),
            "paired Student t over patients", None if measure.unit else OUTLINES_MARGIN, measure.more_is_better,
        )  # fmt: skip
    else:
        raise UserError(f"compare: no metric {name!r}; choose --metric {CHOICES}")
    if margin is None:
        return found
    if margin <= 0 or (margin >= 1 and not measure_of(name).unit):
        raise UserError(f"compare: margin {margin:g} is not above 0 and below 1; give the difference that would matter")
    return replace(found, margin=margin)
