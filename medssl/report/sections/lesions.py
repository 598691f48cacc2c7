"""FROC curves: lesions found at a few numbers of false alarms a case, a panel for each attribute."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medssl.report.drawing import COLOUR, drawing

Row = Mapping[str, Any]

MOST_GROUPS = 6
"""Lines in a panel: more cannot be told apart."""

SHAPES = (
    ("s", "-"),
    ("o", (0, (4, 2))),
    ("^", (0, (1, 1.5))),
    ("v", (0, (6, 2, 1, 2))),
    ("x", (0, (8, 2))),
    ("P", ":"),
)
"""A mark and a kind of line for each group."""

PANEL_INCHES = (3.4, 2.9)
ACROSS = 2
LONGEST_NAME = 18


def froc(content: Row, name: str) -> dict[str, str]:
    """The figure `froc`, or none where nothing was there to be found."""
    whole = content["rows"][0]
    if not whole["sensitivity"]:
        return {}
    panels = _panels(content["rows"][1:], whole) or [("", [])]
    down, across = math.ceil(len(panels) / ACROSS), min(len(panels), ACROSS)

    def draw(figure: Any) -> None:
        axes = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
        for place, (attribute, rows) in zip(axes, panels, strict=False):
            _draw(place, attribute, whole, rows, content["alarms"])
        for place in axes[len(panels) :]:
            place.set_axis_off()
        figure.tight_layout()

    told = "; ".join(_told(row) for row in (whole, *(row for _, rows in panels for row in rows)))
    size = (PANEL_INCHES[0] * across, PANEL_INCHES[1] * down)
    return {"froc": drawing(draw, size, "Lesions found by false alarms a case", told, f"{name}-froc")}


def _panels(rows: Sequence[Row], whole: Row) -> list[tuple[str, list[Row]]]:
    """Each attribute with its largest groups that have a curve, but for those that are everybody."""
    panels: dict[str, list[Row]] = {}
    for row in rows:
        if row["sensitivity"] and row["counts"] != whole["counts"]:
            panels.setdefault(row["attribute"], []).append(row)
    return [
        (attribute, sorted(found, key=lambda row: -row["counts"]["patients"])[:MOST_GROUPS])
        for attribute, found in panels.items()
    ]


def _draw(axes: Any, attribute: str, whole: Row, rows: Sequence[Row], alarms: Sequence[float]) -> None:
    points = whole["sensitivity"]
    axes.set_xscale("log")
    for point in points:
        if point["low"] is not None:
            axes.plot([point["alarms"]] * 2, [point["low"], point["high"]], color=COLOUR, lw=1.2)
    handles = axes.plot(alarms, [point["value"] for point in points], color=COLOUR, lw=2.4, label="all")
    for row, (mark, dashes) in zip(rows, SHAPES, strict=False):
        values = [point["value"] for point in row["sensitivity"]]
        handles += axes.plot(
            alarms, values, mark, ls=dashes, color="#000000", mfc="none", ms=4.5, lw=0.9, label=_cut(row["group"])
        )
    axes.set_xticks(alarms, [f"{value:g}" for value in alarms])
    axes.minorticks_off()
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("false alarms a case")
    axes.set_ylabel("lesions found")
    axes.set_title(_cut(attribute), fontsize=9, loc="left", parse_math=False)
    for text in axes.legend(handles=handles, fontsize=7, frameon=False, loc="lower right").get_texts():
        text.set_parse_math(False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _cut(text: str) -> str:
    """A name that fits, and that matplotlib does not hide for a leading underscore."""
    return " " + (text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…")


def _told(row: Row) -> str:
    name = f"{row['attribute']} {row['group']}" if row["attribute"] else "all"
    return f"{name}: " + ", ".join(f"{point['value']:.2f} at {point['alarms']:g}" for point in row["sensitivity"])
