"""report.json and report.html, written from the same content, so that they cannot disagree."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl.atomic import write_json, write_text
from medssl.errors import UserError
from medssl.evaluate.outlines import FAILURES, MEASURES, MEDIAN, split_name
from medssl.report import crosswalk, words
from medssl.report.forest import forest
from medssl.report.markdown import as_markdown, model_card
from medssl.report.provenance import lines_of
from medssl.report.rail import axis, rail, scale_of
from medssl.report.screen import MOST_SENTENCES, screen
from medssl.report.sections import DRAWINGS
from medssl.report.tables import as_csv, tables
from medssl.report.words import VERDICTS, Row, clean, tame

FOLDER = Path(__file__).parent

PICTURE_BYTES = 1_200_000
"""Bytes of pictures that a page takes, so that it stays under 2 MB after base64."""

PNG = b"\x89PNG\r\n\x1a\n"


def write_report(
    report: Mapping[str, Any], folder: Path | str, pictures: Mapping[str, Path] | None = None, *, command: str = ""
) -> Path:
    """The path of report.html in `folder`, written beside report.json and what else is made of it: report.md, model_card.md,
    and estimates.csv, gaps.csv and a CSV for each further part with rows.

    `pictures` (caption -> PNG) are embedded, as many as fit in a page under 2 MB; the page names those that do not.
    `command` is kept as provenance: what the user typed. Raises UserError, and writes nothing, where `report` is none.
    """
    from jinja2 import UndefinedError

    folder = Path(folder)
    try:
        if command:
            report = {**report, "provenance": {**report["provenance"], "command": command}}
        texts = {"report.html": render(report, pictures or {})}
        texts |= {"report.md": as_markdown(report), "model_card.md": model_card(report)}
        texts |= {f"{name}.csv": as_csv(rows) for name, rows in tables(report).items()}
    except (KeyError, UndefinedError) as error:
        raise UserError(f"report: {error} is missing; give the report.json that medssl evaluate wrote") from None
    except UserError:
        raise
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"report: cannot be drawn ({error}); give the report.json that medssl evaluate wrote") from None
    write_json(folder / "report.json", report)
    for name, text in texts.items():
        write_text(folder / name, text)
    return folder / "report.html"


def render(report: Mapping[str, Any], pictures: Mapping[str, Path]) -> str:
    """The page as text: one file, no script, no address outside itself; every label is escaped."""
    environment = _environment()
    analyses = [_shown(analysis, place, environment) for place, analysis in enumerate(report["analyses"])]
    averages = [_averaged(row, report["analyses"]) for row in report.get("averages", [])]
    inside, outside = _embedded(pictures)
    page = environment.get_template("report.html").render(
        report=report, analyses=analyses, averages=averages, pictures=inside, too_large=outside, verdicts=VERDICTS,
        provenance=lines_of(report), crosswalk=_crosswalk(analyses[0]), check=crosswalk.CHECK, most_sentences=MOST_SENTENCES,
    )  # fmt: skip
    return _numbered(_numbered(page, "caption", "Table"), "figcaption", "Figure")


def _environment() -> Any:
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
        "number": words.number,
        "signed": words.signed,
        "interval": words.numbers,
        "percent": words.percent,
        "tame": tame,
        "clean": clean,
        "metric": words.metric,
        "brief": words.brief,
        "required": words.required,
        "failed": words.failed,
        "hundred": words.hundred,
        "rest_of_hundred": lambda rate: words.hundred(words.rest_of(rate)),
    }
    return environment


def _numbered(page: str, element: str, word: str) -> str:
    """The page with every caption numbered, in the order of the page, so that a sentence can name one.

    Names from a table are escaped: no caption is theirs. Counters of a style sheet would start again in folded parts.
    """
    parts = re.split(rf"(<{element}[^>]*>)", page)
    for count, place in enumerate(range(1, len(parts), 2), 1):
        parts[place] += f"<strong>{word} {count}.</strong> "
    return "".join(parts)


def _crosswalk(first: Row) -> list[tuple[crosswalk.Item, list[dict[str, str]]]]:
    """The items of guidelines with links to those of their parts that the page has."""
    titles = first["parts"]
    own = {"provenance": "provenance"}
    return [
        (item, [{"title": titles[part], "address": own.get(part, f"analysis1-{part}")} for part in parts])
        for item, parts in crosswalk.crosswalk(titles)
    ]


def _shown(analysis: Row, place: int, environment: Any) -> dict[str, Any]:
    """An analysis with what is drawn from it: its first screen, the plot, the sections and the grid of verdicts."""
    from markupsafe import Markup

    primary = analysis["primary_metric"]
    rows = [
        {**row, "group": tame(row["group"]), "attribute": tame(row["attribute"])}
        for row in analysis["estimates"]
        if row["metric"] == primary
    ]
    first = screen(analysis)
    scale = scale_of([row for row, _ in first["lines"]])
    # Markup is safe: the drawings are made here of numbers, and texts in them are escaped.
    first |= {"axis": Markup(axis(scale)), "rails": [Markup(rail(row, scale)) for row, _ in first["lines"]]}
    plot = ""
    if primary != first["headline"]:
        title = f"{words.metric(primary)} of {tame(analysis['name'])}, overall and by group"
        label = f"{words.metric(primary)} with 95 % interval; right: patients"
        plot = Markup(forest(rows, title, label, f"forest{place}"))
    sections = [_section(name, content, place, environment) for name, content in analysis.get("sections", {}).items()]
    parts = {**crosswalk.PARTS, **{section["name"]: section["title"] for section in sections}}
    absent = {"operating"} - set(analysis.get("sections", {})) | (set() if analysis["gaps"] else {"gaps"})
    return {
        **analysis, "forest": plot, "plotted": rows, "screen": first, "grid": _grid(analysis), **_outlined(analysis),
        "sections": sections, "parts": {part: title for part, title in parts.items() if part not in absent},
    }  # fmt: skip


def _section(name: str, content: Row, place: int, environment: Any) -> dict[str, Any]:
    """A section as drawn by its template, with its title, the first heading there."""
    from markupsafe import Markup

    figures = DRAWINGS[name](words.tamed(content), f"{name}{place}") if name in DRAWINGS else {}
    template = f"sections/{name}.html"
    if not (FOLDER / template).is_file():
        raise ValueError(f"it has a section {name!r}, which this version does not know")
    drawn = environment.get_template(template).render(
        content=content, figures={one: Markup(svg) for one, svg in figures.items()}, verdicts=VERDICTS
    )
    heading = re.search(r"<h3[^>]*>(.*?)</h3>", drawn, re.S)
    return {"name": name, "title": Markup(heading[1] if heading else name), "drawn": Markup(drawn)}


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
        "measure_heads": [words.metric(kind) for kind in kinds],
        "measures": [(name, [line.get(kind) for kind in kinds]) for name, line in overall.items()],
        "failure_heads": [words.metric(metric) for metric in failures],
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
