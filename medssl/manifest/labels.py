"""Labels from a clinical table by rules of one line, so that a card can be read by whoever made the table.

column NAME              the number in the column
NAME contains TEXT       1 where the text occurs in the column, else 0
NAME equals TEXT         1 where the column is that text, else 0
A blank cell gives no label.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from medssl.errors import UserError

Rule = Callable[[Mapping[str, str]], float]


def read_rule(name: str, text: str, columns: list[str]) -> Rule:
    """A function from a table's row to the label's value (nan: none). Raises UserError for a rule that cannot be read."""
    for word in ("contains", "equals"):
        column, found, wanted = text.partition(f" {word} ")
        if found:
            _check(name, column.strip(), columns)
            return _matcher(column.strip(), wanted.strip(), whole=word == "equals")
    column = text.removeprefix("column ").strip()
    if not text.startswith("column ") or not column:
        raise UserError(
            f"label {name!r}: cannot read the rule {text!r}; write 'column X', 'X contains Y' or 'X equals Y'"
        )
    _check(name, column, columns)
    return _number(name, column)


def _check(name: str, column: str, columns: list[str]) -> None:
    if column not in columns:
        raise UserError(f"label {name!r}: the table has no column {column!r}; it has: {', '.join(columns)}")


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
        try:
            return float(cell) if cell else math.nan
        except ValueError:
            raise UserError(f"label {name!r}: column {column!r} holds {cell!r}, not a number; use 'equals'") from None

    return value
