"""From the tables of two models to the content of comparison.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from medssl.errors import UserError
from medssl.evaluate.analysis import digest, versions
from medssl.evaluate.comparison.compared import Compared, metric_of
from medssl.evaluate.comparison.pairs import MINIMUM_PATIENTS, SIDES, Answers, pair
from medssl.evaluate.comparison.sentences import note, sentences
from medssl.evaluate.comparison.verdicts import by_group, overall
from medssl.evaluate.door import Admitted, admit
from medssl.evaluate.groups import Row, check_levels
from medssl.evaluate.predictions import by_task
from medssl.evaluate.terms import DECLARED_NOTHING, Terms

SCHEMA_VERSION = "1"

Tables = pd.DataFrame | Sequence[pd.DataFrame]


def compare(
    first: Tables,
    second: Tables,
    *,
    metric: str = "auroc",
    split: str = "test",
    by: Sequence[str] = (),
    margin: float | None = None,
    intersect: bool = False,
    models: Sequence[str] = (),
    terms: Terms = DECLARED_NOTHING,
) -> dict[str, Any]:
    """The content of comparison.json: the difference second - first with its 95 % interval, overall and by group, of each
    task; how gaps between groups changed; and whether a gap closed because the best group fell. Patients are the unit.

    Both give one table, or as many as there are training seeds of each, in the order of the seeds: the n-th of both are a
    pair, and intervals are then over patients and seeds. All hold the same samples of the split; with `intersect` those of
    all are compared, and who is left out is counted by group. `metric` is auroc (paired clustered DeLong),
    average_precision, brier, sensitivity, specificity (each table at its own threshold, fixed on its validation rows), or a
    dice_, nsd_ or hd95_ column. Where a structure is blank (absent and not found) in one table only, the blank counts as 1
    (of hd95_ as 0 mm): it was right, and the other's false find has to weigh. `margin` is the difference that would matter,
    declared before looking (0.05 unless given; of Dice 0.03, of Brier 0.02, of mm none). `models` names both; `terms`
    declare what the tables do not say by themselves, as for `evaluate`.
    """
    told = metric_of(metric, margin)
    admitted = {side: _admitted(given, side, terms, split) for side, given in zip(SIDES, (first, second), strict=True)}
    tables = {side: [one.table for one in some] for side, some in admitted.items()}
    if len(tables["first"]) != len(tables["second"]):
        raise UserError(
            f"compare: {len(tables['first'])} tables of the first model and {len(tables['second'])} of the second; give as "
            "many of each, in the order of their seeds"
        )
    found: dict[str, list[Row]] = {"results": [], "gap_changes": [], "levelling_down": [], "dropped": []}
    thresholds: list[Row] = []
    for task, (a, b) in _by_task(tables).items():
        pairs = pair(a, b, told, split, by, intersect=intersect)
        for place, rows in _judged(pairs.rows, told, by).items():
            found[place] += [{"task": task, **row} for row in rows]
        found["dropped"] += [{"task": task, **row} for row in pairs.dropped]
        thresholds += [{"task": task, "model": side, "provenance": each} for side, each in pairs.thresholds.items()]
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": "comparison",
        "metric": metric,
        "split": split,
        "margin": told.margin,
        "more_is_better": told.more_is_better,
        "minimum_patients": MINIMUM_PATIENTS,
        "runs": len(tables["first"]),
        **found,
        "thresholds": thresholds,
        "notes": list(
            dict.fromkeys(f"{side}: {told}" for side in SIDES for one in admitted[side] for told in one.notes)
        ),
        "provenance": {
            "models": dict(zip(SIDES, models or SIDES, strict=True)),
            "tables": {side: [digest(table) for table in some] for side, some in tables.items()},
            "versions": versions(),
            "unit": "patient",
            "level": 0.95,
            "settings": {"by": list(by), "intersect": intersect, "terms": terms.told()},
        },
    }
    content["note"] = note(content)
    return {**content, "sentences": sentences(content)}


def _admitted(tables: Tables, side: str, terms: Terms, split: str) -> list[Admitted]:
    """The tables of one model as they are judged."""
    if isinstance(tables, pd.DataFrame):
        return [admit(tables, f"{side} table", terms, split)]
    if not tables:
        raise UserError(f"compare: no {side} table given")
    several = len(tables) > 1
    return [admit(one, f"{side} table{f' {n}' if several else ''}", terms, split) for n, one in enumerate(tables, 1)]


def _by_task(tables: dict[str, list[pd.DataFrame]]) -> dict[str, tuple[Answers, Answers]]:
    """For each task what the first model answered and what the second. Raises UserError where one lacks a task."""
    split_up = {side: [by_task(table) for table in some] for side, some in tables.items()}
    names: list[set[str]] = [set(tasks) for some in split_up.values() for tasks in some]
    if lacking := set[str]().union(*names) - names[0].intersection(*names):
        told = ", ".join(sorted(lacking - {""}))
        raise UserError(f"compare: only one of the tables has the task {told}; give tables of the same tasks")
    digests = {side: [digest(table) for table in some] for side, some in tables.items()}

    def answers(side: str, task: str) -> Answers:
        return Answers(side, [tasks[task] for tasks in split_up[side]], digests[side])

    return {task: (answers("first", task), answers("second", task)) for task in split_up["first"][0]}


def _judged(rows: pd.DataFrame, metric: Compared, by: Sequence[str]) -> dict[str, list[Row]]:
    """Overall and by each attribute."""
    found: dict[str, list[Row]] = {"results": [overall(rows, metric)], "gap_changes": [], "levelling_down": []}
    for attribute in dict.fromkeys(by):
        check_levels(rows, attribute)
        results, changes, levelling = by_group(rows, metric, attribute)
        found["results"] += results
        found["gap_changes"] += changes
        found["levelling_down"].append(levelling)
    return found
