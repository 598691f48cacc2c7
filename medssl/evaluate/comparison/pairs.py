"""The rows that both models answered, side by side, and what is left out because one did not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from medssl.errors import UserError
from medssl.evaluate.comparison.compared import CHOICES, Compared
from medssl.evaluate.groups import Row, has_attribute, ordered, with_group
from medssl.evaluate.outlines import RIGHT, split_name
from medssl.evaluate.predictions import NOT_KNOWN
from medssl.evaluate.threshold import Threshold, threshold_for

MINIMUM_PATIENTS = 11

SIDES = ("first", "second")

NOT_TOLD = "not told: it would tell the count of a small group"


@dataclass(frozen=True, eq=False)
class Answers:
    """What the runs of one model answered about one task: a whole table each, its digest beside it."""

    side: str
    tables: Sequence[pd.DataFrame]
    digests: Sequence[str]


@dataclass(frozen=True, eq=False)
class Pairs:
    """The rows of both, in the order of sample_id, with the columns patient (a number), first0, second0, first1, ...; what
    was left out; and the thresholds of each model's runs, of metrics that need one.
    """

    rows: pd.DataFrame
    dropped: list[Row]
    thresholds: dict[str, list[str]]


def pair(first: Answers, second: Answers, metric: Compared, split: str, by: Sequence[str], *, intersect: bool) -> Pairs:
    """What both models answered about `split`. Raises UserError where they did not answer the same samples, unless
    `intersect`: then only those of all tables are kept, and who is left out is told by group.
    """
    sides = {one.side: [table[table["split"] == split] for table in one.tables] for one in (first, second)}
    column = metric.name if metric.of_outlines else "score"
    for which, tables in sides.items():
        for table in tables:
            if column not in table or (len(table) and table[column].isna().all()):
                raise UserError(f"compare: the {which} table has no {column!r} to compare; choose --metric {CHOICES}")
    both = [table for tables in sides.values() for table in tables]
    if metric.name.startswith("nsd_") and len(set[float]().union(*map(_tolerances, both))) > 1:
        raise UserError("compare: the tables tell surface Dice of different tolerance_mm; predict with the same")
    kept = _in_all(sides, column, split, by, metric, intersect=intersect)
    rows = _side_by_side({side: [_of(table, kept) for table in tables] for side, tables in sides.items()}, column)
    columns = [f"{side}{n}" for side in SIDES for n in range(len(first.tables))]
    thresholds: dict[str, list[str]] = {}
    if metric.of_outlines:
        rows = rows[rows[columns].notna().any(axis=1)]
        rows = rows.fillna(dict.fromkeys(columns, RIGHT[split_name(metric.name)[0]]))
    else:
        rows = rows[rows["label"].notna() & rows[columns].notna().all(axis=1)]
    if metric.at_threshold:
        for one in (first, second):
            found = [_threshold(*told, split, one.side) for told in zip(one.tables, one.digests, strict=True)]
            thresholds[one.side] = [threshold.provenance for threshold, _ in found]
            for n, (_, value) in enumerate(found):
                rows[f"{one.side}{n}"] = ((rows[f"{one.side}{n}"] >= value) == (rows["label"] == 1)).astype(float)
    rows = rows.assign(patient=pd.factorize(rows["patient_id"])[0])
    return Pairs(rows, _dropped(sides, kept, column, by, metric) if intersect else [], thresholds)


def _tolerances(table: pd.DataFrame) -> set[float]:
    return set(table["tolerance_mm"].dropna()) if "tolerance_mm" in table else set()


def _of(table: pd.DataFrame, samples: Sequence[str]) -> pd.DataFrame:
    return table.set_index("sample_id", drop=False).loc[list(samples)].reset_index(drop=True)


def _answered(table: pd.DataFrame, column: str, metric: Compared) -> set[str]:
    """The samples with an answer; a blank outline is one: nothing there, nothing found."""
    return set(table["sample_id"] if metric.of_outlines else table.loc[table[column].notna(), "sample_id"])


def _in_all(
    sides: dict[str, list[pd.DataFrame]],
    column: str,
    split: str,
    by: Sequence[str],
    metric: Compared,
    *,
    intersect: bool,
) -> list[str]:
    """The samples that are compared. Raises UserError when there are none, or when the tables' differ and are not to."""
    tables = [table for some in sides.values() for table in some]
    there = [set(table["sample_id"]) for table in tables]
    answered = [_answered(table, column, metric) for table in tables]
    shared = sorted(set.intersection(*(answered if intersect else there)))
    if not shared or (not intersect and set.union(*there) > set(shared)):
        counts = " and ".join(str(len(set.union(*(set(t["sample_id"]) for t in some)))) for some in sides.values())
        lost = "; ".join(_told(row) for row in _dropped(sides, shared, column, by, metric) if row["n_rows"] != 0)
        raise UserError(
            f"compare: the tables hold {counts} samples of split {split!r}, {len(shared)} of them in both; "
            "predict the same samples with both models, or compare those of both (--intersect)"
            + (f". Not in all tables: {lost}" if lost and shared else "")
        )
    if not intersect and any(one != answered[0] for one in answered):
        raise UserError(
            "compare: a sample is scored in one table only; predict the same samples with both models, or compare those "
            "of both (--intersect)"
        )
    return shared


