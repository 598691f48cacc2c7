"""What is measured of outlines: columns of the predictions table, a prefix for each measure and the structure's name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from medssl.evaluate.overlap import dice
from medssl.evaluate.surfaces import apart


class Measure(NamedTuple):
    """How a measure is called, its unit ("": a share), and whether more is better."""

    name: str
    unit: str = ""
    more_is_better: bool = True


MEASURES = {
    "dice_": Measure("Dice"),
    "nsd_": Measure("surface Dice"),
    "hd95_": Measure("HD95", "mm", more_is_better=False),
}
"""Prefix of a column -> what it measures. A column ending in "mean" is the mean over the structures that have one."""

FAILURES = {
    "missed_": Measure("missed", more_is_better=False),
    "invented_": Measure("invented", more_is_better=False),
}
"""1 or 0: a structure that is there and of which nothing was found (blank: it is not there); one found that is not there
(blank: it is there)."""

MEDIAN = "median_"
"""Before the name of a column, that of its median."""

VOLUME, VOLUME_ERROR = "volume_ml_", "volume_error_ml_"
"""Before the name of a structure, how large the reference is (0: it is not there), and how much more was found."""

RIGHT = {"dice_": 1.0, "nsd_": 1.0, "hd95_": 0.0}
"""What it is worth to find nothing where nothing is, beside a model that found something."""

CONVENTIONS = (
    "A structure that is absent and not found has no Dice, surface Dice or HD95 (blank). One that was missed, or "
    "found where there is none, has Dice 0, surface Dice 0 and as HD95 the diagonal of the volume, so that no failure "
    "is dropped; how many there are stands under missed and invented. HD95 is the larger of the two distances (of the "
    "reference from what was found, and the reverse) within which 95 % of a surface is, by area."
)
"""What a reader of the numbers must know."""


def measured(
    truth: np.ndarray | None,
    found: np.ndarray,
    structures: Sequence[str],
    spacing: Sequence[float],
    tolerance_mm: float,
) -> dict[str, float]:
    """The columns of one volume: each measure of each structure (1, 2, ... in the label maps) and its mean, failures, how
    large it is and by how much more was found (ml), and the tolerance of the surface Dice.

    nan where there is nothing to measure, see `dice` and `apart`; of a mean where no structure has one; all without truth.
    """
    columns: dict[str, dict[str, float]] = {prefix: {} for prefix in (*MEASURES, *FAILURES, VOLUME, VOLUME_ERROR)}
    ml = float(np.prod(spacing)) / 1000
    for number, name in enumerate(structures, 1):
        if truth is None:
            for values in columns.values():
                values[name] = float("nan")
            continue
        inside, answer = truth == number, found == number
        there, seen = bool(inside.any()), bool(answer.any())
        columns["dice_"][name] = dice(inside, answer)
        columns["hd95_"][name], columns["nsd_"][name] = apart(inside, answer, spacing, tolerance_mm)
        columns["missed_"][name] = float(not seen) if there else float("nan")
        columns["invented_"][name] = float("nan") if there else float(seen)
        columns[VOLUME][name] = int(inside.sum()) * ml
        columns[VOLUME_ERROR][name] = (int(answer.sum()) - int(inside.sum())) * ml
    for prefix in MEASURES:
        known = [value for value in columns[prefix].values() if not np.isnan(value)]
        columns[prefix]["mean"] = float(np.mean(known)) if known else float("nan")
    told = {prefix + name: value for prefix, values in columns.items() for name, value in values.items()}
    return {**told, "tolerance_mm": tolerance_mm}


def columns_of(names: Iterable[str]) -> list[str]:
    """Those of a table's columns that measure outlines, by measure, the mean before the structures.

    Failures are told from attributes of like names by the structure, which has another measure.
    """
    there = set(names)
    ordered = sorted(_structures(there), key=lambda name: (name != "mean", name))
    return [prefix + name for prefix in (*MEASURES, *FAILURES) for name in ordered if prefix + name in there]


def volumes_of(names: Iterable[str]) -> list[str]:
    """Those of a table's columns that tell how large a measured structure is, or by how much more was found."""
    there = set(names)
    return sorted(
        prefix + name for prefix in (VOLUME, VOLUME_ERROR) for name in _structures(there) if prefix + name in there
    )


def _structures(names: set[str]) -> set[str]:
    """The structures that have a measure, and "mean" where that is one of them."""
    return {name[len(prefix) :] for name in names for prefix in MEASURES if name.startswith(prefix)}


def split_name(metric: str) -> tuple[str, str]:
    """The prefix and the structure of an outline's column or its median; "" and the metric where it is none."""
    column = metric.removeprefix(MEDIAN)
    for prefix in (*MEASURES, *FAILURES):
        if column.startswith(prefix):
            return prefix, column[len(prefix) :]
    return "", metric


def title_of(metric: str) -> tuple[str, str]:
    """What a metric of outlines is called, and of which structure ("": the mean over structures).

    Of another metric its own name and "".
    """
    prefix, structure = split_name(metric)
    what = measure_of(metric).name
    middle = metric.startswith(MEDIAN) and prefix != ""
    if prefix in MEASURES and structure == "mean":
        return f"median of mean {what}" if middle else f"mean {what}", ""
    return f"median {what}" if middle else what, structure if prefix else ""


def measure_of(metric: str) -> Measure:
    """What a metric of the report measures; one that is not of outlines is a share of which more is better."""
    prefix, _ = split_name(metric)
    return {**MEASURES, **FAILURES}.get(prefix, Measure(metric))
