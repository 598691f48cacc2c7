"""A comparison in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medssl.evaluate.groups import Row
from medssl.evaluate.outlines import RIGHT, measure_of, split_name

TWO_RUNS = "This compares two runs, not two ways of training: that takes several seeds of each."

FEW_RUNS = (
    "This compares {runs} runs of each, too few to know how far runs of one way of training lie apart: the intervals, over "
    "patients and runs, may be too narrow where the runs happen to agree. Give at least three of each."
)

SEVERAL_RUNS = (
    "This compares two ways of training by {runs} runs of each: the intervals are over patients and over runs, the n-th of "
    "both taken as a pair."
)

ENOUGH_RUNS = 3
"""Seeds of each from which on ways of training are compared, and not runs."""

MANY_GROUPS = (
    " Verdicts by group go by intervals that hold for all groups of an attribute at once; those of several attributes"
    " and tasks are not corrected for each other."
)

ONE_BLANK = " Where a structure is blank in one table only, the blank counts as {}: finding nothing was right."

LESS_IS_BETTER = " {} less is better."

LEVELLED = (
    "{where}{attribute}: levelling down {certainty}: {best} and {worst} are {second_spread:.3f} apart instead of "
    "{first_spread:.3f} while {best}, the best group of the first model, changed by {best_change:+.3f}{unit} and {worst} by "
    "{worst_change:+.3f}{unit}."
)

CERTAINTY = {"shown": "shown", "seen": "seen, within what chance explains"}
"""Of levelling down, in words; no other state of it is told."""


def note(content: Mapping[str, Any]) -> str:
    """What must be known to read the numbers."""
    runs, metric = content["runs"], content["metric"]
    told = TWO_RUNS if runs == 1 else (FEW_RUNS if runs < ENOUGH_RUNS else SEVERAL_RUNS).format(runs=runs)
    told += MANY_GROUPS if content["gap_changes"] else ""
    prefix, unit = split_name(metric)[0], measure_of(metric).unit
    told += ONE_BLANK.format(f"{RIGHT[prefix]:g} {unit}".strip()) if prefix else ""
    return told + (
        "" if content["more_is_better"] else LESS_IS_BETTER.format("Of distances" if unit else "Of this metric")
    )


def sentences(content: Mapping[str, Any]) -> list[str]:
    """The rows in words, the note last."""
    metric, margin = content["metric"], content["margin"]
    unit = f" {measure_of(metric).unit}".rstrip()
    found = [_difference(row, metric, unit, margin) for row in content["results"]]
    found += [_change(row, unit, margin) for row in content["gap_changes"]]
    found += [
        LEVELLED.format(**row, where=_where(row), unit=unit, certainty=CERTAINTY[row["state"]])
        for row in content["levelling_down"]
        if row["state"] in CERTAINTY
    ]
    found += [_dropped(row) for row in content["dropped"] if row["n_rows"] != 0]
    return [*found, content["note"]]


def _where(row: Row) -> str:
    return f"{row['task']}: " if row["task"] else ""


def _difference(row: Row, metric: str, unit: str, margin: float | None) -> str:
    where = _where(row) + (f"{row['attribute']} {row['group']}: " if row["attribute"] else "")
    if row["value"] is None:
        return f"{where}not compared, {row['reason']}."
    if row["low"] is None:
        between, verdict = f", no interval ({row['method'].removeprefix('none: ')})", ""
    else:
        between = f" (95 % interval {row['low']:+.3f} to {row['high']:+.3f})"
        between += ", which does not leave out zero" if row["low"] <= 0 <= row["high"] else ""
        among = (
            f" among all groups ({row['adjusted_low']:+.3f} to {row['adjusted_high']:+.3f})" if row["attribute"] else ""
        )
        verdict = f"; {_words(row['verdict'], unit, margin)}{among}"
    return (
        f"{where}{metric} {row['first']:.3f} -> {row['second']:.3f}, difference {row['value']:+.3f}{unit}{between}{verdict}"
        + ("." if row["n_patients"] is None else f"; {row['n_patients']} patients.")
    )


def _words(verdict: str, unit: str, margin: float | None) -> str:
    if verdict == "not worse":
        return f"not worse by {margin:g}{unit}"
    return {"inconclusive": "cannot conclude"}.get(verdict, verdict)


def _change(row: Row, unit: str, margin: float | None) -> str:
    where = f"{_where(row)}gap of {row['attribute']} {row['group']} to the rest"
    if row["value"] is None:
        return f"{where}: not compared, {row['reason']}."
    moved = f"{row['first_gap']:+.3f} -> {row['second_gap']:+.3f}, change {row['value']:+.3f}{unit}"
    if row["low"] is None:
        return f"{where}: {moved}, no interval ({row['reason']})."
    told = {
        "inconclusive": f"cannot conclude (a change of {row['smallest_detectable']:.3f}{unit} could have been found)",
        "unchanged": f"unchanged within {margin}{unit}",
    }.get(row["verdict"], row["verdict"])
    return f"{where}: {moved} ({row['adjusted_low']:+.3f} to {row['adjusted_high']:+.3f} among all groups): {told}."


def _dropped(row: Row) -> str:
    who = f"{row['attribute']} {row['group']}: " if row["attribute"] else ""
    count = row["reason"] or f"{row['n_patients']} patients ({row['n_rows']} rows)"
    return f"{_where(row)}{who}left out, only the {row['only']} model answered: {count}."
