"""Schedules: one number a step, as a list that can be plotted."""

from __future__ import annotations

import math


def cosine(peak: float, steps: int, warmup: float = 0.1) -> list[float]:
    """Learning rate of each step: a linear rise over the first `warmup` fraction, then half a cosine to zero."""
    rise = round(warmup * steps)
    up = [peak * (step + 1) / rise for step in range(rise)]
    down = [peak * (1 + math.cos(math.pi * step / max(steps - rise, 1))) / 2 for step in range(steps - rise)]
    return up + down
