"""Three sentences that a clinician can read first: how good, for whom not, and what cannot be said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medssl.evaluate.outlines import measure_of, title_of

Row = dict[str, Any]

LONGEST_NAME = 60
"""Characters of a group's or a table's name that a sentence holds."""

NAMES = {"auroc": "AUROC"}

OPEN = ("inconclusive", "suppressed")
"""Verdicts by which nothing is known of a difference."""

THRESHOLDS = {
    "validation": "at the threshold fixed on validation patients",
    "given": "at the threshold given",
    "judged": "at a threshold chosen on these same patients",
}


def findings(analyses: Sequence[Row], averages: Sequence[Row], margin: float) -> list[str]:
    """Three sentences. An absent gap is never called proof of its absence."""
    return [_how_good(analyses, averages), _for_whom(analyses, averages), _what_not(analyses, margin)]


def _how_good(analyses: Sequence[Row], averages: Sequence[Row]) -> str:
    """A part for each analysis; for those of one table with several labels, one for all of them."""
    several = _of_several(averages)
    parts = [_mean(row) for row in averages]
    parts += [_one(analysis) for analysis in analyses if analysis["name"] not in several]
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."


def _of_several(averages: Sequence[Row]) -> set[str]:
    """The names of the analyses that are each of one of a table's labels."""
    return {name for row in averages for name in (*row["names"], *(one["name"] for one in row["left_out"]))}


def _mean(row: Row) -> str:
    without = len(row["left_out"])
    lacking = f"; {without} {'label' if without == 1 else 'labels'} cannot be judged" if without else ""
    if row["value"] is None:
        return f"{_brief(row['table'])} cannot be judged ({row['reason']})"
    return (
        f"for {_brief(row['table'])}, the mean AUROC of {len(row['names'])} labels is {_interval(row)}, "
        f"{row['n_patients']} patients{lacking}"
    )


def _one(analysis: Row) -> str:
    whole = {row["metric"]: row for row in analysis["estimates"] if not row["attribute"]}
    row, name = analysis["estimates"][0], _brief(analysis["name"])
    if row["value"] is None:
        return f"{name} cannot be judged ({row['reason']})"
    if analysis["task"] == "segmentation":
        told, counted = _spoken(row["metric"]), f"{row['n_patients']} patients{_missed(whole)}"
        if measure_of(row["metric"]).unit:
            return f"for {name}, outlines found lie off the reference by {_interval(row)}, {told}, {counted}"
        return f"for {name}, outlines found overlap the reference with a {told} of {_interval(row)}, {counted}"
    ranked = f"AUROC {_interval(row)}, {row['n_patients']} patients"
    found, spared = whole.get("sensitivity"), whole.get("specificity")
    if found and spared and found["value"] is not None and spared["value"] is not None:
        return (
            f"for {name}, {THRESHOLDS[analysis['threshold']['source']]}, the model finds {100 * found['value']:.0f} of "
            f"100 cases with it and flags {100 - 100 * spared['value']:.0f} of 100 without it ({ranked})"
        )
    return (
        f"for {name}, of 100 pairs of a case with and one without it the model ranks about {100 * row['value']:.0f} "
        f"the right way ({ranked})"
    )


