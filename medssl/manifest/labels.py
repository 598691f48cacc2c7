"""Labels from a clinical table by rules of one line, so that a card can be read by whoever made the table.

column NAME              the number in the column (or what the card's `values` make of its word)
NAME contains TEXT       1 where the text occurs in the column, else 0
NAME equals TEXT         1 where the column is that text, else 0
The word "column" may also stand before the last two. A blank cell gives no label. Where several rows of a table are about
the same thing, the last two are 1 if any of these rows is such, and the first needs them to agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from medssl.errors import UserError

ROW_END = "\n"
"""Between the cells of several rows about the same thing."""


@dataclass(frozen=True)
class Rule:
    """A function from a table's row to a label's value (nan: none), and the column that it reads."""

    column: str
    read: Callable[[str], float]

    def __call__(self, row: Mapping[str, str]) -> float:
        """The label's value. Raises UserError for a cell that cannot be read."""
        return self.read(row.get(self.column, ""))


def read_rule(name: str, text: str, columns: Sequence[str], codes: Mapping[str, str] | None = None) -> Rule:
    """The rule that a card's line says. `columns` are those there are (empty: not known yet), `codes` what words mean.

    Raises UserError for a rule that cannot be read.
    """
    for word in ("contains", "equals"):
        before, found, wanted = text.partition(f" {word} ")
        if found and wanted.strip():
            column = _column(name, before.strip(), columns)
            return Rule(column, _matcher(wanted.strip(), whole=word == "equals"))
    if not text.startswith("column ") or not text.removeprefix("column ").strip():
        raise UserError(
            f"label {name!r}: cannot read the rule {text!r}; write 'column X', 'X contains Y' or 'X equals Y'"
        )
    column = _column(name, text.removeprefix("column ").strip(), columns)
    return Rule(column, _number(name, column, codes))


def meaning(name: str, cell: str, codes: Mapping[str, str]) -> str:
    """What a card's `values` make of a cell, "" for a blank one. Raises UserError, without the cell, for an unknown code.

    Codes are compared as words, as numbers (1 is 1.0) and by their beginning where they end in *.
    """
    if not cell:
        return ""
    if cell in codes:
        return codes[cell]
    for code, word in codes.items():
        if _same_number(code, cell) or (code.endswith("*") and cell.startswith(code[:-1])):
            return word
    raise UserError(f"{name}: holds a code that the card's values.{name} does not list ({', '.join(codes)})")


def _same_number(a: str, b: str) -> bool:
    try:
        return float(a) == float(b)
    except ValueError:
        return False


def _column(name: str, told: str, columns: Sequence[str]) -> str:
    """The table's column that a rule names, with or without the word "column" before it."""
    if not columns:
        return told.removeprefix("column ").strip()
    for column in told, told.removeprefix("column ").strip():
        if column in columns:
            return column
    raise UserError(f"label {name!r}: the table has no column {told!r}; it has: {', '.join(columns)}")


def _matcher(wanted: str, *, whole: bool) -> Callable[[str], float]:
    def match(text: str) -> float:
        cells = [cell for cell in text.strip().split(ROW_END) if cell]
        if not cells:
            return math.nan
        return float(any(cell == wanted if whole else wanted in cell for cell in cells))

    return match


def _number(name: str, column: str, codes: Mapping[str, str] | None) -> Callable[[str], float]:
    def value(text: str) -> float:
        cells = text.strip().split(ROW_END)
        if codes is not None:
            cells = [meaning(name, cell, codes) for cell in cells]
        numbers = {_to_number(cell) for cell in cells if cell}
        if any(not math.isfinite(number) for number in numbers):
            # the cell itself is not shown: it may be a name from the wrong column
            raise UserError(f"label {name!r}: column {column!r} does not hold a number; leave it blank or use 'equals'")
        if len(numbers) > 1:
            raise UserError(f"label {name!r}: column {column!r} differs between rows about the same thing")
        return numbers.pop() if numbers else math.nan

    return value


def _to_number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan
