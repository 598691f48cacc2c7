"""Reading a predictions table: the door through which any model may come to be judged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medssl.errors import UserError
from medssl.evaluate.outlines import FAILURES, MEASURES, columns_of, split_name

if TYPE_CHECKING:
    import pandas as pd

REQUIRED = ("sample_id", "patient_id", "split", "label", "score")
SPLITS = ("train", "val", "test", "external")
NUMBERS = ("label", "score", "score_before", "unlike", "tolerance_mm")
UNKNOWN, DECLINED, CONFLICTING, UNMAPPED = "unknown", "declined", "conflicting record", "unmapped"
NOT_KNOWN = (UNMAPPED, CONFLICTING, DECLINED, UNKNOWN)
"""Groups of an attribute that are counted and judged, but are no side of a difference: nobody knows what they are."""

NOT_ATTRIBUTES = {
    *REQUIRED, "task", "model", "score_before", "calibration", "unlike", "warning", "tolerance_mm", "map_grid", "map_note",
}  # fmt: skip


def read_predictions(path: Path | str) -> pd.DataFrame:
    """The table in a CSV or Parquet file, checked: numbers as floats (nan: blank), everything else as text.

    Raises UserError naming the column, the value and the remedy. Patient 012 stays 012 and race NA stays NA.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; make it with medssl predict")
    try:
        if path.suffix.lower() == ".csv":
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
        else:
            table = pd.read_parquet(path)
    except Exception as error:  # parsers fail in many ways on a foreign file
        raise UserError(
            f"{path}: cannot be read as {path.suffix or 'Parquet'} ({type(error).__name__}); "
            "give UTF-8 CSV with commas, or Parquet"
        ) from None
    if path.suffix.lower() == ".csv" and not isinstance(table.index, pd.RangeIndex):
        # pandas would take the first column for an index and move every other one by a place.
        raise UserError(f"{path}: the rows have more cells than the header has names; quote cells that hold a comma")
    return check_predictions(table, str(path))


def check_predictions(table: pd.DataFrame, where: str = "predictions") -> pd.DataFrame:
    """The table with its types settled. Raises UserError for whatever would make a number wrong."""
    import pandas as pd

    for column in REQUIRED:
        if column not in table:
            hint = "; separate columns by commas" if len(table.columns) == 1 else ""
            raise UserError(f"{where}: no column {column!r}; it has: {', '.join(map(str, table.columns))}{hint}")
    table = table.copy()
    outlines = structures_of(table)
    for column in table.columns:
        if column in NUMBERS or column in outlines:
            table[column] = _numbers(table[column], str(column), where)
        else:
            table[column] = table[column].astype(object).where(table[column].notna(), "").astype(str)
            if column not in NOT_ATTRIBUTES:
                table[column] = table[column].replace("", UNKNOWN)
    if table.empty:
        raise UserError(f"{where}: no rows; predict at least one sample")
    _refuse(table["patient_id"] == "", table, where, "patient_id", "is blank; every row needs its patient")
    once = "one row a sample" if "task" not in table else "one row a sample and task"
    _refuse(table.duplicated(_key(table)), table, where, "sample_id", f"occurs twice; give {once}")
    if len(by_task(table)) > 1:
        _refuse(table["task"] == "", table, where, "task", "is blank where others are not; name every row's")
    _refuse(~table["split"].isin(SPLITS), table, where, "split", f"is not one of {', '.join(SPLITS)}")
    _refuse(table["label"].notna() & ~table["label"].isin([0, 1]), table, where, "label", "is not 0, 1 or blank")
    for column in ["score", *table.columns.intersection(["unlike"]), *outlines]:
        if split_name(column)[0] != "hd95_":
            outside = table[column].notna() & ~table[column].between(0, 1)
            why = "is not between 0 and 1; give a probability, a share or an overlap"
            _refuse(outside, table, where, str(column), why)
    _check_outlines(table, outlines, where)
    splits = table.groupby("patient_id")["split"].nunique()
    if (splits > 1).any():
        raise UserError(
            f"{where}: {int((splits > 1).sum())} patients are in more than one split; split by patient, else the test leaks"
        )
    return pd.DataFrame(table)


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
    outlines = structures_of(table)
    return [c for c in table.columns if c not in NOT_ATTRIBUTES and c not in outlines]


def _check_outlines(table: pd.DataFrame, outlines: list[str], where: str) -> None:
    """Nothing; raises UserError where a distance is none, a failure is neither 0 nor 1, one measure drops a failure, or
    surface Dice is of several tolerances.
    """
    if "tolerance_mm" in table and any(split_name(column)[0] == "nsd_" for column in outlines):
        tolerances = sorted(table["tolerance_mm"].dropna().unique())
        if len(tolerances) > 1:
            told = ", ".join(f"{one:g}" for one in tolerances)
            raise UserError(
                f"{where}: tolerance_mm is {told}; surface Dice of each is another measure, predict with one"
            )
    for column in outlines:
        prefix, name = split_name(column)
        if prefix == "hd95_":
            wrong = table[column].notna() & ~table[column].between(0, float("inf"), inclusive="left")
            _refuse(
                wrong, table, where, column, "is not a distance in mm; of a failure give the diagonal of the volume"
            )
        if prefix in FAILURES:
            wrong = table[column].notna() & ~table[column].isin([0, 1])
            _refuse(wrong, table, where, column, "is not 0, 1 or blank")
            continue
        for other in (one + name for one in MEASURES if one + name in outlines):
            wrong = table[column].notna() & table[other].isna()
            why = f"is not blank where {other} is; of a failure give Dice 0, surface Dice 0 and as HD95 the diagonal in mm"
            _refuse(wrong, table, where, column, why)


def _numbers(column: pd.Series, name: str, where: str) -> pd.Series:
    import pandas as pd

    blank = column.isna() | (column.astype(str).str.strip() == "")
    found = pd.to_numeric(column.where(~blank), errors="coerce").astype(float)
    wrong = found.isna() & ~blank
    if wrong.any():
        raise UserError(
            f"{where}: {name} {column[wrong].iloc[0]!r} is not a number; leave the cell blank if there is none"
        )
    return found


def _refuse(wrong: pd.Series, table: pd.DataFrame, where: str, column: str, why: str) -> None:
    if wrong.any():
        place = int(wrong.to_numpy().argmax())
        found = table[column].iloc[place]
        value = "" if column == "patient_id" else f" {found!r}" if isinstance(found, str) else f" {float(found)}"
        raise UserError(f"{where}: {column}{value} in row {place + 2} {why}")
