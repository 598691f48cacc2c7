"""Groups of two attributes at once, which neither shows alone; small ones also moved toward what both add up to."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from medssl.evaluate.groups import estimate, judge, slope, untestable
from medssl.evaluate.intersections import shrink_to_additive
from medssl.evaluate.intervals import expit, logit
from medssl.evaluate.measures import AUROC
from medssl.evaluate.metrics import Measured, measure_auroc
from medssl.evaluate.predictions import NOT_KNOWN
from medssl.evaluate.sections.judged import Judged, patients_of

FEWEST_OF_A_CLASS = 5
"""Patients of each class that a cell needs."""


def intersections(judged: Judged) -> dict[str, Any] | None:
    """The AUROC in the cells of every two attributes, and for each cell the verdict against all other known rows; None for
    a segmentation and with fewer than two attributes of two known groups.

    Cells below the fewest patients, or of fewer than 5 patients of a class, are counted and not shown; head counts of the
    other cells of such a pair are rounded down to tens, so that the hidden one is not what is missing from a sum. The
    intervals of all cells of all pairs hold together (max-T), since so many were asked. No more than two attributes are
    crossed.
    """
    known = {name: judged.rows[~judged.rows[name].isin(NOT_KNOWN)] for name in judged.attributes if "*" not in name}
    singles = [name for name, rows in known.items() if rows[name].nunique() > 1]
    if judged.segmentation or len(singles) < 2:
        return None
    patient, patients = patients_of(judged.rows)
    rows = judged.rows.assign(patient=patient).sort_values(["score", "sample_id"])
    pairs, sides = [], []
    for first, second in combinations(singles, 2):
        pair, found = _pair(rows[~rows[[first, second]].isin(NOT_KNOWN).any(axis=1)], (first, second), patients, judged)
        pairs.append(pair)
        sides += found
    verdicts = iter(judge([(name, group, rest) for name, group, rest, _ in sides], AUROC, "", judged.margin))
    for *_, cell in sides:
        gap = next(verdicts)
        cell["gap"] = {key: gap[key] for key in ("value", "low", "high", "verdict", "smallest_detectable")}
    return {"fewest_of_a_class": FEWEST_OF_A_CLASS, "tested": len(sides), "pairs": pairs}


Tested = tuple[str, Measured, Measured, dict[str, Any]]
"""A cell's name, its AUROC, that of all other rows, and what the report says of it."""


def _pair(
    rows: pd.DataFrame, names: tuple[str, str], patients: int, judged: Judged
) -> tuple[dict[str, Any], list[Tested]]:
    """The cells of two attributes, and those that can be tested."""
    first, second = names
    cells, measured, tested = [], [], []
    hidden, gone = 0, judged.hidden_of(f"{first}*{second}")
    for (one, other), inside in rows.groupby([first, second], sort=True):
        rest = rows.drop(inside.index)
        many = _enough(inside, judged.minimum_patients) and _enough(rest, judged.minimum_patients)
        if not many or f"{one} x {other}" in gone:
            hidden += 1
            continue
        told = estimate(inside, AUROC, "", "", 1)
        cell = {"first": one, "second": other, "n_patients": told["n_patients"], "n_positive": told["n_positive"],
                "value": told["value"], "low": told["low"], "high": told["high"], "shrunken": None, "gap": None}  # fmt: skip
        here, there = _measure(inside, patients), _measure(rest, patients)
        cell["reason"] = untestable(here, there)
        cells.append(cell)
        if not cell["reason"]:
            measured.append((cell, here))
            tested.append((f"{one} x {other}", here, there, cell))
    for cell in cells if hidden else ():
        cell |= {count: cell[count] // 10 * 10 for count in ("n_patients", "n_positive")}
    deviation = _shrink(measured)
    return {"first": first, "second": second, "hidden": hidden, "deviation": deviation, "cells": cells}, tested


def _enough(rows: pd.DataFrame, minimum: int) -> bool:
    """Whether rows are of enough patients, and of enough of each class."""
    of_class = [rows.loc[rows["label"] == label, "patient_id"].nunique() for label in (0, 1)]
    return rows["patient_id"].nunique() >= minimum and min(of_class) >= FEWEST_OF_A_CLASS


def _measure(rows: pd.DataFrame, patients: int) -> Measured:
    truth, score = rows["label"].to_numpy(float), rows["score"].to_numpy(float)
    return measure_auroc(truth, score, rows["patient"].to_numpy(int), patients)


def _shrink(measured: list[tuple[dict[str, Any], Measured]]) -> float | None:
    """The deviation of the logit AUROC of cells from what their attributes add up to; the cells are told their shrunken
    values. None, and nothing is told, where too few cells are there.
    """
    if not measured:
        return None
    first, second = (
        np.unique([cell[side] for cell, _ in measured], return_inverse=True)[1] for side in ("first", "second")
    )
    found = shrink_to_additive(
        value=np.array([logit(one.value) for _, one in measured]),
        error=np.array([one.error / slope(one) for _, one in measured]), first=first, second=second,
    )  # fmt: skip
    if found is None:
        return None
    for (cell, _), *ends in zip(measured, found.value, found.low, found.high, strict=True):
        cell["shrunken"] = dict(zip(("value", "low", "high"), map(expit, map(float, ends)), strict=True))
    return found.deviation