def _for_whom(analyses: Sequence[Row], averages: Sequence[Row]) -> str:
    """The largest gap shown; the primary metric before others, single attributes before crossings made of them."""
    shown = [
        (a, gap)
        for a in analyses
        for gap in _distinct(a["gaps"])
        if gap["verdict"] == "gap" and "*" not in gap["attribute"]
    ]
    if not shown:
        verdicts = [gap["verdict"] for a in analyses for gap in _distinct(a["gaps"])]
        open_, settled = (sum(verdict in of for verdict in verdicts) for of in (OPEN, ("equivalent",)))
        why = f"; {'most' if open_ > settled else 'some'} comparisons came to no conclusion" if open_ else ""
        return f"No difference between a group and all others was shown, which does not mean there is none{why}."
    analysis, gap = max(
        shown,
        key=lambda pair: (
            pair[1]["metric"] == pair[0]["primary_metric"],
            not measure_of(pair[1]["metric"]).unit,  # millimetres are not larger than shares
            abs(pair[1]["value"]),
        ),
    )
    word = "worse" if _goodness(gap) < 0 else "better"
    others = len(shown) - 1
    more = f"; {others} more {'gap is' if others == 1 else 'gaps are'} listed below" if others else ""
    # Max-T corrects within an attribute of one label, not for how many labels were asked.
    more += ", some of them by chance where many labels are asked" if others and _of_several(averages) else ""
    return (
        f"It does {word} for {_brief(gap['attribute'])} {_brief(gap['group'])} than for all others in "
        f"{_brief(analysis['name'])}: {_spoken(gap['metric'])} "
        f"{gap['group_value']:.2f} against {gap['rest_value']:.2f}, a difference of {_interval(gap)}{more}."
    )


def _what_not(analyses: Sequence[Row], margin: float) -> str:
    primary = [gap for a in analyses for gap in _distinct(a["gaps"]) if gap["metric"] == a["primary_metric"]]
    verdicts = [gap["verdict"] for gap in primary if gap["verdict"] != "not evaluated"]
    open_, hidden = verdicts.count("inconclusive"), verdicts.count("suppressed")
    missing = [
        (attribute["unknown_share"], attribute["attribute"])
        for a in analyses
        for attribute in a["cohort"]["attributes"]
        if attribute["unknown_share"] and "*" not in attribute["attribute"]
    ]
    share, name = max(missing, default=(0.0, ""))
    lacking = f"; {_brief(name)} is not recorded for {100 * share:.0f} % of patients" if share > 0 else ""
    if not verdicts:
        return f"No attribute with two groups was there to compare{lacking}."
    of = "" if measure_of(primary[0]["metric"]).unit else f" of {margin:.2f}"
    by = _brief(" or ".join(dict.fromkeys(_spoken(gap["metric"]) for gap in primary)))
    many = "comparison" if len(verdicts) == 1 else "comparisons"
    hide = f", and {hidden} {'is' if hidden == 1 else 'are'} not shown" if hidden else ""
    return (
        f"Of {len(verdicts)} {many} of a group with all others by {by}, {open_} {'is' if open_ == 1 else 'are'} too "
        f"uncertain to conclude whether a difference{of} exists{hide}{lacking}."
    )


def _distinct(gaps: Sequence[Row]) -> list[Row]:
    """One row for each comparison: with two groups, each against the other is the same one, told for the worse side."""
    families: dict[tuple[str, str], list[Row]] = {}
    for gap in gaps:
        families.setdefault((gap["metric"], gap["attribute"]), []).append(gap)
    found: list[Row] = []
    for rows in families.values():
        found += [min(rows, key=_goodness)] if len(rows) == 2 else rows
    return found


def _brief(name: str) -> str:
    """A name that leaves room for the sentence; a table may hold one of any length."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _interval(row: Row) -> str:
    unit = measure_of(row["metric"]).unit
    value = f"{row['value']:.2f} {unit}".strip()
    if row["low"] is None:
        return value
    return f"{value} (95 % interval {row['low']:.2f} to {row['high']:.2f})"


def _goodness(gap: Row) -> float:
    """A difference with the sign by which more is better; 0 where there is none."""
    return (gap["value"] or 0.0) * (1 if measure_of(gap["metric"]).more_is_better else -1)


def _spoken(metric: str) -> str:
    what, structure = title_of(metric)
    return NAMES.get(metric, f"{what} of {structure}" if structure else what)


def _missed(whole: dict[str, Row]) -> str:
    """How many of the outlines of the reference were missed altogether; "" where the table does not tell."""
    rows = [row for metric, row in whole.items() if metric.startswith("missed_") and row["n_rows"]]
    if not rows:
        return ""
    count, there = sum(row["n_positive"] for row in rows), sum(row["n_rows"] for row in rows)
    return f"; of {there} outlines {count or 'none'} {'were' if count > 1 else 'was'} missed altogether"
