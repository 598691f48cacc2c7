"""Temperature scaling: one number, fixed on validation rows, by which scores become as sure as they should be.

Guo et al., ICML 2017, arXiv:1706.04599. Nobody is ranked the other way round; scores very near to 0 or 1 may become equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medssl.errors import UserError
from medssl.evaluate.predictions import by_task
from medssl.evaluate.threshold import FEWEST_OF_A_CLASS

if TYPE_CHECKING:
    import pandas as pd

SURE = 1e-6
"""Scores nearer to 0 or 1 count as this far from it: their logits have no end."""

COLDEST, HOTTEST = 0.05, 20.0
"""Temperatures beyond which nobody would believe them."""


@dataclass(frozen=True)
class Temperature:
    """By how much logits are divided: above 1 scores were too sure. With where it comes from."""

    value: float
    provenance: str

    def of(self, score: np.ndarray) -> np.ndarray:
        """The scores (N,) at this temperature; nan stays nan."""
        return 1 / (1 + np.exp(-logit(score) / self.value))


def logit(score: np.ndarray) -> np.ndarray:
    """ln(p / (1 - p)) of scores, none of them surer than `SURE`."""
    bounded = np.clip(score, SURE, 1 - SURE)
    return np.log(bounded / (1 - bounded))


def log_loss(truth: np.ndarray, logits: np.ndarray) -> float:
    """The mean cross-entropy of labels (N,) and logits (N,), without overflow."""
    return float((np.logaddexp(0, logits) - truth * logits).mean())


def fit_temperature(table: pd.DataFrame, digest: str) -> Temperature:
    """The temperature at which the validation rows (split val) have the lowest cross-entropy.

    Raises UserError when there are too few of a class: whoever judges rows may not fit them.
    """
    from scipy.optimize import minimize_scalar

    rows = table[(table["split"] == "val") & table["label"].notna() & table["score"].notna()]
    truth, logits = rows["label"].to_numpy(float), logit(rows["score"].to_numpy(float))
    positives, negatives = int((truth == 1).sum()), int((truth == 0).sum())
    if min(positives, negatives) < FEWEST_OF_A_CLASS:
        raise UserError(
            f"split val: {positives} positives and {negatives} negatives with a score; a temperature needs "
            f"{FEWEST_OF_A_CLASS} of each: predict the validation split as well"
        )
    found = minimize_scalar(
        lambda power: log_loss(truth, logits / np.exp(power)), bounds=np.log([COLDEST, HOTTEST]), method="bounded",
        options={"xatol": 1e-6},
    )  # fmt: skip
    value = float(np.exp(found.x))
    if not 1.01 * COLDEST < value < HOTTEST / 1.01:
        raise UserError(
            f"split val: no temperature from {COLDEST:g} to {HOTTEST:g} is best (the scores separate the classes without an "
            "error, or say nothing); predict more validation rows"
        )
    return Temperature(
        value,
        f"{value:.3f}: lowest cross-entropy ({log_loss(truth, logits):.3f} before, {found.fun:.3f} after) of {len(rows)} "
        f"validation rows of {rows['patient_id'].nunique()} patients of table {digest}",
    )


def calibrated(table: pd.DataFrame, digest: str) -> pd.DataFrame:
    """The table with scores at the temperature of their task, what they were as `score_before`, and as `calibration` where
    the temperature comes from.

    Of several tasks, the scores of one without a temperature stay as they are, and `calibration` says "none" and why.
    Raises UserError when there is no temperature at all.
    """
    table = table.reset_index(drop=True).assign(score_before=table["score"].to_numpy(), calibration="")
    tasks, errors = by_task(table), list[UserError]()
    for rows in tasks.values():
        try:
            found = fit_temperature(rows, digest)
        except UserError as error:
            errors.append(error)
            table.loc[rows.index, "calibration"] = f"none: {error}"
            continue
        table.loc[rows.index, "score"] = found.of(rows["score"].to_numpy(float))
        table.loc[rows.index, "calibration"] = found.provenance
    if len(errors) == len(tasks):
        raise errors[0]
    return table
