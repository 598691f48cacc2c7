"""OCT frames of a DICOM multi-frame object (Ophthalmic Tomography)."""

from __future__ import annotations

from typing import Any

import numpy as np

from medssl.archive.pixels import stored

UNIT = "a.u."


def values(data: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Reflectivity as stored, (frames, rows, columns) = (B-scan, depth, A-scan), all of it real."""
    raw = stored(data, name)
    raw = raw[None] if raw.ndim == 2 else raw
    return raw, np.ones(raw.shape, bool)
