"""Radiographs as they are meant to be looked at: windowed, and bright where the body absorbs.

The VOI transformation comes first, the inversion of MONOCHROME1 after it and over the whole output range; inverting
stored values by their maximum would depend on the brightest pixel of each picture.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medssl.archive.headers import number, text
from medssl.archive.pixels import padding, rescaled, stored

UNIT = "a.u."


def values(data: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Grey values from 0 (black) to 1 (white), and where they are real."""
    from pydicom.pixels.processing import apply_voi_lut

    raw = stored(data, name)
    real = ~padding(data, raw)
    window = (number(data, "WindowWidth", 0) >= 1 and "WindowCenter" in data) or data.get("VOILUTSequence")
    if window:
        shown = apply_voi_lut(rescaled(data, raw) if "VOILUTSequence" not in data else raw, data, index=0)
        low, high = _range_of(data)
    else:
        shown = rescaled(data, raw)
        low, high = (float(np.percentile(shown[real], q)) for q in (0.5, 99.5)) if real.any() else (0.0, 1.0)
    grey = np.clip((np.asarray(shown, np.float32) - low) / max(high - low, 1e-6), 0, 1)
    dark_is_high = text(data, "PhotometricInterpretation") == "MONOCHROME1"
    return (1 - grey if dark_is_high else grey).astype(np.float32), real


def _range_of(data: Any) -> tuple[float, float]:
    """The output range of the VOI transformation: of its table, or of the stored bits after the modality's rescale."""
    table = data.get("VOILUTSequence")
    if table:
        return 0.0, float(2 ** int(table[0].LUTDescriptor[2]) - 1)
    bits, signed = int(data.BitsStored), bool(data.get("PixelRepresentation"))
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
    low, high = sorted(float(v) for v in rescaled(data, ends))
    return low, high