def _side_by_side(sides: dict[str, list[pd.DataFrame]], column: str) -> pd.DataFrame:
    """The first table's rows with the values of all. Raises UserError where tables disagree on a patient or a label."""
    reference = sides["first"][0]
    for tables in sides.values():
        for table in tables:
            if not table["patient_id"].equals(reference["patient_id"]):
                raise UserError(
                    "compare: the tables disagree on whose a sample is (patient_id); take both from one store"
                )
            if not table["label"].equals(reference["label"]):
                raise UserError("compare: the tables disagree on a label; both must judge the same reference")
    values = {f"{side}{n}": table[column] for side, tables in sides.items() for n, table in enumerate(tables)}
    return reference.assign(**values)


def _threshold(table: pd.DataFrame, digest: str, split: str, side: str) -> tuple[Threshold, float]:
    found = threshold_for(table, split, digest)
    if found.value is None:
        raise UserError(
            f"compare: the {side} table has no threshold ({found.provenance}); predict the validation split as well"
        )
    return found, found.value


def _dropped(
    sides: dict[str, list[pd.DataFrame]], kept: Sequence[str], column: str, by: Sequence[str], metric: Compared
) -> list[Row]:
    """How many rows and patients each model answered that are not compared, by group; None for a few patients."""
    found: list[Row] = []
    for side, tables in sides.items():
        answered = [table[table["sample_id"].isin(_answered(table, column, metric))] for table in tables]
        rows = pd.concat(answered).drop_duplicates("sample_id")
        lost = rows[~rows["sample_id"].isin(kept)]
        here: list[Row] = []
        for attribute, group, inside in _groups(lost, by):
            patients = int(inside["patient_id"].nunique())
            few = 0 < patients < MINIMUM_PATIENTS
            here.append({
                "only": side, "attribute": attribute, "group": group, "n_patients": None if few else patients,
                "n_rows": None if few else len(inside), "reason": f"fewer than {MINIMUM_PATIENTS} patients" if few else "",
            })  # fmt: skip
        hide_one_more(here)
        found += here
    return found


def hide_one_more(rows: Sequence[Row]) -> None:
    """Nothing; where the count of one group of an attribute alone is hidden, so is the smallest other one: the total would
    tell it. Not for the sake of those of whom it is not recorded (see cells.py).
    """
    for attribute in {row["attribute"] for row in rows} - {""}:
        groups = [row for row in rows if row["attribute"] == attribute]
        shown = [row for row in groups if row["n_patients"]]
        alone = [row["group"] for row in groups if row["n_patients"] is None]
        if len(alone) == 1 and alone[0] not in NOT_KNOWN and shown:
            smallest = min(shown, key=lambda row: row["n_patients"])
            smallest |= {"n_patients": None} | ({"n_rows": None, "reason": NOT_TOLD} if "n_rows" in smallest else {})


def _groups(rows: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[str, str, pd.DataFrame]]:
    yield "", "all", rows
    for attribute in by:
        if has_attribute(rows, attribute):
            grouped = with_group(rows, attribute)
            for name in ordered(grouped["group"]):
                yield attribute, name, grouped[grouped["group"] == name]


def _told(row: Row) -> str:
    who = f"{row['attribute']} {row['group']} ".lstrip() if row["attribute"] else ""
    count = row["reason"] or f"{row['n_patients']} patients"
    return f"{who}only in the {row['only']}: {count}"
