"""Reading a table of lesions, which belongs to a predictions table: what was found and missed in its cases.

A row is a lesion of a case (`truth` 1) with the confidence `score` of the candidate that found it, 0 where it was missed, or
a false alarm (`truth` 0). `truth` is blank where no expert outlined the case. A case without any is a row of the predictions
table only. Columns: data_manifests/lesions.schema.json; medssl predict writes them, see evaluate/detection.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from medssl.errors import UserError
from medssl.evaluate.files import read_table
from medssl.evaluate.predictions import by_task, structures_of

if TYPE_CHECKING:
    import pandas as pd

REQUIRED = ("sample_id", "truth", "score")
BESIDE = ": lesions"
"""After a table's name, the name of its lesions among what a report is of."""

SHOWN = 5
"""Rows that a message names."""


class Detection(NamedTuple):
    """A predictions table of a detection, one row a case, and its table of lesions."""

    cases: pd.DataFrame
    lesions: pd.DataFrame


def lesions_beside(predictions: Path) -> Path:
    """Where the table of lesions is that belongs to a predictions table: PREDICTIONS_lesions, with the same ending."""
    return predictions.with_name(f"{predictions.stem}_lesions{predictions.suffix}")


def read_lesions(path: Path | str) -> pd.DataFrame:
    """The table of lesions in a CSV or Parquet file, its columns as they are. Raises UserError for any other."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; medssl predict writes it beside the predictions of a detection")
    return read_table(path)


def separated(
    tables: Mapping[str, pd.DataFrame | Detection],
) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """The predictions by name, and of detections the tables of lesions by the same names."""
    cases = {name: table.cases if isinstance(table, Detection) else table for name, table in tables.items()}
    return cases, {name: table.lesions for name, table in tables.items() if isinstance(table, Detection)}


def check_lesions(lesions: pd.DataFrame, cases: pd.DataFrame, where: str) -> pd.DataFrame:
    """`sample_id`, `truth` and `score` of the lesions and false alarms of the labelled cases, in one order.

    `cases` is the checked predictions table. Raises UserError for columns and values that are none, for another model's
    table, and where labels of cases and of lesions contradict each other, all such cases counted.
    """
    import pandas as pd

    _check_cases(cases, where)
    for column in REQUIRED:
        if column not in lesions:
            there = ", ".join(map(str, lesions.columns))
            raise UserError(f"{where}: the table of lesions has no column {column!r}; it has: {there}")
    table = pd.DataFrame({"sample_id": lesions["sample_id"].astype(object).fillna("").astype(str)})
    for column in ("truth", "score"):
        table[column] = _numbers(lesions[column], column, where)
    _check_values(table, where)
    known = cases.set_index("sample_id")["label"]
    _refuse(~table["sample_id"].isin(known.index), where, "of cases that the predictions do not have",
            "give the table of lesions that belongs to them")  # fmt: skip
    _check_model(lesions, cases, where)
    table = table[table["sample_id"].map(known).notna()]
    _refuse(table["truth"].isna(), where, "without truth in cases that have a label",
            "give 1 for a lesion and 0 for a false alarm, or leave the case's label blank")  # fmt: skip
    _check_labels(table, known.dropna(), where)
    return table.sort_values(["sample_id", "truth", "score"]).reset_index(drop=True)


def digest(lesions: pd.DataFrame) -> str:
    """What identifies the content of a table of lesions that was checked."""
    return hashlib.sha256(lesions.to_csv(index=False).encode()).hexdigest()[:16]


def _check_cases(cases: pd.DataFrame, where: str) -> None:
    """Nothing; raises UserError for predictions that are of no detection."""
    if len(by_task(cases)) > 1:
        raise UserError(
            f"{where}: a table of lesions beside predictions of several tasks; give each task its own table"
        )
    if structures_of(cases):
        raise UserError(
            f"{where}: a table of lesions beside outlines (dice_...); give the detection a table of its own"
        )


def _check_values(table: pd.DataFrame, where: str) -> None:
    """Nothing; raises UserError for a truth or a confidence that is none."""
    _refuse(table["truth"].notna() & ~table["truth"].isin([0, 1]), where, "with a truth other than 0, 1 or blank",
            "give 1 for a lesion and 0 for a false alarm")  # fmt: skip
    _refuse(table["score"] < 0, where, "with a negative confidence",
            "a confidence is from 0 to 1, and 0 says that a lesion was missed")  # fmt: skip
    _refuse(table["score"].isna() | (table["score"] > 1), where, "with a confidence that is blank or above 1",
            "a confidence is from 0 to 1, and 0 says that a lesion was missed")  # fmt: skip
    _refuse((table["truth"] == 0) & (table["score"] == 0), where, "of false alarms with confidence 0",
            "leave out what the model did not find")  # fmt: skip


def _check_model(lesions: pd.DataFrame, cases: pd.DataFrame, where: str) -> None:
    """Nothing; raises UserError where lesions are another model's than the cases."""
    if "model" not in lesions or "model" not in cases or lesions.empty:
        return
    theirs, own = (set(map(str, table["model"])) for table in (lesions, cases))
    if theirs - own:
        raise UserError(
            f"{where}: lesions of model {min(theirs - own)!r} beside predictions of {min(own)!r}; give the table of lesions "
            "that medssl predict wrote with them"
        )


def _check_labels(table: pd.DataFrame, labels: pd.Series, where: str) -> None:
    """Nothing; raises UserError where a case's label and its lesions disagree."""
    with_lesion = labels.index.isin(table.loc[table["truth"] == 1, "sample_id"])
    positive = (labels == 1).to_numpy()
    without, against = int((positive & ~with_lesion).sum()), int((~positive & with_lesion).sum())
    if without or against:
        raise UserError(
            f"{where}: labels of cases and of lesions disagree: {without} of {int(positive.sum())} cases with label 1 have "
            f"no lesion, {against} of {int((~positive).sum())} with label 0 have one; a missed lesion is a row with truth 1 "
            "and score 0, and a case whose lesions are not known has a blank label"
        )


def _numbers(column: pd.Series, name: str, where: str) -> pd.Series:
    import pandas as pd

    blank = column.isna() | (column.astype(str).str.strip() == "")
    found = pd.to_numeric(column.where(~blank), errors="coerce").astype(float)
    if (wrong := found.isna() & ~blank).any():
        raise UserError(f"{where}: the table of lesions has {name} {column[wrong].iloc[0]!r}, which is not a number")
    return found


def _refuse(wrong: pd.Series, where: str, what: str, remedy: str) -> None:
    if wrong.any():
        rows = ", ".join(str(int(place) + 2) for place in wrong.index[wrong][:SHOWN])
        raise UserError(f"{where}: the table of lesions has {int(wrong.sum())} rows {what} (rows {rows}); {remedy}")
