"""Where single slices are, as DICOM tells it: position of the first pixel, direction of rows and columns, pixel size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medssl.archive.headers import Header

SAME_POSITION_MM = 0.01
"""Slices nearer than this along the normal are at the same position."""

COSINE_TOLERANCE = 1e-3
"""Difference of direction cosines below which two slices have one orientation."""


def is_lost(header: Header) -> bool:
    """Whether a slice does not say where it is."""
    return header.orientation is None or header.position is None or header.pixel_spacing is None


def alike(headers: Sequence[Header]) -> list[list[Header]]:
    """Slices that are somewhere, those of one orientation and pixel size together."""
    groups: dict[object, list[Header]] = {}
    nearly: dict[object, object] = {}  # what was said -> the first of those that say nearly the same
    for header in headers:
        if is_lost(header):
            continue
        said = (header.orientation, header.pixel_spacing)
        if said not in nearly:
            same = (name for name, group in groups.items() if _is_alike(group[0], header))
            nearly[said] = next(same, said)
        groups.setdefault(nearly[said], []).append(header)
    return list(groups.values())


def _is_alike(header: Header, other: Header) -> bool:
    turned = np.abs(np.subtract(header.orientation or (), other.orientation or ())).max()
    return bool(turned < COSINE_TOLERANCE) and np.allclose(
        header.pixel_spacing or (), other.pixel_spacing or (), rtol=1e-4
    )


def normal(header: Header) -> np.ndarray:
    """The direction across a slice, right-handed with its rows and columns."""
    cosines = np.array(header.orientation)
    return np.cross(cosines[:3], cosines[3:])


def along_normal(headers: Sequence[Header]) -> np.ndarray:
    """Where slices are along the normal of the first, in mm."""
    return np.array([header.position for header in headers]) @ normal(headers[0])


def repeats(places: np.ndarray) -> bool:
    """Whether two of some places along a normal are the same."""
    return bool((np.diff(np.sort(places)) < SAME_POSITION_MM).any())


def is_sound(header: Header) -> bool:
    """Whether the direction cosines are of length 1 and at right angles, and the pixels have a size."""
    cosines = np.array(header.orientation)
    x, y = cosines[:3], cosines[3:]
    unit = max(abs(np.linalg.norm(x) - 1), abs(np.linalg.norm(y) - 1)) < COSINE_TOLERANCE
    return bool(unit and abs(x @ y) <= COSINE_TOLERANCE and min(header.pixel_spacing or (0.0,)) > 0)
