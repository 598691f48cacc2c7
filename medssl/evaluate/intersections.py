"""Cells of two attributes, and how much of what sets a small one apart is noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from medssl.evaluate.intervals import quantile


@dataclass(frozen=True, eq=False)
class Shrunken:
    """Values (M,) moved toward what two attributes add up to, their 95 % ends (M,), and the deviation of cells around it."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    deviation: float


def shrink_to_additive(
    *, value: np.ndarray, error: np.ndarray, first: np.ndarray, second: np.ndarray
) -> Shrunken | None:
    """Each cell's value (M,) moved toward the sum of an effect of its `first` and one of its `second` attribute (numbers,
    (M,)), by as much of its distance as is noise of standard error `error` (M,).

    Empirical Bayes for a normal value of known error: Fay and Herriot, JASA 1979; the variance between cells by the method
    of moments of meta-regression (Thompson and Sharp, Statistics in Medicine 1999), 0 where it would be below. The ends
    count that effects and variance are estimated (Prasad and Rao, JASA 1990) and are no wider than those of the cell alone.
    None where there are no more cells than effects: then the sum fits any values and says nothing.
    """
    design = np.concatenate([first[:, None] == np.unique(first), second[:, None] == np.unique(second)], axis=1).astype(
        float
    )
    rank = int(np.linalg.matrix_rank(design))
    free = len(value) - rank
    if free < 1:
        return None
    weight = 1 / np.square(error)
    inverse = np.linalg.pinv(design.T * weight @ design)
    rest = value - design @ (inverse @ (design.T @ (weight * value)))
    scale = weight.sum() - np.trace(inverse @ (design.T * weight**2 @ design))
    variance = max(float((weight * rest**2).sum() - free) / float(scale), 0.0)
    total = variance + np.square(error)
    inverse = np.linalg.pinv(design.T / total @ design)
    middle = design @ (inverse @ (design.T @ (value / total)))
    own = variance / total
    fitted = np.einsum("mk,kl,ml->m", design, inverse, design)
    unsure = np.square(error) ** 2 / total**3 * 2 * len(value) / (1 / total).sum() ** 2
    spread = np.minimum(own * np.square(error) + (1 - own) ** 2 * fitted + 2 * unsure, np.square(error))
    found = middle + own * (value - middle)
    half = quantile(0.95, math.inf) * np.sqrt(spread)
    return Shrunken(found, found - half, found + half, math.sqrt(variance))
