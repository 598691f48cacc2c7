"""A visual field (Humphrey 24-2) as a picture: a rectangle for each point at its place, blank where there is none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

POINTS = 52
"""Points of the field without the two in the blind spot."""

SHAPE = (8, 9)
ROWS = (
    range(3, 7), range(2, 8), range(1, 9), (*range(7), 8), (*range(7), 8), range(1, 9), range(2, 8), range(3, 7),
)  # fmt: skip
"""Columns of the points of each row, as for a right eye: the blind spot is the gap in column 7."""


def field_picture(deviations: Sequence[float] | np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A picture (rows, columns) of the 52 deviations, row by row, in dB; nan where there is no point.

    A point's rectangle has as many pixels as make 8 rows and 9 columns fill the picture; the last are cut.
    """
    cells = np.full(SHAPE, np.nan, np.float32)
    cells[np.repeat(range(len(ROWS)), [len(row) for row in ROWS]), np.concatenate(ROWS)] = deviations
    rows, columns = (np.arange(n) // -(-n // many) for n, many in zip(shape, SHAPE, strict=True))
    return cells[np.ix_(rows, columns)]
