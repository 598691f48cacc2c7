"""Means of groups as if all had the same of something, by a linear model with the patient as the unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Estimate = tuple[float, float]
"""A value and its standard error."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A linear model: coefficients (K,) and their covariance over patients (K, K)."""

    coefficients: np.ndarray
    covariance: np.ndarray

    def of(self, contrast: np.ndarray) -> Estimate:
        """A weighted sum of the coefficients, and its standard error."""
        return float(contrast @ self.coefficients), float(np.sqrt(max(contrast @ self.covariance @ contrast, 0.0)))


def fit(design: np.ndarray, values: np.ndarray, patient: np.ndarray) -> Fitted | None:
    """Least squares of `values` (N,) on `design` (N, K), rows of a patient (N,) together; None where the design does not
    tell the coefficients apart, and of fewer than two patients.

    The covariance is the cluster-robust one with the usual correction for few clusters, G / (G - 1) (N - 1) / (N - K)
    (Liang and Zeger, Biometrika 1986; CR1).
    """
    rows, wide = design.shape
    people, codes = np.unique(patient, return_inverse=True)
    if rows <= wide or len(people) < 2 or np.linalg.matrix_rank(design) < wide:
        return None
    bread = np.linalg.inv(design.T @ design)
    coefficients = bread @ (design.T @ values)
    scores = np.zeros((len(people), wide))
    np.add.at(scores, codes, design * (values - design @ coefficients)[:, None])
    few = len(people) / (len(people) - 1) * (rows - 1) / (rows - wide)
    return Fitted(coefficients, few * bread @ (scores.T @ scores) @ bread)
