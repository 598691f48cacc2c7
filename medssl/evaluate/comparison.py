"""Two models on the same patients: the difference, and what it is in each group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from medssl.errors import UserError
from medssl.evaluate.groups import Row, with_group
from medssl.evaluate.intervals import mean_interval, quantile
from medssl.evaluate.metrics import measure_auroc, patient_means
from medssl.evaluate.predictions import UNKNOWN, check_predictions

MINIMUM_PATIENTS = 11


def compare(
    first: pd.DataFrame, second: pd.DataFrame, *, metric: str = "auroc", split: str = "test", by: Sequence[str] = ()
) -> dict[str, Any]:
    """The difference second - first with its 95 % interval, overall and by group; patients are the unit.

    Both tables must hold the same samples of the split. `metric` is "auroc" (paired clustered DeLong) or a dice_ column
    (paired over patients). One table a model compares two runs, not two ways of training: that takes several seeds.
    """
    a, b = (check_predictions(table, name) for table, name in ((first, "first table"), (second, "second table")))
    rows = _paired(a[a["split"] == split], b[b["split"] == split], metric, split)
    results = [_difference(rows, metric, "", "all", 1)]
    for attribute in by:
        grouped = with_group(rows, attribute)
        for name in sorted(grouped["group"].unique(), key=lambda group: (group == UNKNOWN, group)):
            results.append(_difference(grouped[grouped["group"] == name], metric, attribute, name, MINIMUM_PATIENTS))
    return {
        "metric": metric,
        "split": split,
        "results": results,
        "sentences": [_sentence(row, metric) for row in results],
    }


def _paired(a: pd.DataFrame, b: pd.DataFrame, metric: str, split: str) -> pd.DataFrame:
    if a.empty or set(a["sample_id"]) != set(b["sample_id"]):
        both = len(set(a["sample_id"]) & set(b["sample_id"]))
        raise UserError(
            f"compare: the tables hold {len(a)} and {len(b)} samples of split {split!r}, {both} of them in both; "
            "predict the same samples with both models"
        )
    column = "score" if metric == "auroc" else metric
    for table, which in (a, "first"), (b, "second"):
        if column not in table or table[column].isna().all():
            raise UserError(
                f"compare: the {which} table has no {column!r} to compare; choose --metric auroc or a dice_ column"
            )
    other = b.set_index("sample_id").loc[a["sample_id"]]
    if metric == "auroc" and not (a["label"].to_numpy() == other["label"].to_numpy()).all():
        raise UserError("compare: the tables disagree on a label; both must judge the same reference")
    return a.assign(first=a[column].to_numpy(), second=other[column].to_numpy())


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
    error = float(np.sqrt(np.square(b.influence - a.influence).sum()))
    fewest = min(len(np.unique(codes[truth == label])) for label in (0, 1))
    half = quantile(0.95, fewest - 1) * error
    return _ends([a.value, b.value], b.value - a.value - half, b.value - a.value + half, "paired clustered DeLong, t")


def _ends(pair: list[float], low: float, high: float, method: str) -> Row:
    ends = {"low": None if math.isnan(low) else low, "high": None if math.isnan(high) else high}
    return {"first": pair[0], "second": pair[1], "value": pair[1] - pair[0], **ends, "method": method}


def _sentence(row: Row, metric: str) -> str:
    where = f"{row['attribute']} {row['group']}: " if row["attribute"] else ""
    if row["value"] is None:
        return f"{where}not compared, {row['reason']}."
    between = f" (95 % interval {row['low']:+.3f} to {row['high']:+.3f})" if row["low"] is not None else ""
    return (
        f"{where}{metric} {row['first']:.3f} -> {row['second']:.3f}, difference {row['value']:+.3f}{between}, "
        f"{row['n_patients']} patients. These are two runs, not two ways of training."
    )
