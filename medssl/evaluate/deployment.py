"""What a flag means where the finding is as common as it will be in use, not as in the cohort that was judged."""

from __future__ import annotations

import math

import numpy as np

from medssl.errors import UserError
from medssl.evaluate.intervals import expit, logit, quantile
from medssl.evaluate.metrics import Measured, measure_share


def check_prevalence(prevalence: float | None) -> None:
    """Nothing; raises UserError for a share that nobody could have."""
    if prevalence is not None and not 0 < prevalence < 1:
        raise UserError(f"prevalence {prevalence}: not between 0 and 1; give the share of images with it, such as 0.02")


def predictive_value(
    sick: np.ndarray,
    flagged: np.ndarray,
    patient: np.ndarray,
    prevalence: float,
    *,
    positive: bool,
    level: float = 0.95,
) -> dict[str, float] | None:
    """PPV (`positive`) or NPV with its interval where a share `prevalence` has it, by Bayes; `patient` (N,) are numbers.

    Sensitivity and specificity are taken to be the same there. The interval is Student's on the log odds, from what each
    patient moves both by; None where a class has fewer than two patients, or one of both rates is at 0 or 1.
    """
    patients = int(patient.max()) + 1 if patient.size else 0
    yes, no = (_rate(kept, flagged, patient, patients) for kept in (sick, ~sick))
    if yes is None or no is None:
        return None
    if not positive:  # the same question of those who are not flagged, with the classes changed
        yes, no, prevalence = _not(no), _not(yes), 1 - prevalence
    odds = logit(prevalence) + math.log(yes.value) - math.log(no.value)
    error = float(np.sqrt(np.square(yes.influence / yes.value - no.influence / no.value).sum()))
    half = quantile(level, min(yes.freedom, no.freedom)) * error
    return {"value": expit(odds), "low": expit(odds - half), "high": expit(odds + half)}


def _rate(kept: np.ndarray, flagged: np.ndarray, patient: np.ndarray, patients: int) -> Measured | None:
    """The share of the kept rows that is flagged."""
    measured = measure_share(flagged[kept].astype(float), patient[kept], patients)
    return measured if measured.freedom >= 1 and 0 < measured.value < 1 else None


def _not(rate: Measured) -> Measured:
    return Measured(1 - rate.value, -rate.influence, rate.freedom, rate.scale)
