"""The clinical tables of a card: text stays text, and every row is about one file, patient, study or series."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from medssl.archive.headers import Header
from medssl.errors import UserError
from medssl.manifest.card import KEYS, PLACED, ROLES, Card, columns_of, groups_of, is_split
from medssl.manifest.demographics import UNKNOWN, age_of, sex_of
from medssl.manifest.facts import read_facts
from medssl.manifest.labels import ROW_END, Rule, meaning, read_rule
from medssl.manifest.sheets import BESIDE, Cells, Sheet, read_cells, read_sheet

OR, NOTHING = " or ", "nothing"
"""Between the names of columns of which the first that is not blank counts, and the name of one that is always blank."""


@dataclass(frozen=True)
class Join:
    """A further table: the fact by which its rows are found, and its rows, several about the same thing made one."""

    fact: str
    columns: tuple[str, ...]
    rows: dict[str, Cells]


@dataclass(kw_only=True)
class Clinical:
    """Rows of a table by key, with our names for the columns; `used` collects the keys that were asked for.

    `places` are the rows' numbers as a spreadsheet shows them, the heading being 1; `without_key` those of rows whose
    key is blank. `heard` counts, by what is odd about them, cells that were understood as nothing.
    """

    card: Card = field(default_factory=lambda: Card(name="archive"))
    archive: Path = Path()
    rows: dict[str, Cells] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    without_key: list[int] = field(default_factory=list)
    labels: dict[str, Rule] = field(default_factory=dict)
    joins: list[Join] = field(default_factory=list)
    columns: tuple[str, ...] = ()
    listed: dict[str, str] = field(default_factory=dict)
    heard: dict[str, int] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    @property
    def key(self) -> str:
        """What a row of the table is about."""
        return self.card.key

    def row_of(self, header: Header, archive: Path) -> Cells:
        """What is told about a file, our column names beside the tables' own; {} when nothing is.

        Raises UserError for a missing fact and a code that is not listed.
        """
        about = self.about(header, archive)
        groups = {name: about.get(name, "") for name in groups_of(self.card)}
        told = groups | self._facts(about)
        if (row := self.rows.get(about[self.key])) is not None:
            self.used.add(about[self.key])
            told = row | told
        elif self.rows:
            told = dict.fromkeys(self.columns, "") | told if told or self.joins else {}
        for join in self.joins:
            by = told.get(join.fact, about.get(join.fact, ""))
            told = join.rows.get(by, dict.fromkeys(join.columns, "")) | told
        if not told:
            return {}
        told |= {name: self._told(name, source, told) for name, source in columns_of(self.card).items()}
        if missing := [rule.column for rule in self.labels.values() if rule.column not in told]:
            raise UserError(f"card {self.card.name}: nothing is called {missing[0]!r} (in labels); there is: "
                            f"{', '.join(sorted(told))}")  # fmt: skip
        if self.listed:
            told["split"] = self._listed(about[self.key])
        return told | {"age_years": _aged(told)} if "age_year" in told else told

    def row_of_any(self, headers: Sequence[Header], archive: Path) -> Cells:
        """The row about the first of a volume's files that has one; {} when none has."""
        known = (header for header in headers if self.has_row(header, archive))
        return self.row_of(next(known, headers[0]), archive)

    def has_row(self, header: Header, archive: Path) -> bool:
        """Whether the table has a row about a file."""
        return self.about(header, archive)[self.key] in self.rows

    def about(self, header: Header, archive: Path) -> Cells:
        """What the place and the header of a file say of it: the keys, and the groups of the card's `path`."""
        name = header.path.relative_to(archive).as_posix()
        header_says = {"patient_id": header.patient_id, "study_uid": header.study_uid, "series_uid": header.series_uid}
        about = {"file": name, "name": header.path.name, "folder": str(PurePosixPath(name).parent), **header_says}
        for group, text in self._groups(name).items():
            about[group] = about.get(group) or text
        return about

    def covers(self, header: Header, archive: Path) -> bool:
        """Whether the card's `path` fits a file's; with none it is about every file."""
        return not self.card.path or bool(self._groups(header.path.relative_to(archive).as_posix()))

    def see_files(self, names: Iterable[str]) -> None:
        """Nothing; rows about these files count as used. A row about a damaged file is not about nothing."""
        if self.key == "file":
            self.used.update(name for name in names if name in self.rows)
        elif self.key == "name":
            self.used.update(PurePosixPath(name).name for name in names)

    def unused(self) -> list[str]:
        """Keys of the rows that are about nothing in the archive, in the table's order."""
        return sorted((name for name in self.rows if name not in self.used), key=self.places.__getitem__)

    def _groups(self, name: str) -> Cells:
        if not self.card.path:
            return {}
        found = re.fullmatch(self.card.path, name)
        return found.groupdict(default="") if found else {}

    def _facts(self, about: Mapping[str, str]) -> Cells:
        if not self.card.facts:
            return {}
        return read_facts(self.archive / self.card.facts.format(**about))

    def _told(self, name: str, source: str, told: Mapping[str, str]) -> str:
        """What the columns say of one of our names, their codes replaced; "" where rows about the same thing differ."""
        asked = source.split(OR)
        parts = [part for part in asked if part in told]
        if not parts and NOTHING not in asked:
            raise UserError(f"card {self.card.name}: nothing is called {source!r} (for {name}); there is: "
                            f"{', '.join(sorted(told))}")  # fmt: skip
        for part in parts:
            if told[part]:
                words = self.words(name, told[part])
                return words.pop() if len(words) == 1 else ""
        return ""

    def words(self, name: str, cell: str) -> set[str]:
        """What the rows that make a cell say, without those that say nothing. Raises UserError for an unlisted code."""
        cells = [part for part in cell.split(ROW_END) if part.lower() != UNKNOWN]
        if name in self.card.values:
            cells = [meaning(name, cell, self.card.values[name]) for cell in cells]
        words = {cell for cell in cells if cell}
        if name == "split" and (strange := [word for word in words if not is_split(word)]):
            raise UserError(
                f"split: {len(strange)} word that is not train, val or test; list it in the card's values.split"
            )
        if name == "role" and words - set(ROLES):
            raise UserError(f"role: not one of {', '.join(ROLES[1:])}; list it in the card's values.role")
        return words

    def _listed(self, key: str) -> str:
        if key not in self.listed:
            raise UserError(f"card {self.card.name}: an image is in none of the split_lists; complete them")
        return self.listed[key]


