"""A table as it stands in a file: CSV with commas, semicolons or tabs, or Parquet; text stays text."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

DECIMAL_COMMA = r"^\s*[-+]?\d+,\d+([eE][-+]?\d+)?\s*$"
NO_NUMBER = {"nan", "inf", "-inf", "+inf", "infinity", "-infinity", "na", "n/a", "none", "null", "<na>", "#n/a"}
"""What programs write where a score failed."""

BOM16 = (b"\xff\xfe", b"\xfe\xff")


def read_table(path: Path | str, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    """The cells of a file: of CSV all text (blank: ""), of Parquet what it holds. `columns` are our names -> theirs.

    A CSV file whose header is separated by semicolons or tabs is read so, with decimal commas where a whole column of
    numbers has them. "split=:test" gives every row that value: some tables hold nothing but what is judged. Raises
    UserError (E162: it is no table; E161: a name that is not there).
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; make it with medssl predict")
    comma = path.suffix.lower() == ".csv"
    try:
        table = _read_csv(path) if comma else pd.read_parquet(path)
    except UserError:
        raise
    except pd.errors.ParserError as error:
        why = str(error).partition("error: ")[2].strip() or "cells and names do not fit"
        raise UserError(f"{path}: E162 cannot be read: {why}; quote cells that hold a separator") from None
    except Exception as error:  # parsers fail in many ways on a foreign file
        raise UserError(
            f"{path}: E162 cannot be read as {path.suffix or 'Parquet'} ({type(error).__name__}); "
            "give UTF-8 CSV with commas, or Parquet"
        ) from None
    if comma and not isinstance(table.index, pd.RangeIndex):
        # pandas would take the first column for an index and move every other one by a place.
        raise UserError(
            f"{path}: E162 the rows have more cells than the header has names; quote cells that hold a comma"
        )
    return _renamed(table, columns or {}, str(path))


def _read_csv(path: Path) -> pd.DataFrame:
    import pandas as pd

    with path.open("rb") as file:
        start = file.read(65536)
    if start[:2] in BOM16:
        raise UserError(f"{path}: E162 is UTF-16 text; save it as UTF-8 CSV")
    if not start.strip():
        raise UserError(f"{path}: E162 cannot be read, it is empty; give a header and a row for each prediction")
    header = start.decode("utf-8-sig", errors="replace").splitlines()[0]
    separator = _separator(header)
    names = next(csv.reader([header], delimiter=separator), [])
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise UserError(f"{path}: E162 column {twice[0]!r} stands there twice; leave one of them")
    table = pd.read_csv(path, dtype=str, keep_default_na=False, sep=separator, encoding="utf-8-sig")
    if separator == ",":
        return table
    for name in table.columns:
        cells = table[name].str.strip()
        numbers = cells[~cells.str.lower().isin(NO_NUMBER | {""})]
        if numbers.str.match(DECIMAL_COMMA).any() and numbers.str.match(r"^[-+\d.,eE]+$").all():
            table[name] = table[name].str.replace(",", ".", regex=False)
    return table


def _separator(header: str) -> str:
    """What separates the header's names: a comma, unless it has none."""
    names = next(csv.reader([header]), [])
    return "," if len(names) > 1 else max(";\t", key=header.count) if any(c in header for c in ";\t") else ","


def _renamed(table: pd.DataFrame, columns: Mapping[str, str], where: str) -> pd.DataFrame:
    """The table with our names for the columns; one of ours that stood there before gives way."""
    there = [str(name) for name in table.columns]
    table = table.set_axis(there, axis=1)
    for theirs in columns.values():
        if not theirs.startswith(":") and theirs not in there:
            near = get_close_matches(theirs, there, n=1)
            raise UserError(
                f"{where}: E161 --columns names {theirs!r}, which is not there; it has: {', '.join(there)}"
                + (f"; did you mean {near[0]}?" if near else "")
            )
    made = {ours: theirs[1:] if theirs.startswith(":") else table[theirs] for ours, theirs in columns.items()}
    gone = [name for name in (*columns, *columns.values()) if name in there]
    return table.drop(columns=gone).assign(**made)


def said(pairs: str, option: str) -> dict[str, str]:
    """{"a": "b", "c": "d"} of "a=b,c=d"; {} of "". Raises UserError where something is no pair, or said twice."""
    found: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in pairs.split(","))):
        ours, sign, theirs = (part.strip() for part in pair.partition("="))
        if not (ours and sign and theirs) or ours in found:
            raise UserError(f"{option} {pairs!r}: {pair!r} is no pair, or said twice; give ours=theirs,ours=theirs")
        found[ours] = theirs
    return found


__all__ = ["DECIMAL_COMMA", "NO_NUMBER", "read_table", "said"]
