"""CT slices in Hounsfield units, with what lies outside the field of view marked as not measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from medssl.archive.pixels import padding, rescaled, stored, transformations
from medssl.archive.reasons import Refusal

UNIT = "HU"

LEAST_HU = -1024.0
"""Nothing is thinner than air; what is well below was never measured (scanners write -2000 or -3024 there)."""

MARGIN_HU = 100.0
"""How far below air noise may reach."""

MOST_HU = 50_000.0
"""Above all that the extended scale of scanners holds (31 743): a padding of -2000 that lost its sign is at 62 512."""

NEAR_AIR_HU = -200.0
"""A chest, head or belly in HU has something below this; a CT without intercept that has not is not in HU."""


def values(data: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Hounsfield units and where they are real; padding, declared or evident, is not."""
    raw = stored(data, name)
    found = rescaled(data, raw, name)
    real = ~padding(data, raw) & (found >= LEAST_HU - MARGIN_HU) & (found <= MOST_HU)
    told = all("RescaleIntercept" in source for source in transformations(data))
    if not told and real.any() and found[real].min() > NEAR_AIR_HU:
        raise Refusal("HU_SUSPECT", name)
    return np.where(real, found, np.float32(LEAST_HU)), real
