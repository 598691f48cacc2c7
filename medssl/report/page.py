"""report.json and report.html, written from the same content, so that they cannot disagree."""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl.atomic import write_json, write_text
from medssl.errors import UserError
from medssl.report.forest import forest, numbers

TEMPLATE = Path(__file__).parent / "report.html"

LONGEST_LABEL = 60
"""Characters of a group's name that are shown; a name can be anything that a table holds."""

PICTURE_BYTES = 1_200_000
"""Bytes of pictures that a page takes, so that it stays under 2 MB after base64."""

PNG = b"\x89PNG\r\n\x1a\n"

VERDICTS = {
    "gap": ("▲", "difference shown"),
    "equivalent": ("=", "within the margin"),
    "inconclusive": ("?", "cannot conclude"),
    "suppressed": ("–", "too few to show"),
    "not evaluated": ("·", "one level: not evaluated"),
}
"""A sign and words for each verdict: the page must be readable without colour."""

METRICS = {
    "auroc": "AUROC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "average_precision": "average precision",
    "brier": "Brier score",
    "dice_mean": "mean Dice",
}

Row = Mapping[str, Any]


def write_report(
    report: Mapping[str, Any], folder: Path | str, pictures: Mapping[str, Path] | None = None, *, command: str = ""
) -> Path:
    """The path of report.html in `folder`, written beside report.json.

    `pictures` (caption -> PNG) are embedded, as many as fit in a page under 2 MB; the page names those that do not.
    `command` is kept as provenance: what the user typed.
    """
    from jinja2 import UndefinedError

    folder = Path(folder)
    try:
        if command:
            report = {**report, "provenance": {**report["provenance"], "command": command}}
        page = render(report, pictures or {})
    except (KeyError, UndefinedError) as error:
        raise UserError(f"report: {error} is missing; give the report.json that medssl evaluate wrote") from None
    except UserError:
        raise
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"report: cannot be drawn ({error}); give the report.json that medssl evaluate wrote") from None
    write_json(folder / "report.json", report)
    write_text(folder / "report.html", page)
    return folder / "report.html"


def render(report: Mapping[str, Any], pictures: Mapping[str, Path]) -> str:
    """The page as text: one file, no script, no address outside itself; every label is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "number": _number,
        "signed": _signed,
        "interval": numbers,
        "percent": _percent,
        "tame": tame,
        "clean": clean,
        "metric": _metric,
    }
    analyses = [_shown(analysis, place) for place, analysis in enumerate(report["analyses"])]
    averages = [_averaged(row, report["analyses"]) for row in report.get("averages", [])]
    inside, outside = _embedded(pictures)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        report=report, analyses=analyses, averages=averages, pictures=inside, too_large=outside, verdicts=VERDICTS
    )


def _shown(analysis: Row, place: int) -> dict[str, Any]:
    """An analysis with what is drawn from it: the plot, the rows behind it and the grid of verdicts."""
    from markupsafe import Markup

    primary = analysis["primary_metric"]
    rows = [
        {**row, "group": tame(row["group"]), "attribute": tame(row["attribute"])}
        for row in analysis["estimates"]
        if row["metric"] == primary
    ]
    title = f"{_metric(primary)} of {tame(analysis['name'])}, overall and by group"
    drawing = forest(rows, title, f"{_metric(primary)} with 95 % interval; right: patients", f"forest{place}")
    metrics = list(dict.fromkeys(gap["metric"] for gap in analysis["gaps"]))
    # Markup is safe: the drawing is made here, and its texts are escaped.
    return {**analysis, "forest": Markup(drawing), "plotted": rows, "compared": metrics, "grid": _grid(analysis)}


def _averaged(row: Row, analyses: Sequence[Row]) -> dict[str, Any]:
    """An average with a line for each of its labels: its place on the page, head counts, threshold and overall metrics."""
    wanted = {*row["names"], *(one["name"] for one in row["left_out"])}
    lines = [
        {
            "place": place,
            "name": analysis["name"],
            "cohort": analysis["cohort"],
            "threshold": analysis["threshold"]["value"],
            "of": {one["metric"]: one for one in analysis["estimates"] if not one["attribute"]},
        }
        for place, analysis in enumerate(analyses, 1)
        if analysis["name"] in wanted
    ]
    return {**row, "lines": lines}


def _grid(analysis: Row) -> list[tuple[str, list[tuple[str, list[Row | None]]]]]:
    """For each attribute its groups, and for each of these a verdict a metric, None where there is none."""
    metrics = list(dict.fromkeys(gap["metric"] for gap in analysis["gaps"]))
    cells: dict[str, dict[str, dict[str, Row]]] = {}
    for gap in analysis["gaps"]:
        cells.setdefault(gap["attribute"], {}).setdefault(gap["group"], {})[gap["metric"]] = gap
    return [
        (attribute, [(group, [row.get(metric) for metric in metrics]) for group, row in groups.items()])
        for attribute, groups in cells.items()
    ]


def _embedded(pictures: Mapping[str, Path]) -> tuple[dict[str, str], Sequence[str]]:
    """Caption -> data address of the pictures that fit, and the captions of the others."""
    inside: dict[str, str] = {}
    outside: list[str] = []
    room = PICTURE_BYTES
    for caption, path in pictures.items():
        try:
            content = Path(path).read_bytes()
        except OSError:
            raise UserError(f"report: picture {path} cannot be read; give the path of a PNG file") from None
        if not content.startswith(PNG):
            raise UserError(f"report: picture {path} is not a PNG file; save it as PNG")
        if len(content) > room:
            outside.append(caption)
            continue
        room -= len(content)
        inside[caption] = "data:image/png;base64," + base64.b64encode(content).decode()
    return inside, outside


def clean(text: object) -> str:
    """Text without control and direction characters, which could reorder what a reader sees."""
    return "".join(c for c in str(text) if unicodedata.category(c)[0] != "C")


def tame(text: object) -> str:
    """A label as one short line: cleaned, and cut when it is too long."""
    plain = clean(text)
    return plain if len(plain) <= LONGEST_LABEL else plain[: LONGEST_LABEL - 1] + "…"


def _metric(name: str) -> str:
    return METRICS.get(name, "Dice, " + tame(name.removeprefix("dice_")) if name.startswith("dice_") else tame(name))


def _number(value: float | None) -> str:
    return "" if value is None else f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def _signed(value: float) -> str:
    rounded = round(value, 2) + 0.0
    return f"{rounded:+.2f}".replace("-", "−") if rounded else "0.00"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"
