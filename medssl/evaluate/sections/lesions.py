"""How well lesions are found: average precision and the FROC curve, by group."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from medssl.evaluate.bootstrap import REPLICATES, Statistic, bootstrap_interval
from medssl.evaluate.detection import (
    lesion_average_precision,
    lesion_sensitivity,
    measure_lesion_precision,
    weighted_lesion_precision,
    weighted_lesion_sensitivity,
)
from medssl.evaluate.groups import gaps
from medssl.evaluate.intervals import FEWEST_POSITIVE_PATIENTS, Interval, share_interval
from medssl.evaluate.measures import FEWEST_OF_A_CLASS, Metric
from medssl.evaluate.metrics import Measured
from medssl.evaluate.sections.judged import Judged, patients_of

ALARMS = (0.1, 0.25, 0.5, 1.0, 2.0)
"""False alarms a case at which sensitivity is told. The whole curve of a small group would tell single confidences."""

METHOD = f"BCa bootstrap over patients, {REPLICATES} replicates"


def lesions(judged: Judged) -> dict[str, Any] | None:
    """Lesion average precision and sensitivity at each of ALARMS false alarms a case, for everybody and each group, with
    intervals over patients, and the gaps of average precision; None where no table of lesions was given.

    Alarms a case are of all cases of a group, also of those without a candidate. Sensitivities of a group are at thresholds
    of its own: equal alarms, not one threshold. Average precision falls where lesions are rare.
    """
    if judged.lesions is None:
        return None
    found = judged.lesions
    metric = _precision(found)
    compared = [
        {key: row[key] for key in row if key != "metric"}
        for attribute in judged.attributes
        for row in gaps(
            judged.rows,
            metric,
            attribute,
            judged.minimum_patients,
            judged.margin,
            judged.hidden[attribute],
            judged.free,
        )
    ]
    rows = [
        {"attribute": attribute, "group": group, "reason": reason} | _group(found, inside if not reason else None)
        for attribute, group, inside, reason in judged.groups()
    ]
    return {"alarms": list(ALARMS), "rows": rows, "gaps": compared}


def _entries(found: pd.DataFrame, rows: pd.DataFrame, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(truth, confidence, number of the patient) of the entries of cases, whose patients have the numbers `codes`."""
    places = pd.Index(rows["sample_id"]).get_indexer(pd.Index(found["sample_id"]))
    there = places >= 0
    return found["truth"].to_numpy()[there], found["score"].to_numpy(float)[there], codes[places[there]]


def _group(found: pd.DataFrame, rows: pd.DataFrame | None) -> dict[str, Any]:
    """Head counts, average precision and sensitivities of the cases of a group; None of each where it is not shown."""
    if rows is None:
        return {"counts": None, "average_precision": None, "sensitivity": None, "method": ""}
    codes, patients = patients_of(rows)
    truth, score, patient = _entries(found, rows, codes)
    counts = {
        "patients": patients, "cases": len(rows), "lesions": int((truth == 1).sum()),
        "false_alarms": int((truth == 0).sum()),
    }  # fmt: skip
    carriers = len(np.unique(patient[truth == 1]))
    if carriers < FEWEST_OF_A_CLASS:
        why = "no lesion" if not carriers else "only 1 patient with a lesion"
        return {"counts": counts, "average_precision": None, "sensitivity": None, "method": why}
    value, few = lesion_average_precision(truth=truth, score=score), carriers < FEWEST_POSITIVE_PATIENTS
    precision = _interval(value, weighted_lesion_precision(truth, score, patient), patients, few=few)
    cases, sensitivity = np.bincount(codes, minlength=patients).astype(float), []
    for alarms in ALARMS:
        share = lesion_sensitivity(truth=truth, score=score, cases=len(rows), alarms=alarms)
        statistic = weighted_lesion_sensitivity(truth, score, patient, cases, alarms)
        one = _interval(share, statistic, patients, few=few)
        if not few and share in (0.0, 1.0):
            # No replicate leaves the boundary, which is not certainty: the bound of a share of so many patients.
            edge = Measured(share, np.zeros(patients), carriers - 1, "logit")
            one["low"], one["high"], _ = share_interval(edge, counts["lesions"], carriers)
        sensitivity.append({"alarms": alarms, **one})
    method = f"no interval: fewer than {FEWEST_POSITIVE_PATIENTS} patients with a lesion" if few else METHOD
    return {"counts": counts, "average_precision": precision, "sensitivity": sensitivity, "method": method}


def _interval(value: float, statistic: Statistic, patients: int, *, few: bool) -> dict[str, float | None]:
    """A value with the ends of its interval; None where there is none."""
    if few:
        return {"value": value, "low": None, "high": None}
    low, high = bootstrap_interval(value, statistic, patients)
    known = not math.isnan(low) and low < high
    return {"value": value, "low": low if known else None, "high": high if known else None}


def _precision(found: pd.DataFrame) -> Metric:
    """Lesion average precision of the entries `found`, as a metric of their cases."""

    def measure(rows: pd.DataFrame, patients: int) -> Measured:
        truth, score, patient = _entries(found, rows, rows["patient"].to_numpy(int))
        return measure_lesion_precision(truth, score, patient, patients)

    def carriers(rows: pd.DataFrame) -> int:
        codes, _ = patients_of(rows)
        truth, _, patient = _entries(found, rows, codes)
        return len(np.unique(patient[truth == 1]))

    def too_few(rows: pd.DataFrame) -> str:
        few = carriers(rows) < FEWEST_POSITIVE_PATIENTS
        return f"fewer than {FEWEST_POSITIVE_PATIENTS} patients with a lesion" if few else ""

    def interval(rows: pd.DataFrame, measured: Measured) -> Interval:
        codes, patients = patients_of(rows)
        statistic = weighted_lesion_precision(*_entries(found, rows, codes))
        return *bootstrap_interval(measured.value, statistic, patients), METHOD

    return Metric("lesion_average_precision", measure, interval, carriers, too_few)
