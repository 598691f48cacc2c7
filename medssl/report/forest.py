"""Forest plots as inline SVG: an estimate and its interval for each group, readable in grey and by a screen reader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medssl.report.drawing import COLOUR, drawing
from medssl.report.words import Row, brief, numbers

ROW_INCHES = 0.235
WIDTH_INCHES = 6.6
LONGEST_NAME = 26
"""Characters of a group's name that fit left of the plot; the table under it has the whole name."""

LONGEST_REASON = 48


def forest(rows: Sequence[Row], title: str, label: str, name: str) -> str:
    """An SVG element with one line a row; the first row's estimate runs down the plot as a dashed line.

    Diamond: everybody. Square: a group. Hollow circle on a dashed line: not recorded. Rows without a value show why
    there is none. `name` makes the element's ids unique on a page.
    """
    lines = _lines(rows)
    height = 0.62 + ROW_INCHES * len(lines)

    def draw(figure: Any) -> None:
        _draw(figure.subplots(), lines, label)
        figure.subplots_adjust(left=0.27, right=0.66, top=1 - 0.06 / height, bottom=0.48 / height)

    return drawing(draw, (WIDTH_INCHES, height), title, _told(rows, label), name)


def _lines(rows: Sequence[Row]) -> list[str | Row]:
    """The rows, with a heading before the first one of each attribute."""
    lines: list[str | Row] = []
    attribute = ""
    for row in rows:
        if row["attribute"] != attribute:
            attribute = row["attribute"]
            lines.append(attribute)
        lines.append(row)
    return lines


def _draw(axes: Any, lines: Sequence[str | Row], label: str) -> None:
    rows = [line for line in lines if not isinstance(line, str)]
    axes.set_xlim(*_limits(rows))
    sides = axes.get_yaxis_transform()
    for place, line in enumerate(lines):
        if isinstance(line, str):
            axes.text(-0.68, place + 0.1, _cut(line), va="center", transform=sides, weight="bold", parse_math=False)
        else:
            _draw_row(axes, place, line)
    if rows and rows[0]["value"] is not None:
        axes.axvline(rows[0]["value"], color=COLOUR, lw=0.8, ls=(0, (4, 3)), zorder=0)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_yticks([])
    axes.set_xlabel(label)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    ends = [row[end] for row in rows for end in ("low", "high", "value") if row[end] is not None]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    pad = max(0.04 * (high - low), 0.01)
    return low - pad, min(high + pad, 1.02) if high <= 1 else high + pad


def _draw_row(axes: Any, place: int, row: Row) -> None:
    sides = axes.get_yaxis_transform()
    text = "all patients" if not row["attribute"] else _cut(row["group"])
    axes.text(-0.62 if row["attribute"] else -0.68, place, text, va="center", transform=sides, parse_math=False)
    if row["value"] is None:
        reason = _cut(brief(row["reason"]), LONGEST_REASON)
        axes.text(1.03, place, reason, va="center", style="italic", transform=sides, parse_math=False)
        return
    unknown = row["group"] == "unknown"
    if row["low"] is not None:
        dashes = (0, (2.5, 1.5)) if unknown else "-"
        axes.plot([row["low"], row["high"]], [place, place], color=COLOUR, lw=1.8, ls=dashes, solid_capstyle="butt")
    marker, size = ("D", 6.5) if not row["attribute"] else ("o", 5.5) if unknown else ("s", 5)
    # White becomes the page's own colour: a hollow mark must hide the dashes behind it.
    axes.plot([row["value"]], [place], marker, color=COLOUR, ms=size, mfc="white" if unknown else COLOUR)
    axes.text(1.03, place, numbers(row), va="center", transform=sides)
    axes.text(1.86, place, str(row["n_patients"]), va="center", ha="right", transform=sides)


def _cut(text: str, longest: int = LONGEST_NAME) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _told(rows: Sequence[Row], label: str) -> str:
    parts = []
    for row in rows:
        name = "all patients" if not row["attribute"] else f"{row['attribute']} {row['group']}"
        parts.append(f"{name}: {row['reason']}" if row["value"] is None else f"{name} {numbers(row)}")
    return f"{label}. " + "; ".join(parts)
