"""What a cohort records about its patients. Nothing is imputed; what is missing is called "unknown" and counted."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

UNKNOWN = "unknown"

SEXES = {"m": "M", "male": "M", "f": "F", "female": "F", "o": "O", "other": "O"}

OLDEST = 120


def sex_of(text: str) -> str:
    """M, F, O or "unknown"."""
    return SEXES.get(text.strip().lower(), UNKNOWN)


def age_of(text: str) -> float:
    """Years from "61", "061Y", "18M"; nan when blank or not believable."""
    told = re.fullmatch(r"\s*(\d{1,3}(?:\.\d+)?)\s*([DWMYdwmy]?)\s*", text)
    if not told:
        return math.nan
    years = float(told.group(1)) / {"D": 365.25, "W": 52.18, "M": 12.0}.get(told.group(2).upper(), 1.0)
    return years if 0 < years <= OLDEST else math.nan


def age_band(years: float, edges: Sequence[int]) -> str:
    """The band of an age, e.g. "40-59"; "unknown" for nan. `edges` are the first ages of the second, third... band."""
    if math.isnan(years):
        return UNKNOWN
    for number, edge in enumerate(edges):
        if years < edge:
            return f"<{edge}" if number == 0 else f"{edges[number - 1]}-{edge - 1}"
    return f"{edges[-1]}+" if edges else "all"


def agreed(values: Iterable[str]) -> str:
    """The one value that all sources who say anything agree on; "unknown" when none does or they differ."""
    told = {value for value in values if value and value.lower() != UNKNOWN}
    return told.pop() if len(told) == 1 else UNKNOWN
