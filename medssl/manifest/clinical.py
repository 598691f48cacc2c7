"""The clinical table of a card: text stays text, and every row is about one file, patient, study or series."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

from medssl.archive.headers import Header
from medssl.errors import UserError
from medssl.manifest.card import Card
from medssl.manifest.labels import Rule, read_rule


@dataclass
class Clinical:
    """Rows of a table by key, with our names for the columns; `used` collects the keys that were asked for."""

    key: str = "patient_id"
    rows: dict[str, dict[str, str]] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    labels: dict[str, Rule] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def row_of(self, header: Header, archive: Path) -> dict[str, str]:
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

    def unused_rows(self) -> list[int]:
        """Numbers (from 2, below the heading) of the table's rows that are about nothing in the archive."""
        return sorted(place for name, place in self.places.items() if name not in self.used)


def read_clinical(card: Card, archive: Path) -> Clinical:
    """The card's table; an empty one when it names none. Raises UserError for a missing file, column or repeated key."""
    if not card.table:
        return Clinical()
    path = archive / card.table
    if not path.is_file():
        raise UserError(f"{path}: the card's table is not there; check `table` in the card {card.name}")
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or [])
        for ours, theirs in card.columns.items():
            if theirs not in columns:
                raise UserError(f"{path}: no column {theirs!r} (for {ours}); it has: {', '.join(columns)}")
        table = Clinical(
            key=card.key, columns=card.columns, labels={n: read_rule(n, t, columns) for n, t in card.labels.items()}
        )
        for number, row in enumerate(reader, 2):
            name = (row[card.columns[card.key]] or "").strip()
            if name in table.rows:
                raise UserError(f"{path}: rows {table.places[name]} and {number} have the same {card.key}; keep one")
            table.rows[name] = {column: (row.get(column) or "").strip() for column in columns}
            table.places[name] = number
    return table
