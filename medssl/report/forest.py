"""Forest plots as inline SVG: an estimate and its interval for each group, readable in grey and by a screen reader."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]

ROW_INCHES = 0.235
WIDTH_INCHES = 6.6
COLOUR = "#4f79a8"
"""One hue on both the light and the dark page; groups are told apart by place, name and shape, never by colour."""

LONGEST_NAME = 26
"""Characters of a group's name that fit left of the plot; the table under it has the whole name."""

LONGEST_REASON = 48


def forest(rows: Sequence[Row], title: str, label: str, name: str) -> str:
    """An SVG element with one line a row; the first row's estimate runs down the plot as a dashed line.

    Diamond: everybody. Square: a group. Hollow circle on a dashed line: not recorded. Rows without a value show why
    there is none. `name` makes the element's ids unique on a page.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    options = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 9}
    lines = _lines(rows)
    with mpl.rc_context(options), warnings.catch_warnings():
        # Names in a script that the measuring font lacks: the page's own font draws them.
        warnings.filterwarnings("ignore", message="Glyph")
        height = 0.62 + ROW_INCHES * len(lines)
        figure = Figure(figsize=(WIDTH_INCHES, height))
        axes = figure.subplots()
        _draw(axes, lines, label)
        figure.subplots_adjust(left=0.27, right=0.66, top=1 - 0.06 / height, bottom=0.48 / height)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return for_page(out.getvalue(), title, _told(rows, label), name)


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
        reason = _cut(row["reason"], LONGEST_REASON)
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


def numbers(row: Row) -> str:
    """A value with its interval, with real minus signs and no minus nought."""
    value, *ends = [None if row[key] is None else _rounded(row[key]) for key in ("value", "low", "high")]
    if value is None:
        return ""
    return value if None in ends else f"{value} ({ends[0]} to {ends[1]})"


def _rounded(number: float) -> str:
    return f"{round(number, 2) + 0.0:.2f}".replace("-", "−")


def _cut(text: str, longest: int = LONGEST_NAME) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _told(rows: Sequence[Row], label: str) -> str:
    parts = []
    for row in rows:
        name = "all patients" if not row["attribute"] else f"{row['attribute']} {row['group']}"
        parts.append(f"{name}: {row['reason']}" if row["value"] is None else f"{name} {numbers(row)}")
    return f"{label}. " + "; ".join(parts)


def for_page(svg: str, title: str, told: str, name: str) -> str:
    """The drawing as an element of a page: ids of its own, text in the page's colour, a title and a description."""
    from markupsafe import escape

    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    # The drawing's own style sheet would apply to the whole page.
    body = re.sub(r"<style.*?</style>", "", body, flags=re.S)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(xlink:href|href)="#', rf'\1="#{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = body.replace("#000000", "currentColor").replace("stroke: #000", "stroke: currentColor")
    body = body.replace("fill: #ffffff", "fill: var(--page)")
    body = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", body, count=1)
    body = re.sub(r'height="[^"]*"', "", body, count=1)
    head = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(told)}</desc>'
    return re.sub(
        r"<svg ([^>]*)>",
        lambda found: f'<svg {found[1]} role="img" aria-labelledby="{name}-title {name}-desc">{head}',
        body,
        count=1,
    )