def read_clinical(card: Card, archive: Path) -> Clinical:
    """The card's tables; an empty one when it names none.

    Raises UserError for a missing file or column, a repeated key, a row of another length than the heading, a code that
    `values` does not list and a label that cannot be read. Messages give a row's number and never what a cell holds.
    """
    table = Clinical(card=card, archive=archive)
    main = read_sheet(card.table, archive, card.name) if card.table else None
    joined = {name: read_sheet(name, archive, card.name) for name in card.joins}
    sheets = [*([main] if main else []), *joined.values()]
    columns = [name for sheet in sheets for name in sheet.columns]
    # The facts of a file are not known before it is read.
    known = [] if card.facts else [*columns, *KEYS, *groups_of(card)]
    if not card.facts:
        _check_columns(card, sheets, known)
    shown = [] if card.facts else [*columns, *groups_of(card)]
    table.labels = {name: read_rule(name, rule, shown, card.values.get(name)) for name, rule in card.labels.items()}
    for sheet in sheets:
        _check_cells(table, sheet)
    needed = {part for source in columns_of(card).values() for part in source.split(OR)}
    needed |= {rule.column for rule in table.labels.values()} | {_by(told)[1] for told in card.joins.values()}
    if main:
        table.columns = tuple(name for name in main.columns if name in needed)
        _keep_main(table, main)
    for name, sheet in joined.items():
        table.joins.append(_join(table, sheet, _by(card.joins[name]), needed))
    table.listed = _split_lists(card, archive)
    return table


