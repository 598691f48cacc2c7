"""comparison.json drawn as one self-contained HTML file and as Markdown, written from the same content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl.atomic import write_json, write_text
from medssl.errors import UserError
from medssl.evaluate.comparison.sentences import CERTAINTY
from medssl.evaluate.outlines import measure_of
from medssl.report.drawing import COLOUR, drawing
from medssl.report.words import METRICS, clean, tame

FOLDER = Path(__file__).parent

Row = Mapping[str, Any]

KIND = "comparison"
"""What comparison.json says that it is."""

VERDICTS = {
    "better": ("▲", "better"),
    "worse": ("▼", "worse"),
    "not worse": ("=", "not worse by the margin"),
    "widened": ("▼", "gap widened"),
    "narrowed": ("▲", "gap narrowed"),
    "unchanged": ("=", "unchanged within the margin"),
    "inconclusive": ("?", "cannot conclude"),
    "suppressed": ("–", "not shown"),
    "undefined": ("–", "not defined"),
    "not evaluated": ("·", "one level: not evaluated"),
}
"""A sign and words for each verdict: the page must be readable without colour."""

ROW_INCHES, WIDTH_INCHES, LONGEST_NAME = 0.235, 6.6, 26


def write_comparison(content: Mapping[str, Any], folder: Path | str) -> Path:
    """The path of comparison.html in `folder`, written beside comparison.json and comparison.md."""
    from jinja2 import UndefinedError

    folder = Path(folder)
    try:
        page, plain = (render(content, f"comparison.{ending}") for ending in ("html", "md"))
    except (AttributeError, IndexError, KeyError, TypeError, UndefinedError, ValueError) as error:
        raise UserError(
            f"report: the comparison cannot be drawn ({error}); give the JSON that medssl compare wrote"
        ) from None
    write_json(folder / "comparison.json", content)
    write_text(folder / "comparison.md", plain)
    write_text(folder / "comparison.html", page)
    return folder / "comparison.html"


def render(content: Mapping[str, Any], template: str) -> str:
    """The comparison as text of a template; of HTML every label is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    of_page = template.endswith(".html")
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=of_page, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "tame": tame if of_page else _cell, "clean": clean, "three": _three, "signed": _signed, "ends": _ends,
        "verdict": lambda row: " ".join(VERDICTS[row["verdict"]]),
    }  # fmt: skip
    unit = measure_of(content["metric"]).unit
    name = METRICS.get(content["metric"], tame(content["metric"])) + (f" ({unit})" if unit else "")
    parts = [_part(content, task, name, place) for place, task in enumerate(_tasks(content))]
    return environment.get_template(template).render(
        content=content, parts=parts, metric=name, unit=unit, certainty=CERTAINTY, declared=_declared(content)
    )


def _declared(content: Mapping[str, Any]) -> str:
    """What was said of the tables, and when with what they were compared; nothing of a JSON that does not tell."""
    told = content["provenance"]
    said = {**told.get("settings", {}).get("terms", {}), "columns": told.get("columns")}
    parts = [f"{name.replace('_', ' ')} {value}" for name, value in said.items() if value]
    parts += [f"{name} {value}" for name, value in told.get("versions", {}).items()]
    return "; ".join([*parts, told["date"]] if "date" in told else parts)


def _tasks(content: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["task"] for row in content["results"]))


def _part(content: Mapping[str, Any], task: str, name: str, place: int) -> dict[str, Any]:
    """What is told of a task, and its drawings."""
    from markupsafe import Markup

    of_task = {
        key: [row for row in content[key] if row["task"] == task]
        for key in ("results", "gap_changes", "levelling_down", "dropped", "thresholds")
    }
    margin, figures = content["margin"], {}
    for key, what in (("results", "difference second - first of"), ("gap_changes", "change of the gap in")):
        if rows := of_task[key]:
            title = f"{what} {name}, 95 % intervals"
            figures[key] = Markup(plot(rows, title, margin, f"{key.replace('_', '')}{place}"))
    return {**of_task, "name": task, "figures": figures}


def plot(rows: Sequence[Row], title: str, margin: float | None, name: str) -> str:
    """An SVG element with one line a row: the difference, by itself (thick) and among all groups (thin), against no
    difference and plus and minus the margin (dotted). `name` makes the element's ids unique on a page.
    """
    height = 0.7 + ROW_INCHES * len(rows)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.set_xlim(*_limits(rows, margin))
        for place, row in enumerate(rows):
            _draw_row(axes, place, row)
        axes.axvline(0, color=COLOUR, lw=0.9, zorder=0)
        for end in () if margin is None else (-margin, margin):
            axes.axvline(end, color=COLOUR, lw=0.7, ls=(0, (1, 2)), zorder=0)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks([])
        axes.set_xlabel(title)
        for side in ("top", "left", "right"):
            axes.spines[side].set_visible(False)
        figure.subplots_adjust(left=0.3, right=0.64, top=1 - 0.06 / height, bottom=0.5 / height)

    told = "; ".join(f"{_who(row)}: {_numbers(row)}, {' '.join(VERDICTS[row['verdict']])}" for row in rows)
    return drawing(draw, (WIDTH_INCHES, height), title, f"{title}. {told}", name)


def _limits(rows: Sequence[Row], margin: float | None) -> tuple[float, float]:
    ends = [row[end] for row in rows for end in ("adjusted_low", "adjusted_high", "value") if row[end] is not None]
    most = max([abs(end) for end in ends] + [margin or 0.01])
    return -1.05 * most, 1.05 * most


def _draw_row(axes: Any, place: int, row: Row) -> None:
    sides = axes.get_yaxis_transform()
    axes.text(-0.74, place, _cut(_who(row)), va="center", transform=sides, parse_math=False)
    told = _cut(_numbers(row), 44)
    axes.text(1.03, place, told, va="center", transform=sides, parse_math=False)
    if row["value"] is None:
        return
    if row["low"] is not None:
        axes.plot([row["adjusted_low"], row["adjusted_high"]], [place, place], color=COLOUR, lw=0.9)
        axes.plot([row["low"], row["high"]], [place, place], color=COLOUR, lw=2.2, solid_capstyle="butt")
    unknown = row["group"] == "unknown"
    marker = ("D" if not row["attribute"] else "o" if unknown else "s", "white" if unknown else COLOUR)
    axes.plot([row["value"]], [place], marker[0], color=COLOUR, ms=5, mfc=marker[1])


def _who(row: Row) -> str:
    return f"{tame(row['attribute'])} {tame(row['group'])}" if row["attribute"] else "all patients"


def _cut(text: str, longest: int = LONGEST_NAME) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _numbers(row: Row) -> str:
    return clean(row["reason"]) if row["value"] is None else f"{_signed(row['value'])} {_ends(row)}".strip()


def _three(value: float | None) -> str:
    return "" if value is None else f"{round(value, 3) + 0.0:.3f}".replace("-", "−")


def _signed(value: float | None) -> str:
    if value is None:
        return ""
    rounded = round(value, 3) + 0.0
    return f"{rounded:+.3f}".replace("-", "−") if rounded else "0.000"


def _ends(row: Row, which: str = "") -> str:
    """An interval in brackets, by itself or ("adjusted_") among all groups."""
    low, high = row[f"{which}low"], row[f"{which}high"]
    return "" if low is None else f"({_signed(low)} to {_signed(high)})"


def _cell(text: object) -> str:
    """A label as a cell of a Markdown table, which nothing in it can end or format."""
    return "".join("\\" + c if c in "\\`*_{}[]<>()#+-.!|&" else c for c in tame(text))
