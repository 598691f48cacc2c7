"""Further labels of a store's volumes, told by a table that lies elsewhere, such as clusters that a trunk makes of them."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from medssl.errors import UserError
from medssl.manifest.sheets import read_cells

KEY, LABEL = "volume_id", "label:"


def read_labels(path: Path) -> pd.DataFrame:
    """A row (volume_id, name, value, source) for each label of each volume, as a store has them, of a CSV file with a column
    volume_id and others called label:NAME. What else it has is not read; an empty cell is an unknown label.

    Raises UserError for a file that is not there, or has no such columns, two rows of one volume, or what is no number.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no such table of labels; clusters are written by `medssl probe RUN --store STORE --clusters 8`"
        )
    heading, cells = read_cells(path)
    names = [name for name in heading if name.startswith(LABEL)]
    if KEY not in heading or not names:
        raise UserError(f"{path}: needs a column volume_id and one or more label:NAME; it has: {', '.join(heading)}")
    rows = []
    places: dict[str, int] = {}
    for number, row in cells.items():
        if row[KEY] in places:
            raise UserError(f"{path}: rows {places[row[KEY]]} and {number} are of one volume; keep one")
        places[row[KEY]] = number
        for name in names:
            if row[name]:
                label = name.removeprefix(LABEL)
                rows.append((row[KEY], label, _number(row[name], f"{path}: row {number}: {name}"), path.name))
    return pd.DataFrame(rows, columns=[KEY, "name", "value", "source"]).astype({"value": float})


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: {text!r} is no number; number the values, and leave unknown ones empty")
    return value