def with_table(card: Card, path: Path | str) -> Card:
    """The card with a clinical table beside it whose columns have the names that we use: one of file, patient_id,
    study_uid and series_uid, and any of sex, race, ethnicity, age_years, site, ... and label:NAME.

    Other columns are not read: they may identify patients. Raises UserError for a table without a key, or with a column
    that the card has already.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the clinical table, a CSV file")
    heading, _ = read_cells(path)
    key = next((key for key in ("file", "series_uid", "study_uid", "patient_id") if key in heading), "")
    if not key:
        raise UserError(f"{path}: no column file, series_uid, study_uid or patient_id; rename the one that says whose "
                        f"a row is; it has: {', '.join(heading)}")  # fmt: skip
    columns = {name: name for name in heading if name in PLACED or name in KEYS}
    labels = {name.removeprefix("label:"): f"column {name}" for name in heading if name.startswith("label:")}
    if len(columns) + len(labels) == 1:
        raise UserError(f"{path}: nothing but {key}; name columns sex, race, ethnicity, age_years, site or label:NAME")
    if both := sorted((set(columns_of(card)) - {key}) & set(columns) | set(card.labels) & set(labels)):
        raise UserError(f"{path}: column {both[0]!r} is also in the card {card.name}; remove one of them")
    if not card.table:
        return replace(card, table=str(path), key=key, columns=card.columns | columns, labels=card.labels | labels)
    columns.pop(key)
    joins = {**card.joins, str(path): key}
    return replace(card, joins=joins, columns=card.columns | columns, labels=card.labels | labels)


def _by(told: str) -> tuple[str, str]:
    """The column of a joined table that says what its rows are about, and the fact that it is compared with."""
    column, _, fact = (part.strip() for part in told.partition("="))
    return column, fact or column


def _check_columns(card: Card, sheets: Sequence[Sheet], known: Sequence[str]) -> None:
    where = BESIDE.join(sheet.name for sheet in sheets) or f"card {card.name}"
    for ours, theirs in card.columns.items():
        if missing := [part for part in theirs.split(OR) if part not in (*known, NOTHING)]:
            raise UserError(f"{where}: no column {missing[0]!r} (for {ours}); it has: {', '.join(known)}")
    for sheet in sheets:
        if sheet.name in card.joins and (column := _by(card.joins[sheet.name])[0]) not in sheet.columns:
            raise UserError(f"{sheet.name}: no column {column!r} (in joins); it has: {', '.join(sheet.columns)}")


def _check_cells(table: Clinical, sheet: Sheet) -> None:
    """Nothing; UserError with the row's number for a cell that cannot be used. Odd ones are counted in `heard`."""
    read = [(ours, part) for ours, theirs in columns_of(table.card).items() for part in theirs.split(OR)]
    read = [(ours, part) for ours, part in read if part in sheet.columns]
    rules = [rule for rule in table.labels.values() if rule.column in sheet.columns]
    for path, number, row in sheet.rows:
        try:
            for ours, part in read:
                for word in table.words(ours, row[part]):
                    if ours == "sex" and sex_of(word) == UNKNOWN:
                        _count(table, "cells of sex are neither M, F nor O; they count as unknown")
                    elif ours == "age_years" and not age_of(word) > 0:
                        _count(table, "ages are not believable; they count as unknown")
            for rule in rules:
                rule(row)
        except UserError as error:
            raise UserError(f"{path}: row {number}: {error}") from None


def _count(table: Clinical, what: str) -> None:
    table.heard[what] = table.heard.get(what, 0) + 1


def _keep_main(table: Clinical, sheet: Sheet) -> None:
    column = table.card.columns[table.key]
    for path, number, row in sheet.rows:
        name = row[column]
        if name in table.rows:
            raise UserError(f"{path}: rows {table.places[name]} and {number} have the same {table.key}; keep one")
        if name:
            table.rows[name], table.places[name] = {part: row[part] for part in table.columns}, number
        else:
            table.without_key.append(number)


def _join(table: Clinical, sheet: Sheet, by: tuple[str, str], needed: set[str]) -> Join:
    column, fact = by
    kept = tuple(name for name in sheet.columns if name in needed)
    cells: dict[str, dict[str, dict[str, None]]] = {}
    for _, _, row in sheet.rows:
        if row[column]:
            known = cells.setdefault(row[column], {name: {} for name in kept})
            for name in kept:
                if row[name]:
                    known[name][row[name]] = None
    rows = {key: {name: ROW_END.join(found) for name, found in row.items()} for key, row in cells.items()}
    for rule in table.labels.values():
        if rule.column in kept:
            for row in rows.values():
                rule(row)
    for ours, theirs in columns_of(table.card).items():
        for part in set(theirs.split(OR)) & set(kept):
            apart = sum(len(table.words(ours, row[part])) > 1 for row in rows.values())
            if apart:
                table.heard[f"times rows about the same thing differ in {ours}; it counts as unknown"] = apart
    return Join(fact, kept, rows)


def _split_lists(card: Card, archive: Path) -> dict[str, str]:
    listed: dict[str, str] = {}
    for word, name in card.split_lists.items():
        path = archive / name
        if not path.is_file():
            raise UserError(
                f"{path}: the card's list of {word} is not there; check `split_lists` in the card {card.name}"
            )
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
            if (key := line.strip()) and listed.setdefault(key, word) != word:
                raise UserError(f"{path}: line {number} is also in the list of {listed[key]}; remove it from one")
    return listed


def _aged(told: Mapping[str, str]) -> str:
    """The age on the day of the study, from the age in a given year; "" where one of the three is missing."""
    then, year, day = age_of(told["age_years"]), told["age_year"], told.get("study_date", "")
    if not (then > 0 and re.fullmatch(r"\d{4}", year) and re.match(r"\d{4}", day)):
        return ""
    return str(then + int(day[:4]) - int(year))
