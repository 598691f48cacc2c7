"""Whether a group can be told from the site that it comes from, and what is left of a gap within sites."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medssl.evaluate.intervals import quantile
from medssl.evaluate.measures import Metric
from medssl.evaluate.metrics import Measured

CONFOUNDED = 0.8
"""Cramér's V from which site and group are nearly one thing."""

EXPECTED = 5.0
"""Patients that a cell would have, were groups dealt alike over sites, from which an empty one is no accident."""


@dataclass(frozen=True, eq=False)
class Difference:
    """A group's metric minus that of all others at a site, or over sites, with the influence of each patient and degrees of
    freedom.
    """

    value: float
    influence: np.ndarray
    freedom: float

    @property
    def error(self) -> float:
        """Standard error, with the patient as the unit."""
        return float(np.sqrt(np.square(self.influence).sum()))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Student's t around the value."""
        half = quantile(level, self.freedom) * self.error
        return self.value - half, self.value + half


def cramers_v(counts: np.ndarray) -> float:
    """Cramér's V of a table of counts, 0 (independent) to 1 (one follows from the other); nan with one row or column.

    Cramér 1946, without correction: that of this cohort, not an estimate of another one's.
    """
    counts = counts[counts.sum(1) > 0][:, counts.sum(0) > 0]
    if min(counts.shape) < 2:
        return math.nan
    expected = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / counts.sum()
    chi2 = float((np.square(counts - expected) / expected).sum())
    return math.sqrt(chi2 / (counts.sum() * (min(counts.shape) - 1)))


def empty_cells(counts: np.ndarray) -> int:
    """How many cells have nobody where at least 5 would be expected."""
    expected = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / max(counts.sum(), 1)
    return int(((counts == 0) & (expected >= EXPECTED)).sum())


def difference(rows: pd.DataFrame, group: str, metric: Metric, patients: int) -> Difference | str:
    """The metric of `group` minus that of all others, or the reason why there is none. `rows` have `group` and `patient`."""
    inside = rows["group"] == group
    sides: list[Measured] = []
    for side in (rows[inside], rows[~inside]):
        if reason := metric.too_few(side):
            return reason
        sides.append(metric.measure(side, patients))
    own, rest = sides
    if math.isnan(own.value) or math.isnan(rest.value) or not (own.error > 0 and rest.error > 0):
        return "a side does not vary"
    return Difference(own.value - rest.value, own.influence - rest.influence, min(own.freedom, rest.freedom))


def pooled(parts: list[tuple[float, Difference]]) -> Difference:
    """The mean of differences within sites, by weights that do not look at them (Mantel and Haenszel's: how many patients
    both sides have); of one or more.
    """
    weights = np.array([weight for weight, _ in parts]) / sum(weight for weight, _ in parts)
    influence = np.sum([weight * one.influence for weight, (_, one) in zip(weights, parts, strict=True)], axis=0)
    each = [(weight * one.error) ** 2 for weight, (_, one) in zip(weights, parts, strict=True)]
    loss = sum(variance**2 / one.freedom for variance, (_, one) in zip(each, parts, strict=True))
    value = float(weights @ [one.value for _, one in parts])
    return Difference(value, influence, sum(each) ** 2 / loss)


def two_way(
    rows: pd.DataFrame, shown: Sequence[Sequence[str]], names: tuple[str, str], metric: Metric, minimum: int
) -> dict[str, Any] | None:
    """The gaps of groups over all sites and within them, and what warns that they cannot be told from gaps between sites;
    None with fewer than two groups of `minimum` patients. `shown` are the sites and the groups that are not hidden, `names`
    what site and group are called.

    `rows` have `place`, `group` and the numbers of their `patient`. A gap within sites is the mean of those at each site,
    weighted by how many patients both sides have there (as Mantel and Haenszel's). Of two groups there is one line, since
    they mirror each other. Patients of several sites or groups count in each.
    """
    site, attribute = names
    size = rows.groupby("group")["patient_id"].nunique()
    told = [group for group in shown[1] if size.get(group, 0) >= minimum]
    if len(told) < 2:
        return None
    people = rows.drop_duplicates(["patient_id", "place", "group"])
    # An exact number of all cells would give hidden ones away.
    people = people[people["place"].isin(shown[0]) & people["group"].isin(told)]
    counts = pd.crosstab(people["place"], people["group"]).to_numpy()
    v, empty = cramers_v(counts), empty_cells(counts)
    lines = [_line(rows, group, metric, minimum) for group in (told[:1] if len(size) == 2 else told)]
    notes = [*_alone(lines, site, attribute), *(text for one in lines for text in _turned(one, site, attribute))]
    return {
        "grouping": attribute, "cramers_v": None if math.isnan(v) else v, "empty": empty,
        "lines": [{"grouping": attribute, **line} for line in lines],
        "warnings": [*_entangled(v, empty, site, attribute), *notes],
    }  # fmt: skip


