"""Who is there and who is not: the way from the table to what is judged, what is recorded of whom, and how groups differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from medssl.evaluate.balance import difference_of_means, difference_of_shares, difference_of_sites, independence
from medssl.evaluate.groups import names_of, ordered, with_group
from medssl.evaluate.intervals import mean_interval, share_interval
from medssl.evaluate.metrics import measure_share, patient_means
from medssl.evaluate.predictions import NOT_KNOWN
from medssl.evaluate.sections.judged import Judged, patients_of

Row = dict[str, Any]

SITE, AGE = "site", "age_in_years"
SHARE, LEVEL = 0.05, 0.05
"""A share not recorded above, or a p-value of the outcome below which what is missing may matter (bounds are told)."""


def missing(judged: Judged) -> Row:
    """The flow of rows by group, completeness of each attribute with what it goes with, and the groups side by side.

    Whatever would count a group that is not shown is None, with the reason; so is what has nothing to compare.
    """
    return {
        "flow": [_flow(judged, *group) for group in _everybody(judged)],
        "completeness": [_completeness(judged, name) for name in _whole(judged)],
        "groups": [_group(judged, *group) for group in judged.groups()],
    }


def _whole(judged: Judged) -> list[str]:
    """The attributes that are no crossings; a column's own name may hold a star."""
    return [name for name in judged.attributes if names_of(judged.rows, name) == [name]]


def _everybody(judged: Judged) -> list[tuple[str, str, pd.DataFrame, str]]:
    """As Judged.groups, with the rows of the whole table."""
    table = judged.table if len(judged.table) else pd.concat([judged.rows, judged.left_out])
    split = table.loc[[*judged.rows.index, *judged.left_out.index]]
    found = [("", "all", table, "")]
    for attribute in judged.attributes:
        grouped, hidden = with_group(table, attribute), judged.hidden[attribute]
        for name in ordered(pd.Series([*with_group(split, attribute)["group"].unique(), *hidden], dtype=object)):
            found.append((attribute, name, grouped[grouped["group"] == name], hidden.get(name, "")))
    return found


def _flow(judged: Judged, attribute: str, group: str, rows: pd.DataFrame, reason: str) -> Row:
    """How many rows of a group there are, are of the judged split, have a score, and are judged; and which share is."""
    row: Row = {"attribute": attribute, "group": group, "reason": reason, "rows": None, "kept": None}
    if reason:
        return row
    taken, there = rows.index.isin(judged.rows.index), rows.index.isin(judged.left_out.index)
    split = rows[taken | there]
    scored = None if judged.segmentation else int(split["score"].notna().sum())
    counts = {"table": len(rows), "split": len(split), "scored": scored, "judged": int(taken.sum())}
    return row | {"rows": counts, "kept": _share(taken[taken | there].astype(float), split)}


def _completeness(judged: Judged, attribute: str) -> Row:
    """How many patients have each kind of record, and whether a record goes with the outcome and with the site."""
    values = judged.rows[attribute].astype(str)
    hidden = judged.hidden[attribute]
    known = ~values.isin(NOT_KNOWN).to_numpy()
    states = {"recorded": known} | {name: (values == name).to_numpy() for name in reversed(NOT_KNOWN)}
    row: Row = {"attribute": attribute, "reason": "", "states": {}, "recorded": None, "outcome": None, "site": None,
                "bounds": []}  # fmt: skip
    if gone := [name for name in NOT_KNOWN if name in hidden]:
        return row | {"reason": f"{gone[-1]}: {hidden[gone[-1]]}"}
    row["states"] = {name: int(judged.rows["patient_id"][here].nunique()) for name, here in states.items()}
    row["recorded"] = _share(known.astype(float), judged.rows)
    recorded = _of_patients(judged.rows, known).to_numpy() == 1
    if not judged.segmentation:
        sick = 1 - _of_patients(judged.rows, (judged.rows["label"] != 1).to_numpy()).to_numpy()
        table = np.array([[(sick[side] == label).sum() for label in (0, 1)] for side in (recorded, ~recorded)])
        row["outcome"] = independence(table) | {"difference": difference_of_shares(sick[recorded], sick[~recorded])}
    if SITE in judged.rows and attribute != SITE and not judged.hidden.get(SITE):
        each = judged.rows.groupby("patient_id")[SITE]
        sites = each.first().where(each.nunique() == 1, "several")
        table = pd.crosstab(sites.to_numpy(), recorded).reindex(columns=[False, True], fill_value=0).to_numpy()
        row["site"] = independence(table) | {"difference": difference_of_sites(table)}
    if (~known).mean() > SHARE or _related(row) is not None:
        row["bounds"] = _bounds(judged, attribute, known)
    return row


