"""Reading a predictions table: the door through which any model may come to be judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.evaluate.checks import SPLITS, Problem, numbers, problems_of, refuse
from medssl.evaluate.classes import one_vs_rest
from medssl.evaluate.files import read_table
from medssl.evaluate.outlines import columns_of, volumes_of
from medssl.evaluate.terms import DECLARED_NOTHING, Terms

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

REQUIRED = ("sample_id", "patient_id", "split", "label", "score")
NUMBERS = ("label", "score", "score_before", "unlike", "tolerance_mm", "age_in_years")
UNKNOWN, DECLINED, CONFLICTING, UNMAPPED = "unknown", "declined", "conflicting record", "unmapped"
NOT_KNOWN = (UNMAPPED, CONFLICTING, DECLINED, UNKNOWN)
"""Groups of an attribute that are counted and judged, but are no side of a difference: nobody knows what they are."""

NOT_ATTRIBUTES = {
    *REQUIRED, "task", "model", "weights", "score_before", "calibration", "unlike", "warning", "tolerance_mm",
    "map_grid", "map_note", "age_in_years",
}  # fmt: skip


TAKEN = ("group", "patient", "place", "size", "dice")
"""Names of columns that the sections make: a table's own column of such a name would be written over."""


def read_predictions(path: Path | str) -> pd.DataFrame:
    """The table in a CSV or Parquet file, checked: numbers as floats (nan: blank), everything else as text.

    Raises UserError naming the column, the value and the remedy. Patient 012 stays 012 and race NA stays NA.
    """
    return check_predictions(read_table(path), str(path))


def check_predictions(table: pd.DataFrame, where: str = "predictions") -> pd.DataFrame:
    """The table with its types settled. Raises UserError for whatever would make a number wrong, all of it at once."""
    import numpy as np

    rows = len(table)
    table = one_vs_rest(table, where)
    table, problems = settled(table, np.arange(len(table)) % max(rows, 1) + 2)
    refuse(where, problems)
    return table


def settled(
    table: pd.DataFrame, lines: np.ndarray, terms: Terms = DECLARED_NOTHING, given: Sequence[str] = ()
) -> tuple[pd.DataFrame, list[Problem]]:
    """The table with its types settled, and everything that is wrong with it; `lines` are the numbers of its rows, `given`
    the columns that it came with, where some were made since.
    """
    import pandas as pd

    there = ", ".join(map(str, given or table.columns))
    problems = [_missing(column, there) for column in REQUIRED if column not in table]
    problems += [
        Problem("E161", f"column {column!r} has a name that is used for another thing; say --columns other={column}")
        for column in TAKEN
        if column in table
    ]
    table = pd.DataFrame(table.copy())
    outlines, volumes, broken = structures_of(table), volumes_of(map(str, table.columns)), list[str]()
    for column in table.columns:
        if column in NUMBERS or column in outlines or column in volumes:
            table[column], wrong = numbers(table, column, lines)
            problems += wrong
            broken += [column] if wrong and column in outlines else []
        else:
            table[column] = table[column].astype(object).where(table[column].notna(), "").astype(str)
            if column not in NOT_ATTRIBUTES:
                table[column] = table[column].replace("", UNKNOWN)
    if table.empty:
        return table, [*problems, Problem("E162", "no rows; predict at least one sample")]
    return table, problems + problems_of(table.drop(columns=broken), lines, terms)


def _missing(column: str, there: str) -> Problem:
    remedy = "give it, or say which one it is: --columns " + (
        "split=:test gives every row that split" if column == "split" else f"{column}=THEIRS"
    )
    if column == "patient_id":
        remedy += "; --rows-are-patients where every row is another patient"
    return Problem("E111" if column == "patient_id" else "E100", f"no column {column!r}; it has: {there}; {remedy}")


def by_task(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each task, the tasks sorted; of a table with one task all rows, by no name ("")."""
    tasks = sorted(table["task"].unique()) if "task" in table else []
    return {task: table[table["task"] == task] for task in tasks} if len(tasks) > 1 else {"": table}


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """The rows in one order, whatever order they came in."""
    return table.sort_values(_key(table))


def _key(table: pd.DataFrame) -> list[str]:
    """The columns by which a row is known."""
    return ["sample_id", "task"] if "task" in table else ["sample_id"]


def structures_of(table: pd.DataFrame) -> list[str]:
    """The columns that measure outlines, the primary one first."""
    return columns_of(map(str, table.columns))


def attributes_of(table: pd.DataFrame) -> list[str]:
    """The columns that a table can be stratified by."""
    numbers = {*structures_of(table), *volumes_of(map(str, table.columns))}
    return [c for c in table.columns if c not in NOT_ATTRIBUTES and c not in numbers]


__all__ = ["NOT_KNOWN", "SPLITS", "UNKNOWN", "check_predictions", "read_predictions"]
