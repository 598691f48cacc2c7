"""What happens at the threshold: whom the model finds, misses and flags, by group."""

from __future__ import annotations

from typing import Any

import numpy as np

from medssl.evaluate.deployment import predictive_value
from medssl.evaluate.intervals import share_interval
from medssl.evaluate.metrics import measure_share
from medssl.evaluate.sections.judged import Judged, patients_of

RATES = {
    "sensitivity": ("positive", True),
    "specificity": ("negative", False),
    "ppv": ("flagged", True),
    "npv": ("not flagged", False),
    "flagged": ("all", True),
}
"""Rate -> of which rows it is a share, and whether it is the share of those flagged (of ppv and npv: rightly answered)."""


def operating(judged: Judged) -> dict[str, Any] | None:
    """Counts and rates at the threshold for everybody and each group, with Wilson intervals over patients; None for a
    segmentation, and where no threshold was fixed.

    ppv and npv are those of this cohort: they move with prevalence, so that a difference between groups is no error of the
    model by itself. A rate whose rows are of fewer than two patients is None. `deployment` has both at the prevalence that
    was declared of the place of use, the same for every group.
    """
    if judged.segmentation or judged.threshold.value is None:
        return None
    rows = []
    for attribute, group, inside, reason in judged.groups():
        row: dict[str, Any] = {"attribute": attribute, "group": group, "reason": reason, "counts": None, "rates": {},
                               "deployment": {}}  # fmt: skip
        if not reason:
            sick, flagged = (inside["label"] == 1).to_numpy(), (inside["score"] >= judged.threshold.value).to_numpy()
            row["counts"] = {
                "found": int((sick & flagged).sum()), "missed": int((sick & ~flagged).sum()),
                "false_alarms": int((~sick & flagged).sum()), "spared": int((~sick & ~flagged).sum()),
            }  # fmt: skip
            codes, _ = patients_of(inside)
            row["rates"] = {name: _rate(name, sick, flagged, codes) for name in RATES}
            if judged.prevalence is not None:
                row["deployment"] = {
                    name: predictive_value(sick, flagged, codes, judged.prevalence, positive=name == "ppv")
                    for name in ("ppv", "npv")
                }
        rows.append(row)
    return {"threshold": judged.threshold.value, "prevalence": judged.prevalence, "rows": rows}


def _rate(name: str, sick: np.ndarray, flagged: np.ndarray, codes: np.ndarray) -> dict[str, float] | None:
    """A share with its interval; None where too few patients could be counted."""
    of, yes = RATES[name]
    kept = {"positive": sick, "negative": ~sick, "flagged": flagged, "not flagged": ~flagged, "all": sick | ~sick}[of]
    people, codes = np.unique(codes[kept], return_inverse=True)
    if len(people) < 2:
        return None
    answer = sick if name in ("ppv", "npv") else flagged
    measured = measure_share((answer[kept] == yes).astype(float), codes, len(people))
    low, high, _ = share_interval(measured, int(kept.sum()), len(people))
    return {"value": measured.value, "low": low, "high": high}
