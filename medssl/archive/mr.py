"""MR slices: stored values with each slice's own slope. The unit is arbitrary, except for ADC maps."""

from __future__ import annotations

from typing import Any

import numpy as np

from medssl.archive.pixels import padding, rescaled, stored

UNIT = "a.u."


def values(data: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Rescaled values and where they are real."""
    raw = stored(data, name)
    return rescaled(data, raw), ~padding(data, raw)
