"""A forest plot as a column of a table: each interval drawn beside its numbers, on one scale, at any width.

The table is the plot's own table of numbers, so the drawing tells a screen reader nothing and is hidden from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medssl.report.words import Row

MOST_TICKS = 5
HEIGHT = 22
"""Pixels of a row."""


@dataclass(frozen=True)
class Scale:
    """The ends of the plot, its ticks, and the value of everybody, which runs down it (None: there is none)."""

    low: float
    high: float
    ticks: tuple[float, ...]
    whole: float | None

    def place(self, value: float) -> str:
        """Where a value lies, in percent of the width; a little room is left at both ends for marks and words."""
        return f"{3 + 94 * (value - self.low) / (self.high - self.low):.2f}%"


def scale_of(rows: Sequence[Row]) -> Scale:
    """A scale on which all values and intervals of the rows lie; 0 to 1 where there is none. The first row is everybody."""
    ends = [row[end] for row in rows for end in ("value", "low", "high") if row[end] is not None]
    least, most = (min(ends), max(ends)) if ends else (0.0, 1.0)
    step = _step(max(most - least, 0.02))
    first, last = math.floor(least / step + 1e-9), math.ceil(most / step - 1e-9)
    last = max(last, first + 1)
    ticks = tuple(round(step * k, 10) for k in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks, rows[0]["value"] if rows else None)


def _step(width: float) -> float:
    """A round step that is taken at most so often: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(width / MOST_TICKS))
    return next(power * factor for factor in (1, 2, 5, 10, 20) if width / (power * factor) <= MOST_TICKS - 1)


def axis(scale: Scale) -> str:
    """The head of the column: the ticks with their numbers."""
    places = max(0, -math.floor(math.log10(scale.ticks[1] - scale.ticks[0]) + 1e-9))
    parts = []
    for tick in scale.ticks:
        at = scale.place(tick)
        # Where there is little room, those between the ends are left out.
        kind = "end" if tick in (scale.low, scale.high) else "inner"
        parts.append(f'<text class="{kind}" x="{at}" y="13" text-anchor="middle">{tick:.{places}f}</text>')
        parts.append(f'<line x1="{at}" x2="{at}" y1="17" y2="{HEIGHT}"/>')
    return _drawn("rail axis", "".join(parts))


def rail(row: Row, scale: Scale) -> str:
    """The drawing of a row. Diamond: everybody; square: a group; hollow circle on a dashed line: not recorded."""
    middle, parts = HEIGHT // 2, []
    if scale.whole is not None:
        at = scale.place(scale.whole)
        parts.append(f'<line class="whole" x1="{at}" x2="{at}" y1="0" y2="{HEIGHT}"/>')
    unknown = row["group"] == "unknown" and row["attribute"]
    if row["value"] is not None:
        if row["low"] is not None:
            ends = f'x1="{scale.place(row["low"])}" x2="{scale.place(row["high"])}"'
            parts.append(f'<line class="{"dashed" if unknown else "ends"}" {ends} y1="{middle}" y2="{middle}"/>')
        mark = '<circle r="4.5"/>' if unknown else '<rect x="-4" y="-4" width="8" height="8"/>'
        if not row["attribute"]:
            mark = '<path d="M0-6L6 0L0 6L-6 0Z"/>'
        parts.append(f'<svg x="{scale.place(row["value"])}" y="{middle}" overflow="visible">{mark}</svg>')
    return _drawn("rail", "".join(parts))


def _drawn(kind: str, parts: str) -> str:
    return f'<svg class="{kind}" width="100%" height="{HEIGHT}" aria-hidden="true" focusable="false">{parts}</svg>'
