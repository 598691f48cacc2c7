"""From predictions to a report: cohort, missingness, metrics by group, gaps, and three sentences that sum it up."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from medssl.errors import UserError
from medssl.evaluate.findings import findings
from medssl.evaluate.groups import Metric, Row, by_group, estimate, gaps, with_group
from medssl.evaluate.intervals import Interval, auroc_interval, mean_interval, share_interval
from medssl.evaluate.metrics import Measured, measure_auroc, measure_mean, measure_share, patient_means
from medssl.evaluate.predictions import UNKNOWN, attributes_of, check_predictions
from medssl.evaluate.threshold import Threshold, fix_threshold

SCHEMA_VERSION = "1"

FEWEST_OF_A_CLASS = 2
"""Rows of a class below which a ranking metric is not shown: one case is an anecdote, and would be recognisable."""


def evaluate(
    tables: Mapping[str, pd.DataFrame],
    *,
    by: Sequence[str] = (),
    split: str = "test",
    margin: float = 0.05,
    minimum_patients: int = 11,
    title: str = "Model evaluation",
) -> dict[str, Any]:
    """The content of report.json: an analysis for each table (name -> predictions).

    A table with labels and scores is a classification, one with dice_ columns a segmentation. `by` names attributes,
    "a*b" crosses two; empty means every attribute there is. `margin` is the difference that would matter, declared
    before looking. Groups below `minimum_patients` are not shown.
    """
    if not tables:
        raise UserError("evaluate: no predictions table given")
    analyses = []
    for name, table in tables.items():
        checked = check_predictions(table, name)
        analyses.append(_analysis(name, checked, by, split, margin, minimum_patients))
    return {
        "schema_version": SCHEMA_VERSION,
        "title": title,
        "split": split,
        "margin": margin,
        "minimum_patients": minimum_patients,
        "analyses": analyses,
        "findings": findings(analyses, margin),
        "provenance": {
            "tables": {name: digest(table) for name, table in tables.items()},
            "versions": _versions(),
            "unit": "patient",
            "level": 0.95,
        },
    }


def digest(table: pd.DataFrame) -> str:
    """What identifies a table's content, whatever file it came from."""
    ordered = table.reindex(sorted(table.columns), axis=1).sort_values("sample_id")
    return hashlib.sha256(ordered.to_csv(index=False).encode()).hexdigest()[:16]


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("medssl", "numpy", "scipy", "pandas")}


def _analysis(
    name: str, table: pd.DataFrame, by: Sequence[str], split: str, margin: float, minimum: int
) -> dict[str, Any]:
    # One order whatever order the rows came in: sums of floats depend on it.
    table = table.sort_values("sample_id")
    rows = table[table["split"] == split]
    if rows.empty:
        there = ", ".join(sorted(table["split"].unique()))
        raise UserError(f"{name}: no rows of split {split!r}; the table has: {there}")
    segmentation = any(str(column).startswith("dice_") for column in rows)
    if segmentation:
        threshold = Threshold(None, "not needed: a segmentation has no threshold")
        metrics = [_dice(str(column)) for column in rows if str(column).startswith("dice_")]
        metrics.sort(key=lambda metric: (metric.name != "dice_mean", metric.name))
    else:
        threshold, metrics, rows = _classification(name, table, rows)
    names = list(by) or attributes_of(rows)
    names = [n for n in names if n in attributes_of(rows) or "*" in n or by]
    estimates = [estimate(rows, metric, "", "all", 1) for metric in metrics]
    found_gaps: list[Row] = []
    for attribute in names:
        for metric in metrics:
            estimates += by_group(rows, metric, attribute, minimum)
        found_gaps += gaps(rows, metrics[0], attribute, minimum, margin)
    return {
        "name": name,
        "task": "segmentation" if segmentation else "classification",
        "primary_metric": metrics[0].name,
        "cohort": _cohort(rows, names, minimum, labelled=not segmentation),
        "threshold": {"value": threshold.value, "provenance": threshold.provenance},
        "estimates": estimates,
        "gaps": found_gaps,
    }


def _classification(name: str, table: pd.DataFrame, rows: pd.DataFrame) -> tuple[Threshold, list[Metric], pd.DataFrame]:
    kept = rows[rows["label"].notna() & rows["score"].notna()]
    if kept.empty:
        raise UserError(f"{name}: no row has both label and score, and there is no dice_ column; nothing to judge")
    threshold = fix_threshold(table[table["split"] == "val"], digest(table)) if (kept["split"] != "val").all() else None
    threshold = threshold or Threshold(None, "not fixed: the validation rows themselves are judged")
    metrics = [AUROC]
    if threshold.value is not None:
        metrics += [_share("sensitivity", 1, threshold.value), _share("specificity", 0, threshold.value)]
    return threshold, metrics, kept


