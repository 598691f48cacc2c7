"""Drawings of decision curves: everybody's, and a small one for each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medssl.report.drawing import COLOUR, drawing
from medssl.report.forest import LONGEST_NAME

Row = Mapping[str, Any]

IN_A_LINE = 3
WORDS_WIDE = 0.2
"""Of the axis of thresholds, what the words at a line take."""

MOST_PANELS = 24
"""Groups that are drawn; the table has them all."""


def draw_decision(content: Row, name: str) -> dict[str, str]:
    """`everybody` with its band, where there is a curve, and `groups`, where there are any with one."""
    drawn = [row for row in content["rows"] if row["curve"]]
    figures = {}
    if content["rows"][0]["curve"]:
        whole = content["rows"][0]
        figures["everybody"] = drawing(
            lambda figure: _whole(figure, whole, content["fixed"]), (6.6, 3.6), "Net benefit over thresholds",
            _told([whole]), f"{name}everybody",
        )  # fmt: skip
    if groups := [row for row in drawn if row["attribute"]][:MOST_PANELS]:
        high = 0.4 + 1.55 * -(-len(groups) // IN_A_LINE)
        figures["groups"] = drawing(
            lambda figure: _panels(figure, groups, content["fixed"]), (6.6, high), "Net benefit over thresholds, by group",
            _told(groups), f"{name}groups",
        )  # fmt: skip
    return figures


def _whole(figure: Any, row: Row, fixed: float | None) -> None:
    axes = figure.subplots()
    _curve(axes, row, fixed)
    axes.set_xlabel("threshold: from this probability on it is acted")
    axes.set_ylabel("net benefit")
    low, top = axes.get_ylim()
    inside = [point for point in row["curve"] if point["value"] > low] or row["curve"]
    middle = inside[len(inside) // 2]
    above = middle["value"] if middle["high"] is None else middle["high"]
    axes.text(middle["threshold"], above, "the model", va="bottom", ha="left")
    axes.text(1.0, 0, "flag nobody", va="top", ha="right", size=8)
    down = next((point for point in row["curve"] if point["everybody"] < 0.5 * top), row["curve"][-1])
    # Left of the line, unless that is left of the axis.
    aside, va, ha = (-0.01, "top", "right") if down["threshold"] > WORDS_WIDE else (0.01, "bottom", "left")
    axes.text(down["threshold"] + aside, max(down["everybody"], 0), "flag everybody", va=va, ha=ha, size=8)
    figure.subplots_adjust(left=0.11, right=0.97, top=0.97, bottom=0.15)


def _panels(figure: Any, rows: Sequence[Row], fixed: float | None) -> None:
    lines = -(-len(rows) // IN_A_LINE)
    grid = figure.subplots(lines, IN_A_LINE, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, row in zip(grid, rows, strict=False):
        _curve(axes, row, fixed)
        title = f"{row['attribute']}: {row['group']}"
        title = title if len(title) <= LONGEST_NAME else title[: LONGEST_NAME - 1] + "…"
        axes.set_title(title, size=8, loc="left", pad=2, parse_math=False)
        axes.tick_params(labelsize=7)
    for axes in grid[len(rows) :]:
        axes.set_axis_off()
    bottom = min(_floor(row) for row in rows)
    grid[0].set_ylim(bottom, 1.1 * max(_top(row) for row in rows))
    figure.subplots_adjust(left=0.08, right=0.98, top=1 - 0.25 / figure.get_figheight(), bottom=0.3 / figure.get_figheight(),
                           hspace=0.35, wspace=0.1)  # fmt: skip


def _curve(axes: Any, row: Row, fixed: float | None) -> None:
    at = [point["threshold"] for point in row["curve"]]
    banded = [point for point in row["curve"] if point["low"] is not None]
    axes.fill_between(
        [point["threshold"] for point in banded], [point["low"] for point in banded], [point["high"] for point in banded],
        color=COLOUR, alpha=0.25, lw=0,
    )  # fmt: skip
    axes.axhline(0, color="black", lw=0.8)
    axes.plot(at, [point["everybody"] for point in row["curve"]], color="black", lw=0.9, ls=(0, (4, 3)))
    axes.plot(at, [point["value"] for point in row["curve"]], color=COLOUR, lw=1.6)
    if fixed is not None:
        axes.axvline(fixed, color="black", lw=0.7, ls=(0, (1, 2)))
    # Flagging everybody falls without end.
    axes.set(xlim=(0, 1), ylim=(_floor(row), 1.1 * _top(row)))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _floor(row: Row) -> float:
    return max(min([-0.05, *(point["low"] for point in row["curve"] if point["low"] is not None)]), -0.2)


def _top(row: Row) -> float:
    return max([0.05, *(point["high"] for point in row["curve"] if point["high"] is not None)])


def _told(rows: Sequence[Row]) -> str:
    parts = []
    for row in rows:
        name = f"{row['attribute']} {row['group']}" if row["attribute"] else "all patients"
        points = [
            f"{p['threshold']:.2f}: {p['value']:.2f}" for p in row["curve"] if round(100 * p["threshold"]) % 10 == 0
        ]
        parts.append(f"{name}: {', '.join(points) or 'no curve'}")
    return "Net benefit at thresholds. " + "; ".join(parts)
