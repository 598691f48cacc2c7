"""Labels from a clinical table by rules of one line, so that a card can be read by whoever made the table.

column NAME              the number in the column
NAME contains TEXT       1 where the text occurs in the column, else 0
NAME equals TEXT         1 where the column is that text, else 0
The word "column" may also stand before the last two. A blank cell gives no label.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from medssl.errors import UserError

Rule = Callable[[Mapping[str, str]], float]


def read_rule(name: str, text: str, columns: list[str]) -> Rule:
    """A function from a table's row to the label's value (nan: none). Raises UserError for a rule that cannot be read."""
    for word in ("contains", "equals"):
        before, found, wanted = text.partition(f" {word} ")
        if found and wanted.strip():
            column = _column(name, before.strip(), columns)
            return _matcher(column, wanted.strip(), whole=word == "equals")
    if not text.startswith("column ") or not text.removeprefix("column ").strip():
        raise UserError(
            f"label {name!r}: cannot read the rule {text!r}; write 'column X', 'X contains Y' or 'X equals Y'"
        )
    return _number(name, _column(name, text.removeprefix("column ").strip(), columns))


def _column(name: str, told: str, columns: list[str]) -> str:
    """The table's column that a rule names, with or without the word "column" before it."""
    for column in told, told.removeprefix("column ").strip():
        if column in columns:
            return column
    raise UserError(f"label {name!r}: the table has no column {told!r}; it has: {', '.join(columns)}")


def _matcher(column: str, wanted: str, *, whole: bool) -> Rule:
    def match(row: Mapping[str, str]) -> float:
        cell = row[column].strip()
        if not cell:
            return math.nan
        return float(cell == wanted if whole else wanted in cell)

    return match


def _number(name: str, column: str) -> Rule:
    def value(row: Mapping[str, str]) -> float:
        cell = row[column].strip()
        if not cell:
            return math.nan
        try:
            number = float(cell)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):  # the cell itself is not shown: it may be a name from the wrong column
            raise UserError(f"label {name!r}: column {column!r} does not hold a number; leave it blank or use 'equals'")
        return number

    return value
