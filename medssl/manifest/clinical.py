"""The clinical table of a card: text stays text, and every row is about one file, patient, study or series."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medssl.archive.headers import Header
from medssl.errors import UserError
from medssl.manifest.card import Card
from medssl.manifest.labels import Rule, read_rule

Cells = dict[str, str]


@dataclass(kw_only=True)
class Clinical:
    """Rows of a table by key, with our names for the columns; `used` collects the keys that were asked for.

    `places` are the rows' numbers as a spreadsheet shows them, the heading being 1; `without_key` those of rows whose
    key is blank.
    """

    key: str = "patient_id"
    rows: dict[str, Cells] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    without_key: list[int] = field(default_factory=list)
    labels: dict[str, Rule] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def row_of(self, header: Header, archive: Path) -> Cells:
        """The row about a file, with our column names beside the table's own; {} when there is none."""
        name = {
            "file": header.path.relative_to(archive).as_posix(),
            "patient_id": header.patient_id,
            "study_uid": header.study_uid,
            "series_uid": header.series_uid,
        }[self.key]
        row = self.rows.get(name)
        if row is None:
            return {}
        self.used.add(name)
        return row | {ours: row[theirs] for ours, theirs in self.columns.items()}

    def row_of_any(self, headers: Sequence[Header], archive: Path) -> Cells:
        """The row about the first of a volume's files that has one; {} when none has."""
        return next((row for header in headers if (row := self.row_of(header, archive))), {})

    def see_files(self, names: Iterable[str]) -> None:
        """Nothing; rows about these files count as used. A row about a damaged file is not about nothing."""
        if self.key == "file":
            self.used.update(name for name in names if name in self.rows)

    def unused(self) -> list[str]:
        """Keys of the rows that are about nothing in the archive, in the table's order."""
        return sorted((name for name in self.rows if name not in self.used), key=self.places.__getitem__)


def read_clinical(card: Card, archive: Path) -> Clinical:
    """The card's table; an empty one when it names none.

    Raises UserError for a missing file or column, a repeated key, a row of another length than the heading and a label
    that cannot be read. Messages give a row's number and never what a cell holds.
    """
    if not card.table:
        return Clinical()
    path = archive / card.table
    if not path.is_file():
        raise UserError(f"{path}: the card's table is not there; check `table` in the card {card.name}")
    columns, rows = _cells(path)
    for ours, theirs in card.columns.items():
        if theirs not in columns:
            raise UserError(f"{path}: no column {theirs!r} (for {ours}); it has: {', '.join(columns)}")
    rules = {name: read_rule(name, rule, columns) for name, rule in card.labels.items()}
    table = Clinical(key=card.key, columns=card.columns, labels=rules)
    for number, row in rows.items():
        name = row[card.columns[card.key]]
        if name in table.rows:
            raise UserError(f"{path}: rows {table.places[name]} and {number} have the same {card.key}; keep one")
        for rule in rules.values():
            _try(rule, row, f"{path}: row {number}")
        if name:
            table.rows[name], table.places[name] = row, number
        else:
            table.without_key.append(number)
    return table


def _cells(path: Path) -> tuple[list[str], dict[int, Cells]]:
    """The heading, and the trimmed cells of each row that is not blank by its number."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [[cell.strip() for cell in line] for line in csv.reader(file)]
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; save the table again as 'CSV UTF-8'") from None
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV table ({error}); save it again as 'CSV UTF-8'") from None
    columns = lines[0] if lines else []
    if twice := [name for name in columns if name and columns.count(name) > 1]:
        raise UserError(f"{path}: two columns are called {twice[0]!r}; rename one")
    rows = {}
    for number, line in enumerate(lines[1:], 2):
        if not any(line):
            continue
        if len(line) != len(columns):
            raise UserError(
                f"{path}: row {number} has {len(line)} cells, the heading has {len(columns)}; mend that row"
            )
        rows[number] = dict(zip(columns, line, strict=True))
    return columns, rows


def _try(rule: Rule, row: Cells, where: str) -> None:
    try:
        rule(row)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
