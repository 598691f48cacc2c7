"""Lesion candidates: from a map of probabilities to a few connected regions, each with one confidence.

The organisers' way for PI-CAI (Bosma et al., Radiology: AI 2023, whose report_guided_annotation 0.3.4 the tests compare
with). Differs: where only specks exceed a threshold they are wiped away and the search goes on; its "dynamic" stops there
and loses what lies below (its "dynamic-v2" does not).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.ndimage import binary_dilation, find_objects, label

from medssl.errors import UserError
from medssl.evaluate.detection import TOUCHING

SPECK = 10
"""Voxels; a region of so many or fewer is no candidate."""

SHARE = 2.5
"""A candidate is what exceeds its own highest probability divided by this."""

MOST, LEAST = 5, 0.01
"""Candidates at most, and the probability below which none is looked for."""

FLOOR = LEAST / SHARE / 2
"""A probability that surely belongs to no candidate of a threshold of its own."""


def candidates(probability: np.ndarray, by: Literal["dynamic", "dynamic-fast"] | float = "dynamic") -> np.ndarray:
    """A detection map (I, J, K): 0 but for candidates, each of which holds its highest probability.

    `by` is a threshold, or "dynamic-fast" for one threshold, the map's highest probability over `SHARE`, or "dynamic" for
    a threshold of each candidate's own. A map without probabilities above the threshold gives zeros.
    """
    if probability.ndim != 3:
        raise UserError(f"probabilities of shape {probability.shape}: not one volume (I, J, K)")
    values = np.asarray(probability, np.promote_types(probability.dtype, np.float32))
    if not np.isfinite(values).all() or values.min(initial=0) < 0 or values.max(initial=0) > 1:
        raise UserError(
            f"probabilities from {values.min():g} to {values.max():g}: not in 0 to 1; give what a softmax or a sigmoid gives"
        )
    threshold = {"dynamic": FLOOR, "dynamic-fast": values.max(initial=0) / SHARE}.get(str(by), by)
    found = np.zeros_like(values)
    for box in find_objects((values >= threshold).view(np.uint8)):  # one; all else is 0, and most of a scan is
        found[box] = _one_by_one(values[box]) if by == "dynamic" else _regions(values[box], float(threshold))
    return found


def _regions(values: np.ndarray, threshold: float) -> np.ndarray:
    """Connected regions of values at or above the threshold, each at its highest; specks are left out."""
    numbers, count = label((values >= threshold) & (values > 0), TOUCHING)
    inside = numbers > 0
    size, highest = np.bincount(numbers[inside], minlength=count + 1), np.zeros(count + 1, values.dtype)
    np.maximum.at(highest, numbers[inside], values[inside])
    highest[size <= SPECK] = 0
    return highest[numbers]


def _one_by_one(values: np.ndarray) -> np.ndarray:
    """The highest region, then the highest of what is left, and so on; a region that touches a former one is dropped."""
    left, kept, count = values.copy(), np.zeros_like(values), 0
    while count < MOST and left.max(initial=0) >= LEAST:
        threshold = left.max() / SHARE
        regions = _regions(left, threshold)
        if not regions.any():
            left[left >= threshold] = 0
            continue
        numbers, _ = label(regions == regions.max(), TOUCHING)
        highest = numbers == 1
        if not (highest & binary_dilation(kept > 0, TOUCHING)).any():
            kept[highest], count = regions.max(), count + 1
        left[highest] = 0
    return kept
