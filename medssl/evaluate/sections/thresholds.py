"""Where a gap in sensitivity comes from: groups at one threshold, and at thresholds of their own with equal false alarms.

A diagnosis of the model, never a proposal: at thresholds of their own, people with equal scores are treated by their group.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from medssl.evaluate.groups import with_group
from medssl.evaluate.intervals import quantile, share_interval
from medssl.evaluate.metrics import measure_share
from medssl.evaluate.predictions import NOT_KNOWN
from medssl.evaluate.sections.judged import Judged, patients_of

FEWEST_NEGATIVES = 20
"""Validation patients of a group without the finding below which it gets no threshold: fewer cannot tell a share of false
alarms of one in ten from none."""

CAVEAT = (
    "A diagnostic, not a proposal. Thresholds that depend on sex, race or age answer equal scores differently by who the "
    "patient is. That may be unlawful, fails whoever is in no recorded group, and hides the cause: scores that are shifted "
    "in a group (scanner, disease spectrum, labels), which is to be found and mended instead."
)

Rate = dict[str, float]


def thresholds(judged: Judged) -> dict[str, Any] | None:
    """Sensitivity and false alarms by group at the global threshold, and at one of the group's own at which as many of its
    validation negatives are flagged as the global threshold flags of all; None for a segmentation, without a threshold, and
    where no group gets one.

    A gap in sensitivity that is gone at equal false alarms is of where the threshold cuts the scores; one that stays is of
    how they rank (Bernhardt, Jones and Glocker, Nature Medicine 2022). Gaps are of a group less the rest, each at their own
    group's threshold. Their intervals are each for itself and take thresholds as given: how far these would move on other
    validation rows is not in them, which is why `n_negatives` stands beside.
    """
    value = judged.threshold.value
    if judged.segmentation or value is None:
        return None
    validation = judged.validation[judged.validation["label"].notna() & judged.validation["score"].notna()]
    target = float((validation.loc[validation["label"] == 0, "score"] >= value).mean())
    own = {name: _matched(validation, name, target) for name in judged.attributes}
    rows = []
    for attribute, group, inside, reason in judged.groups():
        row: dict[str, Any] = {
            "attribute": attribute, "group": group, "reason": reason, "threshold": None, "n_negatives": None,
            "at_global": None, "at_own": None, "gap_global": None, "gap_own": None,
        }  # fmt: skip
        rows.append(row)
        if reason:
            continue
        row["at_global"] = _rates(inside, np.full(len(inside), value))
        if not attribute:
            continue
        cut, negatives = own[attribute].get(group, (None, 0))
        if cut is None:
            row["reason"] = (
                "not recorded"
                if group in NOT_KNOWN
                else f"fewer than {FEWEST_NEGATIVES} validation patients without it"
            )
            continue
        row |= {"threshold": cut, "n_negatives": negatives, "at_own": _rates(inside, np.full(len(inside), cut))}
        row |= _gaps(judged.rows, attribute, group, value, {name: one for name, (one, _) in own[attribute].items()})
    if not any(row["at_own"] for row in rows):
        return None
    return {"threshold": value, "false_alarms": target, "caveat": CAVEAT, "rows": rows}


def _matched(validation: pd.DataFrame, attribute: str, target: float) -> dict[str, tuple[float, int]]:
    """The threshold of each group that has one, and how many validation patients without the finding it was fixed on."""
    if validation.empty:
        return {}
    grouped = with_group(validation, attribute)
    well = grouped[(grouped["label"] == 0) & ~grouped["group"].isin(NOT_KNOWN)]
    counts = well.groupby("group")["patient_id"].nunique()
    return {
        str(name): (threshold_at(inside["score"].to_numpy(float), target), int(counts[name]))
        for name, inside in well.groupby("group")
        if counts[name] >= FEWEST_NEGATIVES
    }


def threshold_at(scores: np.ndarray, share: float) -> float:
    """The threshold that flags as near as can be to `share` of scores (N,), of two as near the one that flags fewer; half
    way between two scores, above the highest one where none is flagged.
    """
    levels = np.unique(scores)
    cuts = np.append((levels + np.append(levels[0], levels[:-1])) / 2, (levels[-1] + max(levels[-1], 1.0)) / 2)
    if levels[-1] >= 1:
        cuts[-1] = np.nextafter(1.0, 2.0)
    flagged = np.array([(scores >= cut).mean() for cut in cuts])
    far = np.abs(flagged - share)
    return float(cuts[np.flatnonzero(far <= far.min() + 1e-12)[-1]])


def _rates(rows: pd.DataFrame, cuts: np.ndarray) -> dict[str, Rate | None]:
    """Sensitivity and the share of false alarms at a threshold for each row; None of fewer than two patients."""
    found: dict[str, Rate | None] = {}
    flagged = (rows["score"] >= cuts).to_numpy(float)
    for name, label in (("sensitivity", 1), ("false_alarms", 0)):
        kept = (rows["label"] == label).to_numpy()
        codes, people = patients_of(rows[kept])
        if people < 2:
            found[name] = None
            continue
        measured = measure_share(flagged[kept], codes, people)
        low, high, _ = share_interval(measured, int(kept.sum()), people)
        found[name] = {"value": measured.value, "low": low, "high": high}
    return found


def _gaps(
    rows: pd.DataFrame, attribute: str, group: str, threshold: float, own: dict[str, float]
) -> dict[str, dict[str, float | None] | None]:
    """The difference in sensitivity of a group and the rest, of those in groups that have a threshold of their own: at the
    global threshold and at these.
    """
    sick = with_group(rows, attribute)
    sick = sick[(sick["label"] == 1) & sick["group"].isin(list(own))]
    cuts = {"gap_global": np.full(len(sick), threshold), "gap_own": sick["group"].map(own).to_numpy(float)}
    inside = (sick["group"] == group).to_numpy()
    codes, people = patients_of(sick)
    sides = [len(np.unique(codes[some])) for some in (inside, ~inside)]
    if min(sides) < 2:
        return {"gap_global": None, "gap_own": None}
    found: dict[str, dict[str, float | None] | None] = {}
    for name, cut in cuts.items():
        flagged = (sick["score"] >= cut).to_numpy(float)
        a, b = (measure_share(flagged[some], codes[some], people) for some in (inside, ~inside))
        half = quantile(0.95, min(sides) - 1) * float(np.sqrt(np.square(a.influence - b.influence).sum()))
        middle = a.value - b.value
        sure = a.error > 0 and b.error > 0  # at 0 or 1 the error is none that could be used
        low, high = (max(middle - half, -1.0), min(middle + half, 1.0)) if sure else (None, None)
        found[name] = {"value": middle, "low": low, "high": high}
    return found
