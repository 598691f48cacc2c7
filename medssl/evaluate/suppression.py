"""Which groups of an attribute are not shown: one decision, made before anything is written, that whatever tells of groups
asks for. The rule is that of cells.py.

An attribute has one total, that of the cohort. A crossing "a*b" has as well those of each group of `a` and of `b` that is
shown: cells of a hidden group are hidden, and so is the unknown cell where a part hides who is not known. A pair that
nobody belongs to is a cell of nobody, and is hidden only where all are.

Not covered: an attribute nested in another (a scanner that stands at one site) where the reader knows of that; what
differs between reports of the same patients.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import product

import pandas as pd

from medssl.evaluate.cells import Cell, hidden_cells
from medssl.evaluate.groups import names_of, with_group
from medssl.evaluate.predictions import NOT_KNOWN, UNKNOWN


def hidden_groups(
    judged: pd.DataFrame, left_out: pd.DataFrame, attribute: str, minimum: int, free: Collection[str] = NOT_KNOWN
) -> dict[str, str]:
    """The groups of an attribute, or of a crossing, that are not shown, each with the reason; {} where all are.

    `judged` and `left_out` are rows of a checked table, `minimum` the fewest patients, `free` the groups that need nobody to
    hide behind.
    """
    cells, parts = _cells(judged, left_out, attribute), names_of(judged, attribute)
    if len(parts) == 1:
        return hidden_cells(cells, [set(cells)], minimum, free=free)
    values = [_known(pd.concat([judged[part], left_out[part]])) for part in parts]
    places = {" x ".join(pair): pair for pair in product(*values)}
    cells = dict.fromkeys(places, Cell(0, 0)) | cells
    lines = [set(cells)]
    forced: set[str] = set()
    for number, part in enumerate(parts):
        gone = hidden_groups(judged, left_out, part, minimum, free)
        lines += [
            {n for n, pair in places.items() if pair[number] == value} for value in values[number] if value not in gone
        ]
        forced |= {n for n, pair in places.items() if pair[number] in gone}
        if set(gone) & set(NOT_KNOWN) - set(free):
            forced |= {UNKNOWN} & set(cells)
    return hidden_cells(cells, lines, minimum, frozenset(forced), free)


def _known(values: pd.Series) -> Sequence[str]:
    return sorted(set(values.astype(str)) - set(NOT_KNOWN))


def _cells(judged: pd.DataFrame, left_out: pd.DataFrame, attribute: str) -> dict[str, Cell]:
    """Each group's head counts."""
    inside, outside = (with_group(rows, attribute)[["patient_id", "label", "group"]] for rows in (judged, left_out))
    everybody = pd.concat([inside, outside]).groupby("group")["patient_id"].nunique()
    people = inside.groupby("group")["patient_id"].nunique()
    sick, well = (inside.loc[inside["label"] == label, "group"].value_counts() for label in (1, 0))
    return {
        str(name): Cell(count, *(int(of.get(name, 0)) for of in (people, sick, well)))
        for name, count in everybody.items()
    }
