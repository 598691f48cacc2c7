"""Whether acting on the scores does more good than flagging everybody or nobody, by group."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from medssl.evaluate.decision import Acted, Benefit, benefits, cuts
from medssl.evaluate.sections.judged import Judged, patients_of

FEWEST_PATIENTS = 50
FEWEST_OF_A_CLASS = 5
"""Patients, and patients of a class, below which a curve would be chance and could point at persons."""

Row = dict[str, Any]


def decision(judged: Judged) -> Row | None:
    """Net benefit over thresholds for everybody and each group that is large enough, with a band over patients at each
    threshold by itself; None for a segmentation, and where scores only rank.

    `better` are the stretches of thresholds at which the model is shown to be worth more than both flagging everybody and
    flagging nobody; `fixed` is the threshold at which the model is used, None where there is none. Scores are taken for
    probabilities. Where a prevalence in use was declared, it is that which benefit is told of.
    """
    if not judged.probabilities or judged.segmentation:
        return None
    codes, patients = patients_of(judged.rows)
    numbered = pd.Series(codes, judged.rows.index)
    fixed = judged.threshold.value
    fixed = fixed if fixed is not None and 0 < fixed < 1 else None
    rows: list[Row] = []
    acted: list[Acted] = []
    for attribute, group, inside, reason in judged.groups():
        reason = reason or _too_few(inside)
        score, patient = inside["score"].to_numpy(float), numbered.loc[inside.index].to_numpy()
        thresholds = np.array([]) if reason else cuts(score, patient, judged.minimum_patients, fixed)
        if not reason and not len(thresholds):
            reason = "no threshold parts enough patients from the others"
        rows.append(
            {"attribute": attribute, "group": group, "reason": reason, "n_patients": None, "curve": [], "better": []}
        )
        if not reason:
            acted.append(Acted(inside["label"].to_numpy(float), score, patient, thresholds))
    told = [row for row in rows if not row["reason"]]
    found = benefits(acted, patients, prevalence=judged.prevalence) if acted else []
    for row, own, benefit in zip(told, acted, found, strict=True):
        row |= {
            "n_patients": len(np.unique(own.patient)), "curve": _curve(own.thresholds, benefit),
            "better": _stretches(own.thresholds, benefit.gain_band[0] > 0),
        }  # fmt: skip
    return {"fixed": fixed, "prevalence": judged.prevalence, "rows": rows}


def _too_few(inside: pd.DataFrame) -> str:
    if inside["patient_id"].nunique() < FEWEST_PATIENTS:
        return f"fewer than {FEWEST_PATIENTS} patients"
    for label, name in ((1, "positive"), (0, "negative")):
        if inside.loc[inside["label"] == label, "patient_id"].nunique() < FEWEST_OF_A_CLASS:
            return f"fewer than {FEWEST_OF_A_CLASS} patients with a {name}"
    return ""


def _curve(thresholds: np.ndarray, benefit: Benefit) -> list[Row]:
    columns = {
        "threshold": thresholds, "value": benefit.value, "low": benefit.band[0], "high": benefit.band[1],
        "everybody": benefit.everybody, "gain": benefit.gain, "gain_low": benefit.gain_band[0],
        "gain_high": benefit.gain_band[1],
    }  # fmt: skip
    return [
        {name: float(values[k]) if np.isfinite(values[k]) else None for name, values in columns.items()}
        for k in range(len(thresholds))
    ]


def _stretches(thresholds: np.ndarray, shown: np.ndarray) -> list[list[float]]:
    """First and last threshold of each run of those that are shown."""
    edges = np.flatnonzero(np.diff(np.r_[False, shown, False].astype(int)))
    return [[float(thresholds[a]), float(thresholds[b - 1])] for a, b in edges.reshape(-1, 2)]
