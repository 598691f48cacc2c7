"""How a model of several findings ranks on the average: the mean of its labels' AUROC, each label counting alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from medssl.evaluate.groups import Row
from medssl.evaluate.intervals import auroc_interval
from medssl.evaluate.measures import AUROC
from medssl.evaluate.metrics import Measured, measure_auroc


def average(table: str, judged: Mapping[str, pd.DataFrame], left_out: Mapping[str, str]) -> Row:
    """The mean AUROC over the labels of a table, with its interval over patients; the unit is the patient, whose scans
    count for every label.

    `judged` are each label's rows that have a label and a score, `left_out` the reasons why others have none. Labels
    without an AUROC join these: they are named and in no mean. No interval is given where one of the labels does not vary
    (one that is ranked without an error): its own error is not known to be zero.
    """
    reasons = {name: AUROC.too_few(rows) for name, rows in judged.items()}
    used = {name: rows for name, rows in judged.items() if not reasons[name]}
    told = {**left_out, **{name: reason for name, reason in reasons.items() if reason}}
    row: Row = {
        "table": table, "metric": "auroc", "value": None, "low": None, "high": None, "level": 0.95, "method": None,
        "n_patients": 0, "names": [*used], "left_out": [{"name": n, "reason": r} for n, r in sorted(told.items())],
        "reason": "" if used else "no label can be judged",
    }  # fmt: skip
    if not used:
        return row
    every, patients = pd.factorize(pd.concat([rows["patient_id"] for rows in used.values()]))
    places = np.split(np.asarray(every), np.cumsum([len(rows) for rows in used.values()])[:-1])
    each = [
        measure_auroc(rows["label"].to_numpy(float), rows["score"].to_numpy(float), place, len(patients))
        for rows, place in zip(used.values(), places, strict=True)
    ]
    mean = mean_of(each)
    row |= {"value": mean.value, "n_patients": len(patients)}
    if still := [name for name, one in zip(used, each, strict=True) if one.error == 0]:
        return row | {"method": f"none: {still[0]} does not vary between these patients"}
    fewest = [
        min(rows.loc[rows["label"] == value, "patient_id"].nunique() for rows in used.values()) for value in (1, 0)
    ]
    low, high, method = auroc_interval(mean, fewest[0], fewest[1])
    return row | {"low": low, "high": high, "method": f"mean of labels, {method}"}


def mean_of(each: Sequence[Measured]) -> Measured:
    """The mean of several values measured on the same patients, with the influence of each patient.

    Degrees of freedom are as if the errors of all had been estimated too small or too large together: labels of one scan
    are not independent.
    """
    errors = np.array([one.error for one in each])
    total = errors.sum()
    spread = sum(error / math.sqrt(one.freedom) for error, one in zip(errors, each, strict=True) if error)
    return Measured(
        float(np.mean([one.value for one in each])),
        np.mean([one.influence for one in each], axis=0),
        float((total / spread) ** 2) if total else math.nan,
        "logit",
    )
