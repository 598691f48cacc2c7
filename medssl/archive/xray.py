"""Radiographs as they are meant to be looked at: windowed, and bright where the body absorbs.

The VOI transformation comes first, the inversion of MONOCHROME1 after it and over the whole output range; inverting
stored values by their maximum would depend on the brightest pixel of each picture. PresentationLUTShape INVERSE says the
same as MONOCHROME1 once more, and is not a second inversion.

What a detector wrote for processing has no window. Where it is in proportion to the dose (PixelIntensityRelationship
LIN), its logarithm is taken, which is in proportion to what the body absorbs, as LOG pictures already are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medssl.archive.headers import number, text
from medssl.archive.pixels import looked_up, padding, rescaled, stored
from medssl.archive.sop_classes import FOR_PROCESSING

UNIT = "a.u."

LEAST_WIDTH = {"LINEAR": 1.0, "LINEAR_EXACT": 0.0, "SIGMOID": 0.0}
"""Windows of the standard: LINEAR may be 1 wide and no less, the others have to be wider than 0."""


def values(data: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Grey values from 0 (black) to 1 (white), and where they are real."""
    raw = stored(data, name)
    real = ~padding(data, raw)
    grey = _shown(data, rescaled(data, raw, name), real, name)
    dark_is_high = text(data, "PhotometricInterpretation") == "MONOCHROME1"
    return (1 - grey if dark_is_high else grey).astype(np.float32), real


def _shown(data: Any, found: np.ndarray, real: np.ndarray, name: str) -> np.ndarray:
    """From 0 to 1 by the first table of grey values, else the first window, else the darkest and brightest percent."""
    table = data.get("VOILUTSequence")
    if table:
        return np.clip(looked_up(table[0], found, name) / (2.0 ** int(table[0].LUTDescriptor[2]) - 1), 0, 1)
    centre, width = (number(data, tag, np.nan) for tag in ("WindowCenter", "WindowWidth"))
    function = text(data, "VOILUTFunction").upper() or "LINEAR"
    least = LEAST_WIDTH.get(function, np.inf)
    if np.isfinite(centre) and width >= least and width > 0:
        return windowed(found, centre, width, function)
    if text(data, "SOPClassUID") in FOR_PROCESSING and text(data, "PixelIntensityRelationship").upper() == "LIN":
        found = np.log1p(np.maximum(found, 0))
    low, high = (float(np.percentile(found[real], q)) for q in (0.5, 99.5)) if real.any() else (0.0, 1.0)
    return np.clip((found - low) / max(high - low, 1e-6), 0, 1)


def windowed(found: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """Values from 0 to 1 through a window of PS3.3 C.11.2.1.2 or C.11.2.1.3."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (found - centre) / width, -80, 80)))
    if function == "LINEAR":
        # Of a window of 256 grey values the first and the last are 255 apart.
        centre, width = centre - 0.5, width - 1
    if width == 0:
        return (found > centre).astype(np.float32)
    return np.clip((found - centre) / width + 0.5, 0, 1)
