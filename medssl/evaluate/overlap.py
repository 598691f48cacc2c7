"""Overlap of label maps. Judging sees no voxels, so `predict` calls this and writes columns of the predictions table."""

from __future__ import annotations

import numpy as np


def dice(truth: np.ndarray, found: np.ndarray) -> float:
    """Twice the common voxels over the sum of both, in 0..1.

    nan when both are empty: a structure that is absent and not found has no overlap to measure. 0 when only one is
    empty, so that a total failure counts. Dice, Ecology 1945.
    """
    size = int(truth.sum()) + int(found.sum())
    return float("nan") if size == 0 else 2.0 * int((truth & found).sum()) / size
