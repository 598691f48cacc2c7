"""MR slices: stored values with each slice's own slope. The unit is arbitrary, except for quantitative maps.

Maps that name their unit are mapped to it first (Real World Value Mapping): the slope beside it may only be for display.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medssl.archive.headers import number, text
from medssl.archive.pixels import grouped, padding, rescaled, stored

UNIT = "a.u."

DIFFUSION_CODES = {"mm2/s": 1e6, "um2/s": 1.0}
"""UCUM codes of diffusion coefficients, and what makes 1e-6 mm2/s of them."""

NO_UNIT = ("", "1")
"""Codes of a mapping that says nothing of what is measured."""


def values(data: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Values in the unit of their mapping (diffusion in 1e-6 mm2/s), else rescaled; and where they are real."""
    raw = stored(data, name)
    real = ~padding(data, raw)
    mappings = [_quantity(items) for items in grouped(data, "RealWorldValueMappingSequence")]
    if not mappings or None in mappings or len(mappings) not in (1, len(raw) if raw.ndim == 3 else 1):
        return rescaled(data, raw, name), real
    if len(mappings) == 1:
        found, mapped = _mapped(mappings[0], raw)
    else:
        found, mapped = map(np.stack, zip(*map(_mapped, mappings, raw), strict=True))
    return found, real & mapped


def _quantity(items: Any) -> Any:
    """The first of several mappings that names a unit, None where none does."""
    return next((item for item in items if _unit(item) not in NO_UNIT), None)


def _unit(item: Any) -> str:
    codes = item.get("MeasurementUnitsCodeSequence")
    return text(codes[0], "CodeValue") if codes else ""


def _mapped(item: Any, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Real-world values, and which of the stored values the mapping is for; the others are 0."""
    table = item.get("RealWorldValueLUTData")
    first = number(item, "RealWorldValueFirstValueMapped", -np.inf if table is None else 0)
    last = number(item, "RealWorldValueLastValueMapped", np.inf)
    mapped = (raw >= first) & (raw <= last)
    if table is not None:
        entries = np.atleast_1d(np.asarray(table, np.float64))
        found = entries[np.clip(raw.astype(np.int64) - int(first), 0, len(entries) - 1)]
    else:
        found = raw * number(item, "RealWorldValueSlope", 1.0) + number(item, "RealWorldValueIntercept", 0.0)
    found = found * DIFFUSION_CODES.get(_unit(item), 1.0)
    return np.where(mapped, found, 0.0).astype(np.float32), mapped
