"""The largest differences between groups, each beside what chance makes of equal groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medssl.report.drawing import COLOUR, drawing
from medssl.report.forest import numbers
from medssl.report.words import tame

ROW_INCHES = 0.235
WIDTH_INCHES = 6.6
LONGEST_NAME = 26

NAMES = {
    "equalised_odds": "equalised odds",
    "equal_opportunity": "sensitivity",
    "demographic_parity": "share flagged",
    "predictive_parity": "PPV",
    "auroc": "AUROC",
}


def differences(content: Mapping[str, Any], name: str) -> dict[str, str]:
    """`differences`: for each attribute a square with its interval, over a band up to what 1 in 20 cohorts of equal groups
    exceeds; empty where nothing has a value.
    """

    lines: list[str | tuple[str, Mapping[str, Any]]] = []
    for one in content["attributes"]:
        found = [(NAMES[row.get("criterion", row.get("measure"))], row) for row in one["criteria"] + one["spreads"][:1]]
        known = [line for line in found if line[1]["value"] is not None]
        lines += [tame(one["attribute"]), *known] if known else []
    if not lines:
        return {}
    height = 0.62 + ROW_INCHES * len(lines)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.set_ylim(len(lines) - 0.4, -0.6)
        for place, line in enumerate(lines):
            if isinstance(line, str):
                short = line if len(line) <= LONGEST_NAME else line[: LONGEST_NAME - 1] + "…"
                axes.text(-0.55, place, short, va="center", weight="bold", transform=axes.get_yaxis_transform(),
                          parse_math=False)  # fmt: skip
            else:
                _draw_row(axes, place, *line)
        axes.set_xlim(left=0)
        axes.set_yticks([])
        axes.set_xlabel("largest difference between two groups; band: by chance")
        for side in ("top", "left", "right"):
            axes.spines[side].set_visible(False)
        figure.subplots_adjust(left=0.27, right=0.75, top=1 - 0.06 / height, bottom=0.48 / height)

    title = "Largest differences between groups, and what chance makes of equal groups"
    return {"differences": drawing(draw, (WIDTH_INCHES, height), title, _told(lines), name)}


def _draw_row(axes: Any, place: int, name: str, row: Mapping[str, Any]) -> None:
    sides = axes.get_yaxis_transform()
    axes.text(-0.5, place, name, va="center", transform=sides)
    if row["null_far"] is not None:
        axes.barh(place, row["null_far"], height=0.66, color=COLOUR, alpha=0.25, lw=0)
        axes.plot([row["null_mean"]] * 2, [place - 0.33, place + 0.33], color=COLOUR, lw=1)
    if row["low"] is not None:
        axes.plot([row["low"], row["high"]], [place, place], color=COLOUR, lw=1.8, solid_capstyle="butt")
    axes.plot([row["value"]], [place], "s", color=COLOUR, ms=5)
    axes.text(1.03, place, numbers(dict(row)), va="center", transform=sides)


def _told(lines: list[str | tuple[str, Mapping[str, Any]]]) -> str:
    parts = []
    for line in lines:
        if isinstance(line, str):
            parts.append(f"{line}:")
            continue
        name, row = line
        chance = "" if row["null_far"] is None else f", by chance up to {row['null_far']:.2f}"
        parts.append(f"{name} {numbers(dict(row))}{chance};")
    return "Largest difference between two groups. " + " ".join(parts)
