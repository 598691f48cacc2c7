"""Which volumes are another look at the same patient: another visit, the same place on another day, or the other eye."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from medssl.errors import UserError

Kind = Literal["none", "visit", "follow_up", "eye"]

OTHER = {"L": "R", "R": "L"}


def partners(rows: pd.DataFrame, kind: Kind) -> list[np.ndarray]:
    """For each row the numbers of its partners, empty where it has none: of the same patient, modality, role and scanner,
    which a batch tells once for all views of a scan.

    With "visit" they are of the same side and another study, or another day where either study is unknown; without both, as
    in files with neither UIDs nor dates, two volumes are of one visit. With "follow_up" they are of the same side, and both
    days are known and differ. With "eye" they are of the other side and the same day, or the same study where either day is
    unknown; without both, of any visit. The day goes first there, because the two eyes of one day may be a study each.
    Raises UserError when no row has a partner.
    """
    if kind == "none":
        return [np.empty(0, dtype=int)] * len(rows)
    alike = [name for name in ("patient_pid", "modality", "role", "scanner") if name in rows]
    members = rows.reset_index(drop=True).groupby(alike, dropna=False, sort=False).indices
    found = [np.empty(0, dtype=int)] * len(rows)
    side, study = rows["laterality"].to_numpy(object), rows["study_pid"].to_numpy(object)
    day = days_of(rows)
    for numbers in members.values():
        for row in numbers:
            sides, studies, days = side[numbers], study[numbers], day[numbers]
            by_study = (studies != "") & (study[row] != "")
            by_day = np.isfinite(days - day[row])
            other_study, other_day = by_study & (studies != study[row]), by_day & (days != day[row])
            if kind == "eye":
                mates = (sides == OTHER.get(side[row])) & ~np.where(by_day, other_day, other_study)
            elif kind == "follow_up":
                mates = (sides == side[row]) & other_day
            else:
                mates = (sides == side[row]) & np.where(by_study, other_study, other_day)
            found[row] = numbers[mates]
    if not any(map(len, found)):
        lacks = {
            "visit": "two visits, told by study or by day (study_date in the data card),",
            "follow_up": "visits on two known days (study_date in the data card)",
            "eye": "two eyes of known side at one visit",
        }
        raise UserError(
            f"views.partner: {kind}, but no patient has {lacks[kind]} on one scanner among {len(rows)} volumes; set it to "
            "none"
        )
    return found


def days_of(rows: pd.DataFrame) -> np.ndarray:
    """How many days after its patient's first study each volume was taken (N,); nan where that is unknown."""
    if "days_since_first" not in rows:
        return np.full(len(rows), np.nan)
    return rows["days_since_first"].to_numpy(np.float64)


def mirrored(place: np.ndarray, affine: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    """The view's matrix with left and right exchanged in the view: the other eye then looks like this one."""
    axis = int(np.abs(affine[0, :3]).argmax())
    flip = np.eye(4)
    flip[axis, axis], flip[axis, 3] = -1, grid[axis] - 1
    return place @ flip
