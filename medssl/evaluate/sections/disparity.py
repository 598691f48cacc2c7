"""How unequally a model treats groups: the named differences of fairness, how much of them is noise, and who is missed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medssl.evaluate.disparity import (
    Cohort,
    between,
    equity_scaled,
    largest,
    measure,
    no_error,
    null_draws,
    range_interval,
)
from medssl.evaluate.groups import estimate, has_attribute, with_group
from medssl.evaluate.intervals import share_interval
from medssl.evaluate.measures import AUROC, FEWEST_OF_A_CLASS, Metric, share
from medssl.evaluate.metrics import Measured, auroc
from medssl.evaluate.predictions import NOT_KNOWN
from medssl.evaluate.sections.judged import Judged, patients_of

CRITERIA = {
    "equalised_odds": ("sensitivity", "specificity"),
    "equal_opportunity": ("sensitivity",),
    "demographic_parity": ("flagged",),
    "predictive_parity": ("ppv",),
}
"""Criterion -> of which measures it is the largest difference: of false positive rates that is the one of specificities."""

WELL = {"nofinding", "nofindings", "nodisease", "noabnormality", "normal", "healthy"}
"""Labels (letters only) by which being flagged means being found well: who is ill and flagged is underdiagnosed."""

NEEDS = {
    "auroc": ("positive", "negative"),
    "sensitivity": ("positive",),
    "specificity": ("negative",),
    "ppv": ("flagged",),
    "flagged": ("",),
}
"""Measure -> what patients it needs."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A measure of those groups of an attribute that have it, what those do not that do not, and values by chance (B, G)."""

    names: Sequence[str]
    measured: Sequence[Measured]
    left_out: Sequence[dict[str, str]]
    by_chance: np.ndarray


def disparity(judged: Judged) -> dict[str, Any] | None:
    """For each attribute the largest differences between its groups, and error rates of every group; None for a
    segmentation and without attributes.

    "unknown" is no group in a difference, a group of one class is left out of what needs both and named, and what needs a
    threshold is absent where none was fixed. No difference has a verdict here: the verdicts are those of `gaps`, and a
    difference that chance could make is not thereby shown to be none.
    """
    names = [name for name in judged.attributes if has_attribute(judged.rows, name)]
    if judged.segmentation or not names:
        return None
    return {
        "threshold": judged.threshold.value,
        "attributes": [_attribute(judged, name) for name in names],
        "underdiagnosis": None if judged.threshold.value is None else _underdiagnosis(judged),
    }


def _attribute(judged: Judged, attribute: str) -> dict[str, Any]:
    row: dict[str, Any] = {"attribute": attribute, "reason": "", "criteria": [], "spreads": [], "equity_scaled": None}
    rows = with_group(judged.rows, attribute)
    rows, gone = rows[~rows["group"].isin(NOT_KNOWN)], judged.hidden[attribute]
    names = sorted(rows["group"].unique())
    shown = [name for name in names if name not in gone]
    if len(names) < 2:
        return row | {"reason": "one level only"}
    if len(shown) < 2:
        return row | {
            "reason": f"fewer than two groups are shown: those under {judged.minimum_patients} patients are not"
        }
    rows = rows[rows["group"].isin(shown)]
    numbers = {name: place for place, name in enumerate(shown)}
    cohort = Cohort(
        truth=rows["label"].to_numpy(float), score=rows["score"].to_numpy(float), patient=patients_of(rows)[0],
        group=rows["group"].map(numbers).to_numpy(int), threshold=judged.threshold.value,
    )  # fmt: skip
    hidden = [{"group": name, "reason": gone[name]} for name in names if name in gone]
    seen = _seen(cohort, shown, hidden)
    if judged.threshold.value is not None:
        row["criteria"] = [
            {"criterion": name, **_difference([seen[one] for one in of])} for name, of in CRITERIA.items()
        ]
    row["spreads"] = [
        {"measure": metric.name, **_difference([seen[metric.name]]), **_spread(seen[metric.name], metric, rows)}
        for metric in _metrics(judged.threshold.value)
    ]
    whole = auroc(truth=judged.rows["label"].to_numpy(float), score=judged.rows["score"].to_numpy(float))
    return row | {"equity_scaled": _scaled(seen["auroc"], whole)}


def _seen(cohort: Cohort, names: Sequence[str], hidden: list[dict[str, str]]) -> dict[str, Seen]:
    """Measure -> what was seen of it."""
    draws, patients = np.stack(list(null_draws(cohort, len(names)))), int(cohort.patient.max()) + 1
    found = {}
    for place, name in enumerate(cohort.measures):
        reasons = [_too_few(cohort, name, cohort.group == group) for group in range(len(names))]
        kept = [group for group, reason in enumerate(reasons) if not reason]
        left_out = [{"group": names[group], "reason": reason} for group, reason in enumerate(reasons) if reason]
        measured = [measure(cohort, name, cohort.group == group, patients) for group in kept]
        found[name] = Seen([names[group] for group in kept], measured, hidden + left_out, draws[:, place, kept])
    return found


