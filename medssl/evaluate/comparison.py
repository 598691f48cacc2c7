"""Two models on the same patients: the difference, and what it is in each group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from medssl.errors import UserError
from medssl.evaluate.groups import Row, check_levels, ordered, with_group
from medssl.evaluate.intervals import mean_interval, quantile
from medssl.evaluate.metrics import measure_auroc, patient_means
from medssl.evaluate.outlines import MEASURES, RIGHT, measure_of, split_name
from medssl.evaluate.predictions import by_task, check_predictions

MINIMUM_PATIENTS = 11

TWO_RUNS = (
    "This compares two runs, not two ways of training: that takes several seeds of each. "
    "Intervals by group are each for itself, without correction for how many there are."
)

SEVERAL = " So are those by task."

ONE_BLANK = " Where a structure is blank in one table only, the blank counts as {}: finding nothing was right."

LESS_IS_BETTER = " Of distances less is better."


def compare(
    first: pd.DataFrame, second: pd.DataFrame, *, metric: str = "auroc", split: str = "test", by: Sequence[str] = ()
) -> dict[str, Any]:
    """The difference second - first with its 95 % interval, overall and by group, of each task; patients are the unit.

    Both tables must hold the same samples of the split. `metric` is "auroc" (paired clustered DeLong) or a dice_, nsd_ or
    hd95_ column (paired over patients). Where a structure is blank (absent and not found) in one table only, the blank
    counts as 1 (of hd95_ as 0 mm): it was right, and the other's false find has to weigh.
    """
    a, b = (check_predictions(table, name) for table, name in ((first, "first table"), (second, "second table")))
    tasks, others = by_task(a), by_task(b)
    if set(tasks) != set(others):
        told = ", ".join(sorted((set(tasks) ^ set(others)) - {""}))
        raise UserError(f"compare: only one of the tables has the task {told}; give tables of the same tasks")
    results: list[Row] = []
    for task, rows in tasks.items():
        other = others[task]
        pair = _paired(rows[rows["split"] == split], other[other["split"] == split], metric, split)
        results += [{"task": task, **row} for row in _differences(pair, metric, by)]
    note = TWO_RUNS + (SEVERAL if len(tasks) > 1 else "")
    if metric != "auroc":
        measure = measure_of(metric)
        note += ONE_BLANK.format(f"{RIGHT[split_name(metric)[0]]:g} {measure.unit}".strip())
        note += "" if measure.more_is_better else LESS_IS_BETTER
    return {
        "metric": metric,
        "split": split,
        "results": results,
        "note": note,
        "sentences": [*(_sentence(row, metric) for row in results), note],
    }


def _differences(rows: pd.DataFrame, metric: str, by: Sequence[str]) -> list[Row]:
    """Overall, and in each group of each attribute."""
    results = [_difference(rows, metric, "", "all", 1)]
    for attribute in by:
        check_levels(rows, attribute)
        grouped = with_group(rows, attribute)
        for name in ordered(grouped["group"]):
            results.append(_difference(grouped[grouped["group"] == name], metric, attribute, name, MINIMUM_PATIENTS))
    return results


def _paired(a: pd.DataFrame, b: pd.DataFrame, metric: str, split: str) -> pd.DataFrame:
    """The samples of both, in one order, with columns `first` and `second`; rows that neither can judge are dropped."""
    if a.empty or set(a["sample_id"]) != set(b["sample_id"]):
        both = len(set(a["sample_id"]) & set(b["sample_id"]))
        raise UserError(
            f"compare: the tables hold {len(a)} and {len(b)} samples of split {split!r}, {both} of them in both; "
            "predict the same samples with both models"
        )
    column = "score" if metric == "auroc" else metric
    for table, which in (a, "first"), (b, "second"):
        if (
            (metric != "auroc" and not metric.startswith(tuple(MEASURES)))
            or column not in table
            or table[column].isna().all()
        ):
            raise UserError(
                f"compare: the {which} table has no {column!r} to compare; choose --metric auroc or a dice_, nsd_ or "
                "hd95_ column"
            )
    if metric.startswith("nsd_") and len(_tolerances(a) | _tolerances(b)) > 1:
        raise UserError("compare: the tables tell surface Dice of different tolerance_mm; predict with the same")
    a = a.sort_values("sample_id")
    other = b.set_index("sample_id").loc[a["sample_id"]]
    if (a["patient_id"].to_numpy() != other["patient_id"].to_numpy()).any():
        raise UserError("compare: the tables disagree on whose a sample is (patient_id); take both from one store")
    rows = a.assign(first=a[column].to_numpy(), second=other[column].to_numpy())
    if metric != "auroc":
        rows = rows[rows["first"].notna() | rows["second"].notna()]
        right = RIGHT[split_name(metric)[0]]
        return rows.assign(first=rows["first"].fillna(right), second=rows["second"].fillna(right))
    if not a["label"].equals(pd.Series(other["label"].to_numpy(), index=a.index)):
        raise UserError("compare: the tables disagree on a label; both must judge the same reference")
    judged = rows["label"].notna() & rows["first"].notna() & rows["second"].notna()
    if (rows["first"].isna() != rows["second"].isna()).any():
        raise UserError("compare: a sample is scored in one table only; predict the same samples with both models")
    return rows[judged]


def _tolerances(table: pd.DataFrame) -> set[float]:
    return set(table["tolerance_mm"].dropna()) if "tolerance_mm" in table else set()


def _difference(rows: pd.DataFrame, metric: str, attribute: str, group: str, minimum: int) -> Row:
    patients = int(rows["patient_id"].nunique())
    base: Row = {"attribute": attribute, "group": group, "n_patients": patients, "first": None, "second": None,
                 "value": None, "low": None, "high": None, "method": None, "reason": ""}  # fmt: skip
    if patients < minimum:
        return base | {"n_patients": None, "reason": f"fewer than {minimum} patients"}
    codes = np.asarray(pd.factorize(rows["patient_id"])[0])
    if metric == "auroc":
        return base | _auroc_difference(rows, codes, patients)
    pair = [patient_means(rows[name].to_numpy(float), codes) for name in ("first", "second")]
    low, high, method = mean_interval(pair[1] - pair[0])
    means = [float(values.mean()) for values in pair]
    return base | _ends(means, low, high, f"paired {method}")


def _auroc_difference(rows: pd.DataFrame, codes: np.ndarray, patients: int) -> Row:
    truth = rows["label"].to_numpy(float)
    a, b = (measure_auroc(truth, rows[name].to_numpy(float), codes, patients) for name in ("first", "second"))
    if math.isnan(a.value):
        return {"reason": a.reason}
    pair = [a.value, b.value]
    fewest = min(len(np.unique(codes[truth == label])) for label in (0, 1))
    if fewest < 2:
        return _ends(pair, math.nan, math.nan, "none: one patient of a class")
    error = float(np.sqrt(np.square(b.influence - a.influence).sum()))
    same = np.array_equal(rows["first"], rows["second"])
    if error == 0 and not same:
        # Two rankings of equal worth on these patients, for example both perfect: no spread, but no certainty either.
        return _ends(pair, math.nan, math.nan, "none: the difference does not vary between these patients")
    half = quantile(0.95, fewest - 1) * error
    middle = b.value - a.value
    return _ends(pair, max(-1.0, middle - half), min(1.0, middle + half), "paired clustered DeLong, t")


def _ends(pair: list[float], low: float, high: float, method: str) -> Row:
    ends = {"low": None if math.isnan(low) else low, "high": None if math.isnan(high) else high}
    return {"first": pair[0], "second": pair[1], "value": pair[1] - pair[0], **ends, "method": method}


def _sentence(row: Row, metric: str) -> str:
    where = f"{row['task']}: " if row["task"] else ""
    where += f"{row['attribute']} {row['group']}: " if row["attribute"] else ""
    if row["value"] is None:
        return f"{where}not compared, {row['reason']}."
    if row["low"] is None:
        between = f", no interval ({row['method'].removeprefix('none: ')})"
    else:
        between = f" (95 % interval {row['low']:+.3f} to {row['high']:+.3f})"
        between += ", which does not leave out zero" if row["low"] <= 0 <= row["high"] else ""
    unit = f" {measure_of(metric).unit}".rstrip()
    return (
        f"{where}{metric} {row['first']:.3f} -> {row['second']:.3f}, difference {row['value']:+.3f}{unit}{between}; "
        f"{row['n_patients']} patients."
    )