def _line(rows: pd.DataFrame, group: str, metric: Metric, minimum: int) -> dict[str, Any]:
    """A group's gap over all sites, within them, how much the one is more than the other, and at each site."""
    patients = int(rows["patient"].max()) + 1
    whole = difference(rows, group, metric, patients)
    cells: list[dict[str, Any]] = []
    parts: list[tuple[float, Difference]] = []
    for place in sorted(rows["place"].unique()):
        here = rows[rows["place"] == place]
        sides = [side["patient"].nunique() for side in (here[here["group"] == group], here[here["group"] != group])]
        few = min(sides) < minimum
        one = f"fewer than {minimum} patients of a side" if few else difference(here, group, metric, patients)
        cells.append({"site": place, **_told(one)})
        if isinstance(one, Difference):
            parts.append((sides[0] * sides[1] / sum(sides), one))
    within: Difference | str = pooled(parts) if parts else "no site has enough of both sides"
    moved: Difference | str = "there is no gap to compare"
    turned = False
    if isinstance(whole, Difference) and isinstance(within, Difference):
        freedom = min(whole.freedom, within.freedom)
        moved = Difference(whole.value - within.value, whole.influence - within.influence, freedom)
        turned = whole.value * within.value < 0
    return {"group": group, "over_all": _told(whole), "within": _told(within), "moved": _told(moved), "sites": len(parts),
            "cells": cells, "turned": turned}  # fmt: skip


def _told(one: Difference | str) -> dict[str, Any]:
    """A difference with its interval, or why there is none; one without an error has no interval."""
    if isinstance(one, str):
        return {"value": None, "low": None, "high": None, "reason": one}
    if not one.error > 0:
        return {"value": one.value, "low": None, "high": None, "reason": "does not vary: no interval"}
    low, high = one.interval()
    return {"value": one.value, "low": low, "high": high, "reason": ""}


def _entangled(v: float, empty: int, site: str, attribute: str) -> list[str]:
    """Sentences on a site and a group that are nearly one thing, or never meet."""
    found = []
    if v >= CONFOUNDED:
        found.append(
            f"{site} and {attribute} are nearly one thing (Cramér's V {v:.2f}): a gap between groups of {attribute} cannot "
            f"be told from one between groups of {site}."
        )
    if empty:
        found.append(
            f"{empty} {'combination' if empty == 1 else 'combinations'} of {site} and {attribute} "
            f"{'has' if empty == 1 else 'have'} nobody where {EXPECTED:g} patients or more would be expected: a gap there "
            f"cannot be told from the {site}."
        )
    return found


def _alone(lines: Sequence[dict[str, Any]], site: str, attribute: str) -> list[str]:
    """A sentence on groups that no site has beside others."""
    alone = ", ".join(line["group"] for line in lines if not line["sites"])
    return [
        f"No {site} has enough patients of {attribute} {alone} and of others: no gap can be told from the {site}."
    ] * bool(alone)


def _turned(line: dict[str, Any], site: str, attribute: str) -> list[str]:
    """A sentence on a gap that has another sign within sites, where that is not by chance."""
    low, high = line["moved"]["low"], line["moved"]["high"]
    if not line["turned"] or low is None or low <= 0 <= high:
        return []
    return [
        f"The gap of {attribute} {line['group']} has another sign within each {site} than over all of them: "
        f"{line['within']['value']:+.2f} within, {line['over_all']['value']:+.2f} over all."
    ]
