"""The first screen of an analysis: what the model does, for whom, and what cannot be concluded."""

from __future__ import annotations

from typing import Any

from medssl.report.words import VERDICTS, Row, hundred, metric, numbers, rest_of

MOST_COMPARED = 3
"""Metrics whose verdicts stand on the first screen; the others stand below."""

MOST_SENTENCES = 6
"""Groups told at once of those that nobody should rely on it for; the others can be opened."""


def screen(analysis: Row) -> dict[str, Any]:
    """What stands on the first screen of an analysis.

    `headline` is the metric drawn: where a threshold was fixed sensitivity, which a clinician asks for first; else the
    primary one. `lines` are (row, cells): its estimates, everybody first, each with the gap of each of `compared` (None:
    there is none). `tiles` are (number, words). `rely` and `open` are sentences of evaluate/power.py; `others` those of the
    other metrics. `flow` are (count, words), from the table to what was judged.
    """
    compared = list(dict.fromkeys(gap["metric"] for gap in analysis["gaps"]))
    whole = {row["metric"]: row for row in analysis["estimates"] if not row["attribute"]}
    headline = analysis["primary_metric"]
    if whole.get("sensitivity", {}).get("value") is not None:
        headline = "sensitivity"
    first = sorted(compared, key=lambda name: name != headline)[:MOST_COMPARED]
    gaps = {(gap["metric"], gap["attribute"], gap["group"]): gap for gap in analysis["gaps"]}
    rows = [row for row in analysis["estimates"] if row["metric"] == headline]
    lines = [(row, [gaps.get((name, row["attribute"], row["group"])) for name in first]) for row in rows]
    power = analysis.get("power", [])
    own = [row for row in power if row["metric"] == headline]
    return {
        "headline": headline,
        "compared": first,
        "all_compared": compared,
        "lines": lines,
        "tiles": [*_tiles(analysis, whole), _verdicts(analysis)],
        "rely": [row["sentence"] for row in own if row["standing"] == "too few"],
        "open": [row["sentence"] for row in own if row["standing"] == "open"],
        "others": [row["sentence"] for row in power if row["metric"] != headline and row["of"] is not None],
        "flow": _flow(analysis),
    }


def _tiles(analysis: Row, whole: Row) -> list[tuple[str, str]]:
    """How good it is in numbers out of 100, before any that takes statistics to read; each with its interval."""
    first = whole[analysis["primary_metric"]]
    name = metric(first["metric"])
    if first["value"] is None:
        return [("?", f"{name}: {first['reason']}")]
    if analysis["task"] == "segmentation":
        return [(numbers(first), f"{name}, {first['n_patients']} patients")]
    told = []
    found, spared = whole.get("sensitivity"), whole.get("specificity")
    if found and found["value"] is not None:
        told.append((hundred(found), "of 100 with the finding are found"))
    if spared and spared["value"] is not None:
        told.append((hundred(rest_of(spared)), "of 100 without it are flagged wrongly"))
    right = _of_everybody(analysis).get("ppv")
    if right:
        told.append((hundred(right), "of 100 that are flagged here have it"))
    return [*told, (numbers(first), f"{name}: ranking, whatever the threshold")]


def _of_everybody(analysis: Row) -> Row:
    """The rates at the threshold of everybody, where the report has them."""
    rows = analysis.get("sections", {}).get("operating", {}).get("rows", [])
    return rows[0]["rates"] if rows else {}


def _verdicts(analysis: Row) -> tuple[str, str]:
    counts = dict.fromkeys(VERDICTS, 0)
    for gap in analysis["gaps"]:
        counts[gap["verdict"]] += 1
    evaluated = sum(counts.values()) - counts["not evaluated"]
    if not evaluated:
        return "0", "comparisons of a group with all others"
    told = ", ".join(f"{counts[key]} {VERDICTS[key][1]}" for key in VERDICTS if key != "not evaluated" and counts[key])
    return str(evaluated), f"comparisons of a group with all others: {told}"


def _flow(analysis: Row) -> list[tuple[str, str]]:
    cohort = analysis["cohort"]
    things = "volumes" if analysis["task"] == "segmentation" else "images"
    lost = "with nothing to judge" if analysis["task"] == "segmentation" else "without label or score"
    steps = [
        (str(cohort["n_rows"] + cohort["n_left_out"]), f"{things} of this split in the table"),
        (str(cohort["n_left_out"]), f"left out, {lost}"),
        (str(cohort["n_rows"]), f"judged, of {cohort['n_patients']} patients"),
    ]
    if cohort["n_positive"] is not None:
        steps.append(
            (str(cohort["n_positive"]), f"with the finding, {cohort['n_rows'] - cohort['n_positive']} without")
        )
    hidden = sum(bool(group["reason"]) for attribute in cohort["attributes"] for group in attribute["groups"])
    if hidden:
        steps.append((str(hidden), f"{'group' if hidden == 1 else 'groups'} not shown, too few or hidden for another"))
    return steps
