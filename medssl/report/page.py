"""report.json and report.html, written from the same content, so that they cannot disagree."""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl.atomic import write_json, write_text
from medssl.errors import UserError
from medssl.evaluate.outlines import FAILURES, MEASURES, MEDIAN, measure_of, split_name, title_of
from medssl.report.forest import forest, numbers
from medssl.report.sections import DRAWINGS

FOLDER = Path(__file__).parent

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
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["failure"] = lambda metric: split_name(metric)[0] in FAILURES
    environment.filters |= {
        "number": _number,
        "signed": _signed,
        "interval": numbers,
        "percent": _percent,
        "tame": tame,
        "clean": clean,
        "metric": _metric,
        "failed": _failed,
        "hundred": lambda rate: f"{100 * rate['value']:.0f} ({100 * rate['low']:.0f} to {100 * rate['high']:.0f})",
        "rest_of_hundred": lambda rate: (
            f"{100 - 100 * rate['value']:.0f} ({100 - 100 * rate['high']:.0f} to {100 - 100 * rate['low']:.0f})"
        ),
    }
    analyses = [_shown(analysis, place) for place, analysis in enumerate(report["analyses"])]
    averages = [_averaged(row, report["analyses"]) for row in report.get("averages", [])]
    inside, outside = _embedded(pictures)
    return environment.get_template("report.html").render(
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
    drawn = {"forest": Markup(drawing), "plotted": rows}
    sections = [_section(name, content, place) for name, content in analysis.get("sections", {}).items()]
    return {
        **analysis, **drawn, "compared": metrics, "grid": _grid(analysis), **_outlined(analysis), "sections": sections,
    }  # fmt: skip


def _section(name: str, content: Row, place: int) -> dict[str, Any]:
    """A section with its template and the figures that it has."""
    from markupsafe import Markup

    drawn = DRAWINGS[name](_tamed(content), f"{name}{place}") if name in DRAWINGS else {}
    template = f"sections/{name}.html"
    if not (FOLDER / template).is_file():
        raise ValueError(f"it has a section {name!r}, which this version does not know")
    return {"template": template, "content": content, "figures": {one: Markup(svg) for one, svg in drawn.items()}}


def _outlined(analysis: Row) -> dict[str, Any]:
    """Of a segmentation what stands in two tables: `measures` of each structure overall, and `failures` by group.

    Both are lists of lines, each with its cells in the order of `measure_heads` and `failure_heads` (None: no such row).
    """
    kinds = [*MEASURES, *(MEDIAN + prefix for prefix in MEASURES), *FAILURES]
    overall: dict[str, dict[str, Row]] = {}
    groups: dict[tuple[str, str], dict[str, Row]] = {}
    for row in analysis["estimates"]:
        prefix, structure = split_name(row["metric"])
        if not prefix:
            continue
        if not row["attribute"]:
            kind = MEDIAN + prefix if row["metric"].startswith(MEDIAN) else prefix
            overall.setdefault("mean of structures" if structure == "mean" else structure, {})[kind] = row
        if prefix in FAILURES:
            groups.setdefault((row["attribute"], row["group"]), {})[row["metric"]] = row
    kinds = [kind for kind in kinds if any(kind in line for line in overall.values())]
    failures = list(dict.fromkeys(metric for line in groups.values() for metric in line))
    return {
        "measure_heads": [_metric(kind) for kind in kinds],
        "measures": [(name, [line.get(kind) for kind in kinds]) for name, line in overall.items()],
        "failure_heads": [_metric(metric) for metric in failures],
        "failures": [(*group, [line.get(metric) for metric in failures]) for group, line in groups.items()],
    }


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


def _tamed(content: Any) -> Any:
    """The content with every text in it tamed: a drawing has no filters."""
    if isinstance(content, Mapping):
        return {key: _tamed(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_tamed(value) for value in content]
    return tame(content) if isinstance(content, str) else content


def _metric(name: str) -> str:
    """A metric for a reader, with the structure it is of and its unit."""
    what, structure = title_of(name)
    unit = measure_of(name).unit
    whole = METRICS.get(name, what if what != name else tame(name)) + (f", {tame(structure)}" if structure else "")
    return f"{whole} ({unit})" if unit else whole


def _failed(row: Row | None) -> str:
    """How many failures of how many volumes, or why that is not told."""
    if row is None or row["n_rows"] is None:
        return "" if row is None else row["reason"]
    return f"{row['n_positive']} of {row['n_rows']}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def _signed(value: float) -> str:
    rounded = round(value, 2) + 0.0
    return f"{rounded:+.2f}".replace("-", "−") if rounded else "0.00"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"