def _few_of_a_class(rows: pd.DataFrame) -> str:
    counts = [int((rows["label"] == value).sum()) for value in (1, 0)]
    few = min(counts)
    return f"only {few} of one class" if 0 < few < FEWEST_OF_A_CLASS else "one class only" if few == 0 else ""


def _positives(rows: pd.DataFrame) -> int:
    return int((rows["label"] == 1).sum())


def _auroc(rows: pd.DataFrame, patients: int) -> Measured:
    return measure_auroc(
        rows["label"].to_numpy(float), rows["score"].to_numpy(float), rows["patient"].to_numpy(int), patients
    )


def _auroc_interval(rows: pd.DataFrame, measured: Measured) -> Interval:
    positives, negatives = (rows.loc[rows["label"] == value, "patient"].nunique() for value in (1, 0))
    return auroc_interval(measured, positives, negatives)


AUROC = Metric("auroc", _auroc, _auroc_interval, _positives, _few_of_a_class)


def _share(name: str, label: int, threshold: float) -> Metric:
    """Sensitivity (label 1) or specificity (label 0) at a threshold fixed elsewhere."""

    def measure(rows: pd.DataFrame, patients: int) -> Measured:
        kept = rows[rows["label"] == label]
        yes = kept["score"].to_numpy(float) >= threshold
        return measure_share((yes == bool(label)).astype(float), kept["patient"].to_numpy(int), patients)

    def interval(rows: pd.DataFrame, measured: Measured) -> Interval:
        kept = rows[rows["label"] == label]
        return share_interval(measured, len(kept), kept["patient"].nunique())

    return Metric(name, measure, interval, _positives, _few_of_a_class)


def _dice(column: str) -> Metric:
    """The mean over patients of a Dice column; a structure absent in truth and answer (blank) has none."""

    def measure(rows: pd.DataFrame, patients: int) -> Measured:
        return measure_mean(rows[column].to_numpy(float), rows["patient"].to_numpy(int), patients)

    def interval(rows: pd.DataFrame, measured: Measured) -> Interval:
        return mean_interval(patient_means(rows[column].to_numpy(float), rows["patient"].to_numpy(int)))

    def too_few(rows: pd.DataFrame) -> str:
        return "" if rows[column].notna().any() else "no patient has this structure"

    return Metric(column, measure, interval, lambda rows: None, too_few)


def _cohort(rows: pd.DataFrame, names: Sequence[str], minimum: int, *, labelled: bool) -> dict[str, Any]:
    """Head counts, prevalence and missingness; small groups are counted but not described."""
    attributes = []
    for attribute in names:
        grouped = with_group(rows, attribute)
        groups = [_group(grouped[grouped["group"] == name], name, minimum, labelled) for name in _ordered(grouped)]
        unknown = grouped.loc[grouped["group"] == UNKNOWN, "patient_id"].nunique()
        share = unknown / rows["patient_id"].nunique()
        attributes.append({"attribute": attribute, "groups": groups, "unknown_share": share})
    whole = _group(rows, "all", 1, labelled)
    return {**whole, "attributes": attributes}


def _ordered(grouped: pd.DataFrame) -> list[str]:
    return sorted(grouped["group"].unique(), key=lambda name: (name == UNKNOWN, name))


def _group(rows: pd.DataFrame, name: str, minimum: int, labelled: bool) -> Row:
    patients = int(rows["patient_id"].nunique())
    if patients < minimum:
        reason = f"fewer than {minimum} patients"
        return {
            "group": name,
            "n_patients": None,
            "n_rows": None,
            "n_positive": None,
            "prevalence": None,
            "reason": reason,
        }
    row: Row = {"group": name, "n_patients": patients, "n_rows": len(rows), "n_positive": None, "prevalence": None,
                "reason": ""}  # fmt: skip
    if labelled:
        codes = pd.factorize(rows["patient_id"])[0]
        measured = measure_share(rows["label"].to_numpy(float), np.asarray(codes), patients)
        low, high, _ = share_interval(measured, len(rows), patients)
        row |= {"n_positive": _positives(rows), "prevalence": {"value": measured.value, "low": low, "high": high}}
    return row


__all__ = ["AUROC", "digest", "evaluate"]
