"""Drawings of calibration: what was expected against what came, how scores spread, and recalibration by group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medssl.report.drawing import COLOUR, drawing
from medssl.report.forest import LONGEST_NAME, ROW_INCHES

Row = Mapping[str, Any]

PANELS = {
    "in_the_large": ("intercept", 0.0, (-1.5, 1.5)),
    "slope": ("slope", 1.0, (0.0, 2.0)),
    "ratio": ("observed / expected", 1.0, (0.4, 2.5)),
}
"""Number -> what its panel is called, which value is right, and between which values it is drawn; the table has the rest."""


def draw_calibration(content: Row, name: str) -> dict[str, str]:
    """`reliability` of everybody over how the scores spread by outcome, and `recalibration` by group."""
    points = content["rows"][0]["curve"]
    told = "Mean score and share with the finding: " + "; ".join(
        f"{point['score']:.2f}: {point['value']:.2f} ({point['low']:.2f} to {point['high']:.2f})" for point in points
    )
    rows = [row for row in content["rows"] if row["numbers"]]
    height = 0.7 + ROW_INCHES * len(_lines(rows))
    return {
        "reliability": drawing(
            lambda figure: _reliability(figure, points, content), (5.4, 5.8), "Scores against what came", told,
            f"{name}reliability",
        ),
        "recalibration": drawing(
            lambda figure: _recalibration(figure, rows, height), (6.6, height),
            "Calibration intercept, slope and observed over expected, by group", _told(rows), f"{name}recalibration",
        ),
    }  # fmt: skip


def _reliability(figure: Any, points: Sequence[Row], content: Row) -> None:
    upper, lower = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    upper.plot([0, 1], [0, 1], color="black", lw=0.8, ls=(0, (4, 3)))
    for point in points:
        upper.plot([point["score"]] * 2, [point["low"], point["high"]], color=COLOUR, lw=1.5, solid_capstyle="butt")
    upper.plot([p["score"] for p in points], [p["value"] for p in points], "-o", color=COLOUR, lw=1.2, ms=5)
    upper.set_ylabel("share with the finding")
    upper.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    edges = content["edges"]
    for label, sign, solid in (("positive", 1, True), ("negative", -1, False)):
        for left, right, rows in zip(edges, edges[1:], content["histogram"][label], strict=False):
            middle = (left + right) / 2
            if rows is None:
                lower.text(middle, 0, "×", ha="center", va="bottom" if sign > 0 else "top", size=8)
            elif rows:
                face = COLOUR if solid else "none"
                lower.bar(middle, sign * rows, 0.9 * (right - left), facecolor=face, edgecolor=COLOUR, lw=1)
    lower.axhline(0, color="black", lw=0.8)
    lower.set_ylabel("images")
    lower.set_xlabel("score")
    lower.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
    lower.margins(y=0.15)
    for axes in (upper, lower):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.subplots_adjust(left=0.12, right=0.98, top=0.98, bottom=0.09, hspace=0.12)


def _lines(rows: Sequence[Row]) -> list[str | Row]:
    lines: list[str | Row] = []
    for row in rows:
        if row["attribute"] and (not lines or _of(lines[-1]) != row["attribute"]):
            lines.append(row["attribute"])
        lines.append(row)
    return lines


def _of(line: str | Row) -> str:
    return line if isinstance(line, str) else line["attribute"]


def _recalibration(figure: Any, rows: Sequence[Row], height: float) -> None:
    lines = _lines(rows)
    for axes, (name, (label, right, ends)) in zip(
        figure.subplots(1, len(PANELS), sharey=True), PANELS.items(), strict=True
    ):
        if name == "ratio":
            axes.set_xscale("log")
            axes.set_xticks([0.5, 1, 2], ["0.5", "1", "2"])
            axes.minorticks_off()
        axes.axvline(right, color="black", lw=0.8, ls=(0, (4, 3)), zorder=0)
        axes.set(xlim=ends, ylim=(len(lines) - 0.4, -0.6), xlabel=label)
        axes.set_yticks([])
        for side in ("top", "left", "right"):
            axes.spines[side].set_visible(False)
        for place, line in enumerate(lines):
            if name == "in_the_large":
                _name(axes, place, line)
            if not isinstance(line, str):
                _mark(axes, place, line, line["numbers"][name], ends)
    figure.subplots_adjust(left=0.25, right=0.98, top=1 - 0.06 / height, bottom=0.5 / height, wspace=0.12)


def _name(axes: Any, place: int, line: str | Row) -> None:
    heading = isinstance(line, str)
    text = line if isinstance(line, str) else line["group"] if line["attribute"] else "all patients"
    text = text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"
    left = -0.86 if heading or not _of(line) else -0.8
    axes.text(
        left, place + 0.1 * heading, text, va="center", transform=axes.get_yaxis_transform(), parse_math=False,
        weight="bold" if heading else "normal",
    )  # fmt: skip


def _mark(axes: Any, place: int, row: Row, number: Row, ends: tuple[float, float]) -> None:
    if number["value"] is None:
        middle = math.sqrt(ends[0] * ends[1]) if axes.get_xscale() == "log" else sum(ends) / 2
        axes.text(middle, place, "none", ha="center", va="center", style="italic", size=8)
        return
    unknown = row["group"] == "unknown"
    if number["low"] is not None:
        dashes = (0, (2.5, 1.5)) if unknown else "-"
        axes.plot([number["low"], number["high"]], [place] * 2, color=COLOUR, lw=1.8, ls=dashes, solid_capstyle="butt")
        # An interval that goes on outside of the panel says so.
        for end, beyond, arrow in (
            (ends[0], number["low"] < ends[0], "<"), (ends[1], number["high"] > ends[1], ">"),
        ):  # fmt: skip
            if beyond:
                axes.plot([end], [place], arrow, color=COLOUR, ms=5, clip_on=False)
    marker, size = ("D", 6.0) if not row["attribute"] else ("o", 5.5) if unknown else ("s", 5.0)
    axes.plot([number["value"]], [place], marker, color=COLOUR, ms=size, mfc="white" if unknown else COLOUR)


def _told(rows: Sequence[Row]) -> str:
    parts = []
    for row in rows:
        name = f"{row['attribute']} {row['group']}" if row["attribute"] else "all patients"
        numbers = [
            f"{label} {row['numbers'][key]['value']:.2f}" if row["numbers"][key]["value"] is not None else f"no {label}"
            for key, (label, _, _) in PANELS.items()
        ]
        parts.append(f"{name}: {', '.join(numbers)}")
    return "; ".join(parts)