def _bounds(judged: Judged, attribute: str, known: np.ndarray) -> list[Row]:
    """Between what the difference of each shown group to all others lies, whatever groups the unrecorded rows belong to.

    Horowitz and Manski, JASA 2000: at the worst all unrecorded rows that went wrong are of the group and all that went right
    of the others, or the other way round. [] without a threshold.
    """
    threshold = judged.threshold.value
    if judged.segmentation or threshold is None or known.all():
        return []
    found = []
    values, flagged = judged.rows[attribute].astype(str).to_numpy(), (judged.rows["score"] >= threshold).to_numpy()
    for metric, label in ("sensitivity", 1), ("specificity", 0):
        of, right = (judged.rows["label"] == label).to_numpy(), flagged == bool(label)
        lost, saved = int((of & ~known & ~right).sum()), int((of & ~known & right).sum())
        for name in sorted(set(values[known]) - set(judged.hidden[attribute])):
            inside, rest = of & (values == name), of & known & (values != name)
            n, k, m, j = (int(part.sum()) for part in (inside, inside & right, rest, rest & right))
            if not n or not m:
                continue
            low, high = k / (n + lost) - (j + saved) / (m + saved), (k + saved) / (n + saved) - j / (m + lost)
            found.append({"metric": metric, "group": name, "value": k / n - j / m, "low": low, "high": high})
    return found


def _group(judged: Judged, attribute: str, group: str, rows: pd.DataFrame, reason: str) -> Row:
    """What a group looks like, and how it differs from everybody else in units of the standard deviation."""
    row: Row = {"attribute": attribute, "group": group, "reason": reason, "patients": None, "rows": None, "prevalence": None,
                "age": None, "difference": {"prevalence": None, "age": None}}  # fmt: skip
    if reason or not len(rows):
        return row
    rest = judged.rows[~judged.rows.index.isin(rows.index)]
    row |= {"patients": int(rows["patient_id"].nunique()), "rows": len(rows)}
    compared = bool(attribute) and rest["patient_id"].nunique() >= judged.minimum_patients
    if not judged.segmentation:
        row["prevalence"] = _share((rows["label"] == 1).to_numpy(float), rows)
        if compared:
            sick = [1 - _of_patients(side, (side["label"] != 1).to_numpy()).to_numpy() for side in (rows, rest)]
            row["difference"]["prevalence"] = difference_of_shares(*sick)
    if AGE in rows:
        ages = [patient_means(side[AGE].to_numpy(float), patients_of(side)[0]) for side in (rows, rest)]
        enough = [len(side) >= judged.minimum_patients for side in ages]
        if enough[0]:
            low, high, _ = mean_interval(ages[0])
            row["age"] = {"value": float(ages[0].mean()), "low": low, "high": high, "sd": float(ages[0].std(ddof=1))}
        if compared and all(enough):
            row["difference"]["age"] = difference_of_means(*ages)
    return row


def _share(hit: np.ndarray, rows: pd.DataFrame) -> Row | None:
    """The share of rows with its interval over patients; None of nobody."""
    codes, people = patients_of(rows)
    if not people:
        return None
    measured = measure_share(hit, codes, people)
    low, high, _ = share_interval(measured, len(rows), people)
    return {"value": measured.value, "low": low, "high": high}


def _of_patients(rows: pd.DataFrame, every: np.ndarray) -> pd.Series:
    """For each patient whether it is so of every row, 1 or 0."""
    return pd.Series(every.astype(int)).groupby(rows["patient_id"].to_numpy()).min()


def _related(row: Row) -> float | None:
    """The p-value by which being recorded goes with the outcome; None where it does not, or nobody can tell."""
    p = row["outcome"] and row["outcome"]["p"]
    return p if p is not None and p < LEVEL else None


def remarks(judged: Judged, content: Row | None) -> Sequence[str]:
    """Sentences that a reader must see before any number: E104, W202 and W203."""
    found = []
    scores = judged.rows["score"].dropna()
    if not judged.segmentation and len(scores) > 1 and scores.nunique() == 1:
        found.append(
            f"E104 All scores are {scores.iloc[0]:g}: they rank nobody, and no threshold can be found in them."
        )
    if content:
        for attribute in _whole(judged):
            found += _unlike(attribute, [row for row in content["groups"] if row["attribute"] == attribute])
        found += [sentence for row in content["completeness"] for sentence in _unrecorded(row)]
    return found


def _unlike(attribute: str, rows: Sequence[Row]) -> list[str]:
    known = [row for row in rows if row["prevalence"] and row["group"] not in NOT_KNOWN]
    if len(known) < 2:
        return []
    least, most = (of(known, key=lambda row: row["prevalence"]["value"]) for of in (min, max))
    if most["prevalence"]["value"] <= 2 * least["prevalence"]["value"]:
        return []
    shares = [
        f"{row['group'][:60]} ({100 * row['prevalence']['value']:.0f} %, 95 % interval "
        f"{100 * row['prevalence']['low']:.0f} to {100 * row['prevalence']['high']:.0f})"
        for row in (most, least)
    ]
    return [
        f"W202 {attribute}: the finding is more than twice as common in {shares[0]} as in {shares[1]}; average precision, "
        "PPV and the Brier score differ by that alone."
    ]


def _unrecorded(row: Row) -> list[str]:
    if not row["recorded"]:
        return []
    lacking = 1 - row["recorded"]["value"]
    related = _related(row)
    if lacking <= SHARE and related is None:
        return []
    why = "" if related is None else f", and being recorded goes with the outcome (p = {related:.2g})"
    low, high = 1 - row["recorded"]["high"], 1 - row["recorded"]["low"]
    bounds = "; bounds of its differences stand with what is missing" if row["bounds"] else ""
    return [
        f"W203 {row['attribute']} is not known for {100 * lacking:.0f} % of rows (95 % interval {100 * low:.0f} to "
        f"{100 * high:.0f}){why}: its groups may differ otherwise than shown{bounds}."
    ]
