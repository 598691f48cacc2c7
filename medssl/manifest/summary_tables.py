"""The summary's tables as CSV, for people who go on in a spreadsheet. No cell of theirs can become a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medssl.atomic import write_text

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the start of a formula (CWE-1236)."""

SHARE = ("n", "share", "low", "high")

Row = dict[str, Any]


def write_tables(content: Row, folder: Path) -> None:
    """Nothing; `folder` holds flow.csv, reasons.csv, people.csv and scanners.csv, the same numbers as summary.json."""
    flow = [
        {"level": level["name"], "entered": level["entered"], "stayed": level["stayed"], "reason": code, "left": n}
        for level in content["flow"]
        for code, n in level["left"].items() or [("", 0)]
    ]
    tables = {"flow": flow, "reasons": content["reasons"], "people": _people(content), "scanners": content["scanners"]}
    for name, rows in tables.items():
        write_text(folder / f"{name}.csv", as_csv(rows))


def as_csv(rows: Sequence[Row]) -> str:
    """Rows as text with every cell quoted, "" for none; a text that would be a formula gets an apostrophe before it."""
    if not rows:
        return ""
    out, columns = io.StringIO(), list(rows[0])
    table = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
    table.writerow(columns)
    table.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return out.getvalue()


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(FORMULA) else text


def _people(content: Row) -> list[Row]:
    rows = [{"attribute": "all", "group": "all patients", "hidden": "", **content["people"]["all"]}]
    for each in content["people"]["attributes"]:
        rows += [{"attribute": each["attribute"], **row} for row in each["groups"]]
    return [_flat(row) for row in rows]


def _flat(row: Row) -> Row:
    counts = {name: row.get(name) for name in ("attribute", "group", "hidden", "patients", "volumes")}
    shares = {f"{name}_{part}": row.get(name, {}).get(part) for name in ("left", "hurt") for part in SHARE}
    return counts | shares
