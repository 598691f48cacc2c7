"""Forest plots as inline SVG: an estimate and its interval for each group, readable in grey and by a screen reader."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]

ROW_INCHES = 0.27
COLOUR = "#5b7fa6"
"""One hue on both the light and the dark page; groups are told apart by their place and name, never by colour."""


def forest(rows: Sequence[Row], title: str, label: str, name: str) -> str:
    """An SVG element with one line a row; the first row's estimate runs down the plot as a dashed line.

    Rows without a value show why there is none. `name` makes the element's ids unique on a page.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    options = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 9}
    with mpl.rc_context(options):
        figure = Figure(figsize=(7.4, 0.85 + ROW_INCHES * len(rows)))
        axes = figure.subplots()
        _draw(axes, rows, label)
        figure.subplots_adjust(
            left=0.30, right=0.80, top=1 - 0.08 / figure.get_figheight(), bottom=0.5 / figure.get_figheight()
        )
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_page(out.getvalue(), title, _told(rows, label), name)


def _draw(axes: Any, rows: Sequence[Row], label: str) -> None:
    known = [row for row in rows if row["value"] is not None]
    ends = [row[end] for row in known for end in ("low", "high", "value") if row[end] is not None]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    pad = max(0.04 * (high - low), 0.01)
    axes.set_xlim(max(low - pad, -1.0), min(high + pad, 1.02))
    for place, row in enumerate(rows):
        text = "all" if not row["attribute"] else f"{row['attribute']}: {row['group']}"
        axes.text(-0.02, place, text, ha="right", va="center", transform=axes.get_yaxis_transform())
        if row["value"] is None:
            axes.text(0.02, place, row["reason"], va="center", style="italic", transform=axes.get_yaxis_transform())
            continue
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [place, place], color=COLOUR, lw=2, solid_capstyle="butt")
        marker = "D" if not row["attribute"] else "s"
        axes.plot([row["value"]], [place], marker, color=COLOUR, ms=6 if marker == "D" else 5)
        between = (
            f"{row['value']:.2f} ({row['low']:.2f}-{row['high']:.2f})"
            if row["low"] is not None
            else f"{row['value']:.2f}"
        )
        axes.text(1.02, place, f"{between}  n={row['n_patients']}", va="center", transform=axes.get_yaxis_transform())
    if rows and rows[0]["value"] is not None:
        axes.axvline(rows[0]["value"], color=COLOUR, lw=0.8, ls=(0, (4, 3)))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks([])
    axes.set_xlabel(label)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)


def _told(rows: Sequence[Row], label: str) -> str:
    parts = []
    for row in rows:
        name = "all" if not row["attribute"] else f"{row['attribute']} {row['group']}"
        if row["value"] is None:
            parts.append(f"{name}: {row['reason']}")
        elif row["low"] is None:
            parts.append(f"{name} {row['value']:.2f}")
        else:
            parts.append(f"{name} {row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})")
    return f"{label}. " + "; ".join(parts)


def _for_page(svg: str, title: str, told: str, name: str) -> str:
    """The drawing as an element of a page: ids of its own, text in the page's colour, a title and a description."""
    from markupsafe import escape

    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(xlink:href|href)="#', rf'\1="#{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = body.replace("#000000", "currentColor").replace("stroke: #000", "stroke: currentColor")
    body = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", body, count=1)
    body = re.sub(r'height="[^"]*"', "", body, count=1)
    head = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(told)}</desc>'
    return re.sub(
        r"<svg ([^>]*)>",
        rf'<svg \1 role="img" aria-labelledby="{name}-title {name}-desc">' + head.replace("\\", r"\\"),
        body,
        count=1,
    )
