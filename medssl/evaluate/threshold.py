"""Thresholds are fixed on validation data before the test set is opened, and say where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

FEWEST_OF_A_CLASS = 5
"""Validation rows of each class below which no threshold is chosen."""


@dataclass(frozen=True)
class Threshold:
    """A score from which the answer is yes, and its provenance; `value` is None where none could be fixed."""

    value: float | None
    provenance: str


def fix_threshold(validation: pd.DataFrame, digest: str) -> Threshold:
    """The threshold with the largest sensitivity plus specificity (Youden) on validation rows.

    The lowest of several equal ones, set half way to the next lower score. None without enough rows of both classes:
    choosing it on the rows that are judged would flatter the model.
    """
    rows = validation[validation["label"].notna() & validation["score"].notna()]
    truth, score = rows["label"].to_numpy(float), rows["score"].to_numpy(float)
    positives, negatives = int((truth == 1).sum()), int((truth == 0).sum())
    if min(positives, negatives) < FEWEST_OF_A_CLASS:
        return Threshold(None, f"not fixed: the validation rows hold {positives} positives and {negatives} negatives")
    scores = np.unique(score)
    youden = [(score[truth == 1] >= s).mean() - (score[truth == 0] >= s).mean() for s in scores]
    best = int(np.argmax(youden))
    value = float(scores[best] if best == 0 else (scores[best] + scores[best - 1]) / 2)
    patients = rows["patient_id"].nunique()
    return Threshold(
        value,
        f"{value:.3f}, largest sensitivity + specificity on {len(rows)} validation rows of {patients} patients "
        f"({positives} positive) of table {digest}",
    )
