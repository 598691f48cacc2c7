"""Whether a report holds: made again from the table that it says it is of, and compared number by number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from medssl.errors import UserError
from medssl.evaluate.analysis import evaluate
from medssl.evaluate.criteria import with_criteria
from medssl.evaluate.lesions import BESIDE, Detection
from medssl.evaluate.terms import declared
from medssl.report.words import Row, clean

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 1e-9
"""Relative: sums in another order, of another machine's library, differ in the last digits."""

COMPARED = ("analyses", "averages", "criteria", "findings", "split", "margin", "minimum_patients")


def differences(report: Row, tables: Mapping[str, pd.DataFrame | Detection]) -> list[str]:
    """A sentence for each thing that is not so when the report is made again from its tables (name -> predictions); none
    where it holds.

    A single table may have any name. Raises UserError where the tables are others than those that the report names, or where
    the report does not tell how it was made.
    """
    try:
        told, asked = report["provenance"]["tables"], report["provenance"]["settings"]
    except (KeyError, TypeError):
        raise UserError(
            "verify: report.json does not tell how it was made (provenance.settings); make it again with medssl evaluate"
        ) from None
    names = [name for name in told if not name.endswith(BESIDE)]
    if len(tables) == len(names) == 1:
        tables = dict(zip(names, tables.values(), strict=True))
    if set(tables) != set(names):
        raise UserError(
            f"verify: the report is of {', '.join(names)}, given were {', '.join(tables)}; give the same tables"
        )
    try:
        again = evaluate(tables, **{**asked, "terms": declared(asked.get("terms", {}))})
    except TypeError as error:
        raise UserError(f"verify: {error}; the report was made by another version, verify it with that one") from None
    own = again["provenance"]["tables"]
    found = [
        f"{name}: the report is of a table with digest {told.get(name)}, this one's is {own.get(name)}"
        for name in dict.fromkeys([*told, *own])
        if told.get(name) != own.get(name)
    ]
    if "criteria" in report:
        again = with_criteria(again, report["criteria"]["limits"])
    for part in COMPARED:
        found += [clean(one) for one in _differ(report.get(part), again.get(part), part)]
    return found


def _differ(told: Any, found: Any, place: str) -> Iterator[str]:
    """Where two contents of report.json differ, in the order of the report."""
    if isinstance(told, Mapping) and isinstance(found, Mapping):
        for key in dict.fromkeys([*told, *found]):
            yield from _differ(told.get(key), found.get(key), f"{place}.{key}")
    elif isinstance(told, list) and isinstance(found, list | tuple):
        if len(told) != len(found):
            yield f"{place}: {len(told)} entries in the report, {len(found)} made again"
        for count, (one, other) in enumerate(zip(told, found, strict=False)):
            yield from _differ(one, other, f"{place}[{count}]")
    elif not _same(told, found):
        yield f"{place}: {told!r} in the report, {found!r} made again"


def _same(told: Any, found: Any) -> bool:
    if (
        isinstance(told, bool)
        or isinstance(found, bool)
        or not all(isinstance(one, int | float) for one in (told, found))
    ):
        return bool(told == found)
    return math.isclose(told, found, rel_tol=TOLERANCE, abs_tol=1e-12)
