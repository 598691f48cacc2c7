"""Tables as hospitals and data sets give them: CSV with commas, semicolons or tabs, gzipped or not, in one file or several.

Messages give a row's number and never what a cell holds: it may be a name.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from medssl.errors import UserError

Cells = dict[str, str]

BESIDE = " + "
"""Between the names of files whose rows stand one below the other."""


@dataclass(frozen=True)
class Sheet:
    """A table: its columns, and each row that is not blank with where it is from: the file and the number of the row as
    a spreadsheet shows it, the heading being 1.
    """

    name: str
    columns: tuple[str, ...]
    rows: list[tuple[Path, int, Cells]] = field(default_factory=list)


def sheet_files(name: str, archive: Path) -> list[Path]:
    """The files that a table's name in a card means: sorted where it is a glob, several with + between. A glob without a
    match stands for itself: a file that is not there.
    """
    files = []
    for part in name.split(BESIDE):
        glob = set(part) & set("*?[") and not PurePath(part).is_absolute()
        files += (sorted(archive.glob(part)) if glob else []) or [archive / part]
    return files


def read_sheet(name: str, archive: Path, card: str) -> Sheet:
    """The rows of a table. Raises UserError for a missing file, files whose columns differ and a table that is broken."""
    columns: tuple[str, ...] = ()
    rows: list[tuple[Path, int, Cells]] = []
    files = sheet_files(name, archive)
    if missing := [path for path in files if not path.is_file()]:
        raise UserError(f"{missing[0]}: the card's table is not there; check `table`, `joins` in the card {card}")
    for path in files:
        heading, found = read_cells(path)
        if columns and (apart := sorted(set(columns) ^ set(heading))):
            raise UserError(f"{path}: column {apart[0]!r} is not in all of {name}; list tables of one kind only")
        columns = columns or tuple(heading)
        rows += [(path, number, row) for number, row in found.items()]
    return Sheet(name, columns, rows)


def read_cells(path: Path) -> tuple[list[str], dict[int, Cells]]:
    """The heading, and the trimmed cells of each row that is not blank by its number."""
    try:
        lines = _lines(path)
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; save the table again as 'CSV UTF-8'") from None
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV table ({error}); save it again as 'CSV UTF-8'") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"{path}: damaged gzip; copy or download the file again") from None
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


def _lines(path: Path) -> list[list[str]]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        # A heading without commas is one with semicolons or tabs, or of one column.
        mark = next((mark for mark in ",;\t" if mark in first), ",")
        heading = list(csv.reader([first], delimiter=mark)) if first else []
        return [[cell.strip() for cell in line] for line in [*heading, *csv.reader(file, delimiter=mark)]]
