"""Drawings of a page as inline SVG: readable in grey and by a screen reader, on a light, a dark and a printed page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any

COLOUR = "#4f79a8"
"""One hue on both the light and the dark page; groups are told apart by place, name and shape, never by colour."""


def drawing(draw: Callable[[Any], None], inches: tuple[float, float], title: str, told: str, name: str) -> str:
    """An SVG element of so many `inches` (width, height), on whose matplotlib figure `draw` has drawn.

    `told` is what a screen reader says in its place; `name` makes the element's ids unique on a page. Texts that come from a
    table need `parse_math=False`.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    options = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 9}
    with mpl.rc_context(options), warnings.catch_warnings():
        # Names in a script that the measuring font lacks: the page's own font draws them.
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=inches)
        draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return for_page(out.getvalue(), title, told, name)


def for_page(svg: str, title: str, told: str, name: str) -> str:
    """The drawing as an element of a page: ids of its own, text in the page's colour, a title and a description."""
    from markupsafe import escape

    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    # The drawing's own style sheet would apply to the whole page.
    body = re.sub(r"<style.*?</style>", "", body, flags=re.S)
    # Only in tags: a name between them may hold any of this.
    parts = re.split(r"(<[^>]*>)", body)
    parts[1::2] = [_own(tag, name) for tag in parts[1::2]]
    body = "".join(parts)
    body = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", body, count=1)
    body = re.sub(r'height="[^"]*"', "", body, count=1)
    head = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(told)}</desc>'
    return re.sub(
        r"<svg ([^>]*)>",
        lambda found: f'<svg {found[1]} role="img" aria-labelledby="{name}-title {name}-desc">{head}',
        body,
        count=1,
    )


def _own(tag: str, name: str) -> str:
    """A tag with ids that are the drawing's own, in the page's colours."""
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r'(xlink:href|href)="#', rf'\1="#{name}-', tag)
    tag = re.sub(r"url\(#", f"url(#{name}-", tag)
    tag = tag.replace("#000000", "currentColor").replace("stroke: #000", "stroke: currentColor")
    return tag.replace("fill: #ffffff", "fill: var(--page)")
