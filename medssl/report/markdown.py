"""report.json as text: report.md, the page without its drawings, and a fragment for a model card."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from medssl.report import crosswalk
from medssl.report.provenance import lines_of
from medssl.report.screen import screen
from medssl.report.tables import files_of
from medssl.report.words import VERDICTS, Row, clean, metric, number, numbers, required, signed, tame

LIMITS = (
    "Small differences may be chance; a difference that was not shown may still exist; equal numbers need not mean equal "
    "care. Supports evidence; does not certify compliance with any regulation. Research software, not a medical device."
)

HUB_TASKS = {"classification": "image-classification", "segmentation": "image-segmentation"}
HUB_METRICS = {"auroc": "roc_auc", "sensitivity": "sensitivity", "specificity": "specificity", "dice_mean": "dice"}
"""What a model index calls a metric; those without a name there are not in it."""


def as_markdown(report: Row) -> str:
    """The report as Markdown: findings, first screen, gaps and estimates of each analysis, provenance and cross-walk.

    Names are escaped: none can become a heading, a link, a cell or HTML.
    """
    lines = [f"# {_plain(report['title'])}", "", _judged(report), ""]
    lines += [f"{k}. {_plain(sentence)}" for k, sentence in enumerate(report["findings"], 1)]
    lines += _required(report.get("criteria", {}).get("rows", []))
    for analysis in report["analyses"]:
        lines += ["", f"## {_name(analysis['name'])}", "", *_screen(analysis), *_details(analysis)]
    told = [[_plain(what), _plain(which)] for what, which in lines_of(report)]
    lines += ["", "## Where this comes from", "", *_table(["what", "which"], told)]
    there = {*crosswalk.PARTS, *(name for analysis in report["analyses"] for name in analysis.get("sections", {}))}
    items = [
        [
            item.document,
            item.item,
            item.asks,
            ", ".join(crosswalk.PARTS.get(part, part) for part in parts) or "not here",
        ]
        for item, parts in crosswalk.crosswalk(there)
    ]
    lines += ["", "## What supports evidence for which guideline", "", crosswalk.CHECK, ""]
    lines += _table(["document", "item", "what it asks, in our words", "supports evidence for it"], items)
    return "\n".join([*lines, "", LIMITS, ""])


def model_card(report: Row) -> str:
    """A fragment of a model card: a model index as YAML, and how the model does, for whom, and what is not known.

    What only its makers know (intended use, training data) is not in it. A metric without a value is left out of the index.
    """
    results = [_indexed(analysis, report["split"]) for analysis in report["analyses"]]
    index = {"model-index": [{"name": clean(report["title"]), "results": [one for one in results if one["metrics"]]}]}
    lines = ["---", yaml.safe_dump(index, sort_keys=False, allow_unicode=True).rstrip(), "---", "", "## Evaluation", ""]
    lines += [_judged(report), "", *(f"- {_plain(sentence)}" for sentence in report["findings"])]
    for analysis in report["analyses"]:
        lines += ["", f"### {_name(analysis['name'])}", "", *_screen(analysis)]
    digests = ", ".join(f"{_name(name)} {digest}" for name, digest in report["provenance"]["tables"].items())
    return "\n".join([*lines, "", f"Predictions: {digests}.", "", LIMITS, ""])


def _judged(report: Row) -> str:
    return (
        f"Judged on split {_name(report['split'])}. The patient is the unit, intervals are at 95 %. A difference of "
        f"{report['margin']:.2f} was declared to matter. Groups under {report['minimum_patients']} patients are not shown."
    )


def _required(rows: Sequence[Row]) -> Iterator[str]:
    if rows:
        yield from ("", "## What was required", "")
        cells = [
            [_name(row["analysis"]), required(row), _name(row["attribute"]), _name(row["group"]),
             numbers(row) or _plain(row["reason"]), row["verdict"]]
            for row in rows
        ]  # fmt: skip
        yield from _table(["analysis", "required", "attribute", "group", "value (95 % interval)", "verdict"], cells)


def _screen(analysis: Row) -> Iterator[str]:
    first = screen(analysis)
    if analysis["task"] == "classification":
        yield f"Threshold: {_plain(analysis['threshold']['provenance'])}."
        yield ""
    yield from (f"- **{value}** {_plain(words)}" for value, words in first["tiles"])
    yield ""
    compared = [f"{metric(name)}, minus others" for name in first["compared"]]
    heads = ["attribute", "group", "patients", metric(first["headline"]), *compared]
    yield from _table(heads, [_line(row, cells) for row, cells in first["lines"]])
    for head, sentences in ("Do not rely on it for", first["rely"]), ("Not settled either way", first["open"]):
        if sentences:
            yield from ("", f"{head}:", "", *(f"- {_plain(sentence)}" for sentence in sentences))
    yield from ("", "From the table to what was judged:", "")
    yield from (f"- {count} {words}" for count, words in first["flow"])
    if analysis["notes"]:
        yield from ("", *(f"- {_plain(note)}" for note in analysis["notes"]))


def _line(row: Row, cells: Sequence[Row | None]) -> list[str]:
    value = numbers(row) or _plain(row["reason"])
    counted = "" if row["n_patients"] is None else str(row["n_patients"])
    name = _name(row["group"]) if row["attribute"] else "all patients"
    return [_name(row["attribute"]), name, counted, value, *(_verdict(cell) for cell in cells)]


def _verdict(cell: Row | None) -> str:
    if cell is None:
        return ""
    words = VERDICTS[cell["verdict"]][1]
    return words if cell["value"] is None else f"{signed(cell['value'])} {words}"


def _details(analysis: Row) -> Iterator[str]:
    gaps = [
        [metric(gap["metric"]), _name(gap["attribute"]), _name(gap["group"]), number(gap["group_value"]),
         number(gap["rest_value"]), numbers(gap), number(gap["smallest_detectable"]), _reasoned(gap)]
        for gap in analysis["gaps"]
    ]  # fmt: skip
    if gaps:
        yield from ("", "### Differences between groups", "")
        heads = [
            "metric",
            "attribute",
            "group",
            "group's",
            "others'",
            "difference (95 % interval)",
            "detectable",
            "verdict",
        ]
        yield from _table(heads, gaps)
    rows = [
        [metric(row["metric"]), _name(row["attribute"]), _name(row["group"]),
         *("" if row[key] is None else str(row[key]) for key in ("n_patients", "n_rows", "n_positive")),
         numbers(row) or _plain(row["reason"]), row["method"] or ""]
        for row in analysis["estimates"]
    ]  # fmt: skip
    yield from ("", "### All estimates", "")
    heads = ["metric", "attribute", "group", "patients", "rows", "positive", "value (95 % interval)", "method"]
    yield from _table(heads, rows)
    for name, content in analysis.get("sections", {}).items():
        files = [f"{one}.csv" for one in files_of(name, content)]
        numbers_in = _listed([_plain(file) for file in files] + ["report.json"])
        yield from ("", f"The part {name} is drawn in report.html; its numbers are in {numbers_in}.")


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _reasoned(gap: Row) -> str:
    words = VERDICTS[gap["verdict"]][1]
    return f"{words} ({_plain(gap['reason'])})" if gap["reason"] and gap["verdict"] != "not evaluated" else words


def _indexed(analysis: Row, split: str) -> dict[str, Any]:
    metrics = [
        {
            "type": HUB_METRICS[row["metric"]],
            "value": round(row["value"], 4),
            "name": f"{metric(row['metric'])} {numbers(row)}",
        }
        for row in analysis["estimates"]
        if not row["attribute"] and row["value"] is not None and row["metric"] in HUB_METRICS
    ]
    data = {"name": clean(analysis["name"]), "type": "private", "split": split}
    return {"task": {"type": HUB_TASKS[analysis["task"]]}, "dataset": data, "metrics": metrics}


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _name(text: object) -> str:
    return _plain(tame(text))


def _plain(text: object) -> str:
    """Text that Markdown shows as it is."""
    safe = re.sub(r"([\\`*_{}\[\]#|!~$^])", r"\\\1", clean(text))
    safe = safe.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return safe.replace("://", "\\://").replace("www.", "www\\.").replace("@", "\\@")