def _too_few(cohort: Cohort, name: str, rows: np.ndarray) -> str:
    """Why a measure of some rows is not told, or ""."""
    of = {"positive": cohort.truth == 1, "negative": cohort.truth == 0, "flagged": cohort.flagged, "": rows}
    for need in NEEDS[name]:
        count = len(np.unique(cohort.patient[rows & of[need]]))
        if count < FEWEST_OF_A_CLASS:
            return f"{'no' if count == 0 else 'only 1'} {need} patient"
    return ""


def _difference(families: Sequence[Seen]) -> dict[str, Any]:
    """The largest difference between two groups of whichever family it is largest in, beside what chance makes of it."""
    left_out = {(row["group"], row["reason"]): row for family in families for row in family.left_out}
    groups = min(len(family.names) for family in families)
    row: dict[str, Any] = {
        "value": None, "low": None, "high": None, "reason": "", "null_mean": None, "null_far": None, "groups": groups,
        "left_out": list(left_out.values()),
    }  # fmt: skip
    if groups < 2:
        return row | {"reason": "fewer than two groups have it"}
    values = [float(largest(np.array([one.value for one in family.measured]))) for family in families]
    by_chance = np.max([largest(family.by_chance) for family in families], axis=0)
    row |= {"value": max(values), **_chance(by_chance)}
    if reason := no_error([one for family in families for one in family.measured]):
        return row | {"reason": reason}
    low, high = range_interval([family.measured for family in families])
    return row | {"low": low, "high": high}


def _chance(draws: np.ndarray, far: float = 0.95) -> dict[str, float | None]:
    """Mean and far point of what chance makes of a number; None where it often makes nothing of it."""
    known = draws[~np.isnan(draws)]
    if len(known) < 0.9 * len(draws):
        return {"null_mean": None, "null_far": None}
    return {"null_mean": float(known.mean()), "null_far": float(np.quantile(known, far))}


def _metrics(threshold: float | None) -> list[Metric]:
    """The metrics by which the worst group is told: of these more is better."""
    return (
        [AUROC]
        if threshold is None
        else [AUROC, share("sensitivity", 1, threshold), share("specificity", 0, threshold)]
    )


def _spread(seen: Seen, metric: Metric, rows: pd.DataFrame) -> dict[str, Any]:
    """The deviation between groups without noise, and the group that came out worst, with its interval as everywhere."""
    if len(seen.names) < 2:
        return {"deviation": None, "worst": None}
    name = seen.names[int(np.argmin([one.value for one in seen.measured]))]
    told = estimate(rows[rows["group"] == name], metric, "", name, 1)
    worst = {key: told[key] for key in ("group", "value", "low", "high")} | {"shrunken": None, "again": None}
    if no_error(seen.measured):
        return {"deviation": None, "worst": worst}
    found = between(seen.measured)
    return {
        "deviation": {"value": found.value, "low": found.low, "high": found.high},
        "worst": worst | {"shrunken": found.shrunken, "again": found.again},
    }


def _scaled(seen: Seen, whole: float) -> dict[str, Any] | None:
    """The equity-scaled forms of an AUROC with what chance makes of them; None with fewer than two groups."""
    if len(seen.names) < 2:
        return None
    found = equity_scaled(whole=whole, groups=np.array([one.value for one in seen.measured]))
    by_chance = equity_scaled(whole=whole, groups=seen.by_chance)
    forms = [
        {"form": form, "value": float(value), **_chance(by_chance[form], 0.05 if form.startswith("es_") else 0.95)}
        for form, value in found.items()
        if not math.isnan(value)
    ]
    return {"groups": len(seen.names), "left_out": list(seen.left_out), "whole": whole, "forms": forms}


def _underdiagnosis(judged: Judged) -> dict[str, Any]:
    """How often each group's illness is overlooked and its health is not, with Wilson intervals over patients.

    Of a label for being well, the false positive rate is that of being overlooked: Seyyed-Kalantari et al., Nature
    Medicine 2021.
    """
    tasks = set(judged.rows["task"]) if "task" in judged.rows else set()
    well = [name for name in sorted({*tasks, judged.name}) if re.sub("[^a-z]", "", name.lower()) in WELL]
    rows = []
    for attribute, group, inside, reason in judged.groups():
        missed, alarms = (None, None) if reason else (_error_rate(inside, 1, judged), _error_rate(inside, 0, judged))
        under, over = (alarms, missed) if well else (missed, alarms)
        told = {"attribute": attribute, "group": group, "reason": reason}
        rows.append(told | {"underdiagnosis": under, "overdiagnosis": over})
    return {
        "rate": "false positive rate" if well else "false negative rate",
        "label": well[0] if well else "",
        "rows": rows,
    }


def _error_rate(rows: pd.DataFrame, label: int, judged: Judged) -> dict[str, float] | None:
    """The share of rows of a label that are answered wrongly; None where too few patients have one."""
    kept = rows[rows["label"] == label]
    codes, patients = patients_of(kept)
    if patients < FEWEST_OF_A_CLASS:
        return None
    cohort = Cohort(
        truth=kept["label"].to_numpy(float), score=kept["score"].to_numpy(float), patient=codes,
        group=np.zeros(len(kept), int), threshold=judged.threshold.value,
    )  # fmt: skip
    right = measure(cohort, "sensitivity" if label else "specificity", np.ones(len(kept), bool), patients)
    low, high, _ = share_interval(right, len(kept), patients)
    return {"value": 1 - right.value, "low": 1 - high, "high": 1 - low}
