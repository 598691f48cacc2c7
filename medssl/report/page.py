"""report.json and report.html, written from the same content, so that they cannot disagree."""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medssl.atomic import write_json, write_text
from medssl.errors import UserError
from medssl.report.forest import forest

TEMPLATE = Path(__file__).parent / "report.html"

LONGEST_LABEL = 60
"""Characters of a group's name that are shown; a name can be anything that a table holds."""

VERDICTS = {
    "gap": "difference shown",
    "equivalent": "within the margin",
    "inconclusive": "cannot conclude",
    "suppressed": "too few patients",
    "not evaluated": "one level: not evaluated",
}
METRICS = {"auroc": "AUROC", "sensitivity": "sensitivity", "specificity": "specificity", "dice_mean": "mean Dice"}


def write_report(report: Mapping[str, Any], folder: Path | str, pictures: Mapping[str, Path] | None = None) -> Path:
    """The path of report.html in `folder`, written beside report.json. `pictures` (caption -> PNG) are embedded."""
    from jinja2 import UndefinedError

    folder = Path(folder)
    try:
        page = render(report, pictures or {})
    except (KeyError, UndefinedError) as error:
        raise UserError(f"report: {error} is missing; give the report.json that medssl evaluate wrote") from None
    write_json(folder / "report.json", report)
    write_text(folder / "report.html", page)
    return folder / "report.html"


def render(report: Mapping[str, Any], pictures: Mapping[str, Path]) -> str:
    """The page as text: one file, no script, no address outside itself; every label is escaped."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "number": _number,
        "interval": _interval,
        "percent": _percent,
        "tame": tame,
        "metric": _metric,
    }
    analyses = []
    for place, analysis in enumerate(report["analyses"]):
        primary = analysis["primary_metric"]
        rows = [row | {"group": tame(row["group"])} for row in analysis["estimates"] if row["metric"] == primary]
        title = f"{_metric(primary)} of {tame(analysis['name'])}, overall and by group"
        drawing = forest(rows, title, f"{_metric(primary)} with 95 % interval", f"forest{place}")
        analyses.append(
            {**analysis, "forest": Markup(drawing), "grid": _grid(analysis)}
        )  # made by us, its texts escaped
    shown = {
        caption: "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        for caption, path in pictures.items()
    }
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(report=report, analyses=analyses, pictures=shown, verdicts=VERDICTS)


def tame(text: object) -> str:
    """A label as one short line: control and direction characters are dropped, what is too long is cut."""
    plain = "".join(c for c in str(text) if unicodedata.category(c)[0] != "C")
    return plain if len(plain) <= LONGEST_LABEL else plain[: LONGEST_LABEL - 1] + "…"


def _grid(analysis: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Verdicts by attribute."""
    attributes: dict[str, list[Mapping[str, Any]]] = {}
    for gap in analysis["gaps"]:
        attributes.setdefault(gap["attribute"], []).append(gap)
    return list(attributes.items())


def _metric(name: str) -> str:
    return METRICS.get(name, "Dice, " + tame(name.removeprefix("dice_")) if name.startswith("dice_") else tame(name))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _interval(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return ""
    return f"{row['value']:.2f}" + (f" ({row['low']:.2f} to {row['high']:.2f})" if row["low"] is not None else "")
