"""Whether a gap is one of the groups or of what else differs between them: crude against balanced differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from medssl.evaluate.casemix import Balance, balance, effective_patients, measure_weighted_auroc, measure_weighted_share
from medssl.evaluate.groups import judge, untestable
from medssl.evaluate.measures import AUROC, Metric, share
from medssl.evaluate.metrics import Measured
from medssl.evaluate.predictions import NOT_KNOWN
from medssl.evaluate.sections.judged import Judged, patients_of

MOST_OUTSIDE = 0.5
"""Share of a class's rows that only one side has, beyond which the rest is not said to stand for them."""

FEWEST_EFFECTIVE = 5
"""Patients of equal weight that a class must be worth on each side."""

Side = tuple[str, Measured, Measured]


def casemix(judged: Judged) -> dict[str, Any] | None:
    """For each attribute the gaps of its groups against all others, as they are and with the other attributes balanced, one
    by one and all together; None for a segmentation, and where no second attribute of two levels is there.

    What is not recorded is a level of what is balanced, and no group of what is compared. A balanced gap that is smaller
    says that the mix of patients may be behind it, not that it is: what was not recorded cannot be balanced, and balancing
    what is itself a consequence of belonging to a group hides a gap (Pfohl et al. 2025).
    """
    singles = [name for name in judged.attributes if name in judged.rows and judged.rows[name].nunique() > 1]
    if judged.segmentation or len(singles) < 2:
        return None
    cut = judged.threshold.value
    metrics = [AUROC] if cut is None else [AUROC, share("sensitivity", 1, cut), share("specificity", 0, cut)]
    lines: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    for attribute in singles:
        rows = judged.rows[~judged.rows[attribute].isin(NOT_KNOWN)]
        others = [name for name in singles if name != attribute]
        sets = [[name] for name in others] + ([others] if len(others) > 1 else [])
        if rows[attribute].nunique() > 1:
            for metric in metrics:
                shown, hidden = _lines(judged, rows, attribute, metric, sets)
                lines, left_out = lines + shown, left_out + hidden
    return {"lines": lines, "left_out": left_out} if lines else None


def _lines(
    judged: Judged, rows: pd.DataFrame, attribute: str, metric: Metric, sets: Sequence[Sequence[str]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A line for each group that has a crude gap: that gap, and what is left of it with each set balanced; and the groups
    that have none, with the reason.
    """
    crude, why = _gaps(judged, rows, attribute, metric, np.zeros(len(rows), int))
    answers = [_gaps(judged, rows, attribute, metric, _strata(rows, names)) for names in sets]
    lines, left_out = [], []
    for group, told in why.items():
        line: dict[str, Any] = {"attribute": attribute, "group": group, "metric": metric.name}
        if group not in crude:
            left_out.append(line | {"reason": told["reason"]})
            continue
        balanced = [
            {"by": list(names), **said[group], "gap": _brief(found[group]) if group in found else None}
            for names, (found, said) in zip(sets, answers, strict=True)
        ]
        lines.append(line | {"crude": _brief(crude[group]), "balanced": balanced})
    return lines, left_out


def _brief(gap: dict[str, Any]) -> dict[str, Any]:
    return {key: gap[key] for key in ("value", "low", "high", "verdict")}


def _strata(rows: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """The number of each row's combination of values (N,)."""
    return np.asarray(rows.groupby(list(names), sort=True).ngroup())


def _gaps(
    judged: Judged, rows: pd.DataFrame, attribute: str, metric: Metric, strata: np.ndarray
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Group -> its gap with strata balanced, where there is one; and group -> what became of the balancing."""
    truth, patient = rows["label"].to_numpy(float), patients_of(rows)[0]
    found: list[Side] = []
    told = {}
    for group in sorted(rows[attribute].unique()):
        inside = (rows[attribute] == group).to_numpy()
        if group in judged.hidden[attribute]:
            told[group] = {"reason": judged.hidden[attribute][group]}
            continue
        if min(rows.loc[side, "patient_id"].nunique() for side in (inside, ~inside)) < judged.minimum_patients:
            told[group] = {"reason": f"the group or the rest has fewer than {judged.minimum_patients} patients"}
            continue
        balanced = balance(truth=truth, inside=inside, stratum=strata)
        told[group] = _balanced(metric, truth, patient, inside, balanced)
        if not told[group]["reason"]:
            pair = [
                _measure(judged, metric, rows[side], patient[side], balanced.weight[side]) for side in (inside, ~inside)
            ]
            told[group]["reason"] = untestable(pair[0], pair[1])
            found += [] if told[group]["reason"] else [(group, pair[0], pair[1])]
    return {row["group"]: row for row in judge(found, metric, attribute, judged.margin)}, told


def _balanced(
    metric: Metric, truth: np.ndarray, patient: np.ndarray, inside: np.ndarray, balanced: Balance
) -> dict[str, Any]:
    """How well the sides could be balanced, with the reason where too badly: of the class in which it went worst."""
    labels = {"auroc": (0, 1), "sensitivity": (1,), "specificity": (0,)}[metric.name]
    outside = max(balanced.outside[label] for label in labels)
    sides = [(truth == label) & side for label in labels for side in (inside, ~inside)]
    effective = min(effective_patients(balanced.weight[side], patient[side]) for side in sides)
    reason = ""
    if outside > MOST_OUTSIDE:
        reason = f"{100 * outside:.0f} % of the rows are of a kind that only one side has: not separable"
    elif effective < FEWEST_EFFECTIVE:
        reason = f"a class of a side is worth fewer than {FEWEST_EFFECTIVE} patients of equal weight"
    # Rounded, so that nobody counts a single patient back.
    heaviest = round(float(balanced.weight.max()), 1)
    return {"outside": round(outside, 2), "effective": round(effective), "largest_weight": heaviest, "reason": reason}


def _measure(judged: Judged, metric: Metric, rows: pd.DataFrame, patient: np.ndarray, weight: np.ndarray) -> Measured:
    """The metric of one side, of which rows count by their weight."""
    truth, score = rows["label"].to_numpy(float), rows["score"].to_numpy(float)
    patients = int(judged.rows["patient_id"].nunique())
    if metric.name == "auroc":
        return measure_weighted_auroc(truth=truth, score=score, weight=weight, patient=patient, patients=patients)
    label = int(metric.name == "sensitivity")
    kept = truth == label
    hit = ((score >= judged.threshold.value) == bool(label)).astype(float)
    return measure_weighted_share(hit=hit[kept], weight=weight[kept], patient=patient[kept], patients=patients)
