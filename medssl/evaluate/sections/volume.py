"""Whether a group's outlines are worse, or its organs smaller: Dice for the reference's volume, and errors of volume."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from medssl.evaluate.adjusting import Estimate, fit
from medssl.evaluate.groups import ordered, with_group
from medssl.evaluate.intervals import mean_interval, quantile
from medssl.evaluate.metrics import patient_means
from medssl.evaluate.outlines import VOLUME, VOLUME_ERROR
from medssl.evaluate.predictions import NOT_KNOWN
from medssl.evaluate.sections.judged import Judged, patients_of, reasons

NOTHING = {
    "n_patients": None, "volume": None, "crude": None, "adjusted": None, "difference": None, "error": None, "distance": None,
}  # fmt: skip


def volume(judged: Judged) -> dict[str, Any] | None:
    """For each structure with a column of its volume: of everybody and each group the volume, mean Dice as it is and at the
    same volume, and the errors of volume; None where no table tells volumes.

    Dice of small structures is lower by geometry: a boundary that is off by a voxel costs them more. So Dice is adjusted by
    a line in the logarithm of the reference's volume, with the same slope in all groups, to the mean of all rows. Rows count
    alike, with errors over patients. A structure that was missed is 0, like everywhere; an invented one has no volume.
    """
    if not judged.segmentation:
        return None
    names = [str(column)[len(VOLUME) :] for column in judged.rows.columns if str(column).startswith(VOLUME)]
    told = [_structure(judged, name) for name in names if f"dice_{name}" in judged.rows]
    return {"structures": told} if told else None


def _structure(judged: Judged, name: str) -> dict[str, Any]:
    scored = judged.rows[judged.rows[f"dice_{name}"].notna() & judged.rows[VOLUME + name].notna()]
    there = scored[scored[VOLUME + name] > 0]
    there = there.assign(size=np.log2(there[VOLUME + name]), dice=there[f"dice_{name}"])
    rows, slope, reason = [], None, ""
    for attribute, group, inside, why in judged.groups():
        row: dict[str, Any] = {"structure": name, "attribute": attribute, "group": group, "reason": why, **NOTHING}
        if not why:
            row |= _described(
                inside, there[there["sample_id"].isin(inside["sample_id"])], name, judged.minimum_patients
            )
        rows.append(row)
    codes, _ = patients_of(there)
    centred = there["size"].to_numpy() - (there["size"].mean() if len(there) else 0.0)
    whole = fit(np.column_stack([np.ones(len(there)), centred]), there["dice"].to_numpy(float), codes)
    if whole is None:
        reason = "too few volumes, or all alike"
    else:
        slope = _ends(whole.of(np.array([0.0, 1.0])), len(np.unique(codes)) - 1)
        for attribute in judged.attributes:
            for place, more in _adjusted(judged, there, attribute).items():
                row = next(row for row in rows if (row["attribute"], row["group"]) == (attribute, place))
                row |= more if not row["reason"] else {}
    return {"structure": name, "slope": slope, "reason": reason, "absent": len(scored) - len(there), "rows": rows}


def _described(inside: pd.DataFrame, there: pd.DataFrame, name: str, minimum: int) -> dict[str, Any]:
    """Volume, mean Dice and errors of volume of a group's rows, `there` those with a volume; the reason if few."""
    codes, patients = patients_of(there)
    if patients < minimum:
        return {"reason": f"fewer than {minimum} patients with this structure"}
    told: dict[str, Any] = {"n_patients": patients}
    sizes = _mean(there["size"].to_numpy(float), codes)
    told["volume"] = {key: None if value is None else 2.0**value for key, value in sizes.items()}
    one = fit(np.ones((len(there), 1)), there["dice"].to_numpy(float), codes)
    told["crude"] = None if one is None else _ends(one.of(np.ones(1)), patients - 1)
    if VOLUME_ERROR + name in inside:
        known = inside[inside[VOLUME_ERROR + name].notna()]
        codes, patients = patients_of(known)
        off = known[VOLUME_ERROR + name].to_numpy(float)
        if patients >= minimum:
            told |= {"error": _mean(off, codes), "distance": _mean(np.abs(off), codes)}
    return told


def _adjusted(judged: Judged, there: pd.DataFrame, attribute: str) -> dict[str, dict[str, Any]]:
    """Of each group that is shown its mean Dice at the mean volume of these, and how far that is from the others'."""
    shown = [group for group, reason in reasons(judged, attribute).items() if not reason]
    rows = with_group(there, attribute)
    people = rows.groupby("group")["patient_id"].nunique()
    rows = rows[rows["group"].isin(people.index[people >= judged.minimum_patients].intersection(shown))]
    names = ordered(rows["group"])
    if len([name for name in names if name not in NOT_KNOWN]) < 2:
        return {}
    dummies = np.column_stack([(rows["group"] == name).to_numpy(float) for name in names])
    centred = rows["size"].to_numpy() - rows["size"].mean()
    codes, _ = patients_of(rows)
    model = fit(np.column_stack([dummies, centred]), rows["dice"].to_numpy(float), codes)
    if model is None:
        return {}
    share = np.append(dummies.sum(0), 0.0)
    known = np.array([name not in NOT_KNOWN for name in names] + [False])
    found: dict[str, dict[str, Any]] = {}
    for place, name in enumerate(names):
        own = np.eye(len(share))[place]
        found[name] = {"adjusted": _ends(model.of(own), int(people[name]) - 1)}
        if name not in NOT_KNOWN:
            others = np.where(known & (own == 0), share, 0.0)
            rest = rows[(rows["group"] != name) & ~rows["group"].isin(NOT_KNOWN)]["patient_id"].nunique()
            freedom = min(int(people[name]), rest) - 1
            found[name]["difference"] = _ends(model.of(own - others / others.sum()), freedom, int(known.sum()))
    return found


def _ends(one: Estimate, freedom: int, together: int = 1) -> dict[str, float]:
    """A value with its 95 % interval, Student's t; that of several together by Bonferroni's correction. Two groups have one
    difference.
    """
    value, error = one
    half = quantile(1 - 0.05 / (1 if together == 2 else together), freedom) * error
    return {"value": value, "low": value - half, "high": value + half}


def _mean(values: np.ndarray, codes: np.ndarray) -> dict[str, float | None]:
    """The mean over patients with its interval."""
    each = patient_means(values, codes)
    low, high, _ = mean_interval(each)
    known = not math.isnan(low)
    return {"value": float(each.mean()), "low": low if known else None, "high": high if known else None}
