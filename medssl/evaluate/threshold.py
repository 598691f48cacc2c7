"""Thresholds are fixed on validation data before the test set is opened, and say where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medssl.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

FEWEST_OF_A_CLASS = 5
"""Validation rows of each class below which no threshold is chosen."""


@dataclass(frozen=True)
class Threshold:
    """A score from which the answer is yes, and its provenance; `value` is None where none could be fixed.

    `source`: "validation", "given" (fixed elsewhere) or "judged" (explored: no evaluation).
    """

    value: float | None
    provenance: str
    source: str = "validation"


def fix_threshold(validation: pd.DataFrame, digest: str, *, target_sensitivity: float | None = None) -> Threshold:
    """The threshold that validation rows give: the largest sensitivity plus specificity (Youden), or the highest score
    that still finds `target_sensitivity` of the positives.

    It lies half way to the next lower score. None without enough rows of both classes: choosing it on the rows that are
    judged would flatter the model.
    """
    if target_sensitivity is not None and not 0 < target_sensitivity <= 1:
        raise UserError(f"target sensitivity {target_sensitivity}: not above 0 and at most 1; 0.9 is usual")
    rows = validation[validation["label"].notna() & validation["score"].notna()]
    truth, score = rows["label"].to_numpy(float), rows["score"].to_numpy(float)
    positives, negatives = int((truth == 1).sum()), int((truth == 0).sum())
    if min(positives, negatives) < FEWEST_OF_A_CLASS:
        return Threshold(None, f"not fixed: the validation rows hold {positives} positives and {negatives} negatives")
    scores = np.unique(score)
    if len(scores) == 1:
        return Threshold(None, f"not fixed: all scores of the validation rows are {scores[0]:g}")
    found = np.array([(score[truth == 1] >= s).mean() for s in scores])
    if target_sensitivity is None:
        # The lowest of several equal ones.
        best = int(np.argmax(found - [(score[truth == 0] >= s).mean() for s in scores]))
        rule = "largest sensitivity + specificity"
    else:
        best = int(np.flatnonzero(found >= target_sensitivity)[-1])
        rule = f"sensitivity of at least {target_sensitivity:.2f}"
    value = float(scores[best] if best == 0 else (scores[best] + scores[best - 1]) / 2)
    patients = rows["patient_id"].nunique()
    return Threshold(
        value,
        f"{value:.3f}, {rule} on {len(rows)} validation rows of {patients} patients "
        f"({positives} positive) of table {digest}",
    )


def threshold_for(
    table: pd.DataFrame, split: str, digest: str, *, target_sensitivity: float | None = None, explore: bool = False
) -> Threshold:
    """The threshold for judging `split` of a table; None, with the reason, when that would choose it on what it judges.

    With `explore` it is chosen on the judged rows, and says so: the numbers at it are no evaluation.
    """
    if explore:
        found = fix_threshold(table[table["split"] == split], digest, target_sensitivity=target_sensitivity)
        told = found.provenance.replace("validation rows", "judged rows")
        return Threshold(found.value, f"explored, {told}: it flatters the model", "judged")
    if split == "val":
        return Threshold(None, "not fixed: the validation rows themselves are judged")
    validation = table[table["split"] == "val"]
    if validation.empty:
        return Threshold(None, "not fixed: the table has no validation rows (split val)")
    return fix_threshold(validation, digest, target_sensitivity=target_sensitivity)
