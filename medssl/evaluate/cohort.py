"""Who was judged: head counts, prevalence, what is not recorded, and who was left out, by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from medssl.evaluate.groups import Row, ordered, with_group
from medssl.evaluate.intervals import share_interval
from medssl.evaluate.measures import positives
from medssl.evaluate.metrics import measure_share
from medssl.evaluate.predictions import UNKNOWN


def describe(
    judged: pd.DataFrame, left_out: pd.DataFrame, names: Sequence[str], hidden: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """Counts of the rows judged and of those left out (no label or no score), overall and by each attribute.

    A group that was left out altogether is a row of zeros, not a missing row: who cannot be judged is a finding. Groups
    that are `hidden` (attribute -> group -> reason) are named but not counted.
    """
    attributes = []
    for attribute in names:
        inside, outside, gone = with_group(judged, attribute), with_group(left_out, attribute), hidden[attribute]
        groups = [
            _group(inside[inside["group"] == name], outside[outside["group"] == name], name, gone.get(name, ""))
            for name in ordered(pd.concat([inside["group"], outside["group"], pd.Series([*gone], dtype=object)]))
        ]
        missing = inside.loc[inside["group"] == UNKNOWN, "patient_id"].nunique() / judged["patient_id"].nunique()
        share = None if UNKNOWN in gone else missing
        attributes.append({"attribute": attribute, "groups": groups, "unknown_share": share})
    return {**_group(judged, left_out, "all", ""), "attributes": attributes}


def notes(judged: pd.DataFrame, left_out: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Sentences on what a reader of the counts must know: rows left out, patients in several groups."""
    found = []
    if len(left_out):
        have, are = ("has", "is") if len(left_out) == 1 else ("have", "are")
        found.append(
            f"{len(left_out)} of {len(left_out) + len(judged)} rows {have} no label or no score and {are} not judged; "
            "the cohort table counts them by group."
        )
    for attribute in names:
        several = int((with_group(judged, attribute).groupby("patient_id")["group"].nunique() > 1).sum())
        if several:
            who = "1 patient is" if several == 1 else f"{several} patients are"
            found.append(f"{who} in more than one group of {attribute}, and counted in each.")
    return found


def _group(judged: pd.DataFrame, left_out: pd.DataFrame, name: str, reason: str) -> Row:
    patients = int(judged["patient_id"].nunique())
    row: Row = {"group": name, "n_patients": None, "n_rows": None, "n_positive": None, "n_left_out": None,
                "prevalence": None, "reason": reason}  # fmt: skip
    if reason:
        return row
    row |= {"n_patients": patients, "n_rows": len(judged), "n_left_out": len(left_out)}
    if patients and judged["label"].notna().all():
        codes = np.asarray(pd.factorize(judged["patient_id"])[0])
        measured = measure_share(judged["label"].to_numpy(float), codes, patients)
        low, high, _ = share_interval(measured, len(judged), patients)
        row |= {"n_positive": positives(judged), "prevalence": {"value": measured.value, "low": low, "high": high}}
    return row
