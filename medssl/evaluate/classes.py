"""Tables with a score for each of several classes, as tables of tasks: each class against all others."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from medssl.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

OF_A_CLASS = re.compile(r"score_(?!before$)(.+)", re.DOTALL)
"""Columns of scores, the class after the underscore; score_before is what calibration leaves behind."""

FEWEST = 3
"""Classes from which on each is judged against all others; of two, each says what the other does."""

SHOWN = 5
"""Rows and classes that a message names."""


def one_vs_rest(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """The table with a row for each sample and class: its `task` is the class, its `label` whether the sample is of it (a
    blank one stays blank), its `score` the class's. A table with a column `score`, or without one of a class, is as it was.

    Layout: `label` names the class, columns score_CLASS (three or more) hold its scores, and there is neither `score` nor
    `task`. A class is text: 2 and 2.0 are "2", so that score_2 is its column. Raises UserError for two classes, and for
    labels that no column is of, which would count as "none of these"; for scores here, since rows move.
    """
    import pandas as pd

    found = {str(column): OF_A_CLASS.fullmatch(str(column)) for column in table.columns}
    columns = {match[1]: column for column, match in found.items() if match}
    if "score" in table or not columns:
        return table
    _check(table, columns, where)
    for column in columns.values():
        _check_scores(table[column], column, where)
    known = table["label"].notna() & (table["label"].astype(str).str.strip() != "")
    labels = table["label"].where(known, "").map(_named)
    strange = known & ~labels.isin(list(columns))
    if strange.any():
        rows = ", ".join(str(int(place) + 2) for place in strange.to_numpy().nonzero()[0][:SHOWN])
        raise UserError(
            f"{where}: label {labels[strange].iloc[0]!r} has no column {'score_' + labels[strange].iloc[0]!r}, in "
            f"{int(strange.sum())} of {len(table)} rows (rows {rows}); the classes are: {', '.join(list(columns)[:SHOWN])}"
            f"{', ...' if len(columns) > SHOWN else ''}"
        )
    beside = table.drop(columns=[*columns.values(), "label"])
    parts = [
        beside.assign(task=name, label=(labels == name).astype(float).where(known), score=table[column])
        for name, column in columns.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _check(table: pd.DataFrame, columns: dict[str, str], where: str) -> None:
    """Nothing; raises UserError for too few classes, a column `task`, and a table without labels."""
    if len(columns) < FEWEST:
        only = ", ".join(columns.values())
        raise UserError(
            f"{where}: no column 'score', and {only} {'is' if len(columns) == 1 else 'are'} fewer than {FEWEST} classes; of "
            "two classes give the score of one as score and its label as 0 or 1"
        )
    if "task" in table:
        raise UserError(
            f"{where}: scores of classes (score_...) and a column 'task'; each class becomes a task, so drop it and "
            "give each task a table of its own"
        )
    if "label" not in table:
        raise UserError(f"{where}: no column 'label', which names each row's class; it has: {', '.join(columns)}")


def _check_scores(scores: pd.Series, column: str, where: str) -> None:
    """Nothing; raises UserError for a score that is no probability."""
    import pandas as pd

    blank = scores.isna() | (scores.astype(str).str.strip() == "")
    wrong = ~blank & ~pd.to_numeric(scores.where(~blank), errors="coerce").between(0, 1)
    if wrong.any():
        place = int(wrong.to_numpy().argmax())
        raise UserError(
            f"{where}: {column} {str(scores.iloc[place])!r} in row {place + 2} is not between 0 and 1; give a probability"
        )


def _named(label: object) -> str:
    """A label as text; a whole number has no decimals, however the file kept it."""
    text = str(label).strip()
    return text[:-2] if re.fullmatch(r"-?\d+\.0", text) else text
