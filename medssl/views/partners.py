"""Which volumes are another look at the same patient: another visit, or the other eye."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from medssl.errors import UserError

Kind = Literal["none", "visit", "eye"]

OTHER = {"L": "R", "R": "L"}


def partners(rows: pd.DataFrame, kind: Kind) -> list[np.ndarray]:
    """For each row the numbers of its partners, empty where it has none: of the same patient, modality, role and scanner,
    which a batch tells once for all views of a scan, and with "visit" of another study and the same side, with "eye" of the
    other side.

    Raises UserError when no row has a partner.
    """
    if kind == "none":
        return [np.empty(0, dtype=int)] * len(rows)
    alike = [name for name in ("patient_pid", "modality", "role", "scanner") if name in rows]
    members = rows.reset_index(drop=True).groupby(alike, dropna=False, sort=False).indices
    found = [np.empty(0, dtype=int)] * len(rows)
    side, study = rows["laterality"].tolist(), rows["study_pid"].tolist()
    for numbers in members.values():
        for row in numbers:
            if kind == "eye":
                mates = [n for n in numbers if side[n] == OTHER.get(side[row])]
            else:
                mates = [n for n in numbers if study[n] != study[row] and side[n] == side[row]]
            found[row] = np.array(mates, dtype=int)
    if not any(map(len, found)):
        raise UserError(
            f"views.partner: {kind}, but no patient has two {'visits' if kind == 'visit' else 'eyes of known side'} on one "
            f"scanner among {len(rows)} volumes; set it to none"
        )
    return found


def mirrored(place: np.ndarray, affine: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    """The view's matrix with left and right exchanged in the view: the other eye then looks like this one."""
    axis = int(np.abs(affine[0, :3]).argmax())
    flip = np.eye(4)
    flip[axis, axis], flip[axis, 3] = -1, grid[axis] - 1
    return place @ flip
