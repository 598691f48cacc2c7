"""report.json as tidy tables: one row for an estimate, a gap or whatever a section has rows of; and such a table as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a text starts that a spreadsheet would run."""

KEYS = ("attribute", "group", "metric")
"""What says whose the rows of a list inside a row are."""


def tables(report: Row) -> dict[str, list[dict[str, Any]]]:
    """Name of a file -> its rows, each with the analysis that it is of: estimates, gaps, power, cohort, and each section's.

    A section's list `rows` has the section's name, any other list that name and its own. Values in values have names with
    dots: rates.ppv.low. A table without rows is left out.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for analysis in report["analyses"]:
        parts: list[tuple[str, list[dict[str, Any]]]] = [
            (name, [dict(row) for row in analysis.get(name, [])]) for name in ("estimates", "gaps", "power")
        ]
        parts.append(("cohort", _cohort(analysis["cohort"])))
        for name, content in analysis.get("sections", {}).items():
            parts += _lists(name, content, {})
        for name, rows in parts:
            found.setdefault(name, []).extend({"analysis": analysis["name"], **row} for row in rows)
    found["criteria"] = [dict(row) for row in report.get("criteria", {}).get("rows", [])]
    return {name: rows for name, rows in found.items() if rows}


def files_of(name: str, content: Row) -> list[str]:
    """The names of the files that hold a section's rows."""
    return list(dict.fromkeys(file for file, rows in _lists(name, content, {}) if rows))


def as_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV, columns in the order in which they first occur; a value that is not there is an empty cell.

    Text that a spreadsheet would take for a formula gets an apostrophe before it; numbers stay numbers.
    """
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    # What is sometimes nothing and else has parts is told by its parts.
    names = [name for name in names if not any(other.startswith(f"{name}.") for other in names)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_cell(name) for name in names])
    writer.writerows([_cell(row.get(name)) for name in names] for row in flat)
    return out.getvalue()


def _cohort(cohort: Row) -> list[dict[str, Any]]:
    whole = {"attribute": "", **{key: value for key, value in cohort.items() if key != "attributes"}}
    return [
        whole,
        *({"attribute": part["attribute"], **row} for part in cohort["attributes"] for row in part["groups"]),
    ]


def _lists(name: str, content: Row, whose: Row) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Every list of rows in a section, those inside a row with what says whose they are."""
    for key, value in content.items():
        own = name if key == "rows" else f"{name}_{key}"
        if isinstance(value, Mapping):
            yield from _lists(own, value, whose)
        elif _has_rows(value):
            plain = [{one: it for one, it in row.items() if not _has_rows(it)} for row in value]
            yield own, [{**whose, **row} for row in plain]
            for row in value:
                inside = {one: it for one, it in row.items() if _has_rows(it)}
                yield from _lists(own, inside, {**whose, **{one: row[one] for one in KEYS if one in row}})


def _has_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _flat(row: Row, before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[before + key] = value
    return flat


def _cell(value: object) -> object:
    if isinstance(value, list | tuple):
        value = json.dumps(value)
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA) else value
    return "" if value is None else value
