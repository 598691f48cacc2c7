"""Metrics by group and gaps between groups; "unknown" is a group, so every table adds up to the cohort.

A gap is the difference between a group and all others. Intervals of the gaps of one attribute are simultaneous (max-T
on the scale on which the metric is normal), so that asking about six groups does not find six gaps by chance.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd

from medssl.errors import UserError
from medssl.evaluate.bootstrap import SEED
from medssl.evaluate.cells import Cell, few, hidden_cells
from medssl.evaluate.intervals import expit, logit, quantile
from medssl.evaluate.measures import Metric
from medssl.evaluate.metrics import Measured
from medssl.evaluate.predictions import NOT_KNOWN, UNKNOWN, attributes_of

DRAWS = 20_000
"""Normal draws behind the critical value of the largest of several correlated differences."""

POWER = 2.8
"""Standard errors that a gap must measure to be found four times in five at the 5 % level (1.96 + 0.84)."""

MOST_LEVELS = 20
"""Groups of one attribute beyond which it is taken for a measurement or an identifier, not a grouping."""

NOTHING: Mapping[str, str] = {}

SUPPRESSED = {"value": None, "low": None, "high": None, "error": None, "method": None, "n_patients": None,
              "n_rows": None, "n_positive": None, "status": "suppressed"}  # fmt: skip
"""What is told of a group that is not shown, beside its name and the reason."""

Row = dict[str, Any]


def with_group(rows: pd.DataFrame, attribute: str) -> pd.DataFrame:
    """The rows with a column `group`: an attribute's values, or the crossing "a*b" of two. Raises UserError."""
    known, names = attributes_of(rows), names_of(rows, attribute)
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise UserError(
                f"--by {attribute}: E161 the table has no attribute {name!r}; it has: {', '.join(known)}"
                + (f"; did you mean {near[0]}?" if near else "")
            )
    if len(set(names)) < len(names):
        raise UserError(f"--by {attribute}: E161 crosses an attribute with itself; cross two, or name one")
    parts = [rows[name].astype(str) for name in names]
    crossed = parts[0]
    for part in parts[1:]:
        crossed = crossed + " x " + part
    if len(parts) == 1:
        return rows.assign(group=crossed)
    unknown = np.logical_or.reduce([part.isin(NOT_KNOWN) for part in parts])
    return rows.assign(group=crossed.where(~unknown, UNKNOWN))


def has_attribute(rows: pd.DataFrame, attribute: str) -> bool:
    """Whether a table has an attribute, or every part of a crossing."""
    return set(names_of(rows, attribute)) <= set(attributes_of(rows))


def names_of(rows: pd.DataFrame, attribute: str) -> list[str]:
    """The attribute's own name, or the parts of a crossing."""
    # A column's own name may hold a star.
    return [attribute] if attribute in rows else attribute.split("*")


def levels_of(rows: pd.DataFrame, attribute: str) -> int:
    """How many groups an attribute or a crossing makes."""
    return int(with_group(rows, attribute)["group"].nunique())


def check_levels(rows: pd.DataFrame, attribute: str) -> None:
    """Nothing; raises UserError where a named attribute is not there or has too many values to be a grouping."""
    for name in names_of(rows, attribute):
        if (levels := levels_of(rows, name)) > MOST_LEVELS:
            raise UserError(
                f"--by {attribute}: E122 {name} has {levels} different values, more than {MOST_LEVELS}; band it first, or "
                "say by --mapping which belong together (--mapping-template writes the values into a file)"
            )


def ordered(names: pd.Series) -> list[str]:
    """Each group's name once, the known ones sorted, "unknown" last."""
    return sorted(names.unique(), key=lambda name: (NOT_KNOWN.index(name) if name in NOT_KNOWN else -1, name))


def estimate(rows: pd.DataFrame, metric: Metric, attribute: str, group: str, minimum: int) -> Row:
    """One row of the report: a metric in a group with its interval and head counts, or the reason for none."""
    whole, rows = rows["patient_id"].nunique(), metric.uses(rows)
    patients = rows["patient_id"].nunique()
    base: Row = {"metric": metric.name, "attribute": attribute, "group": group, "level": 0.95}
    nothing = {"value": None, "low": None, "high": None, "error": None, "method": None}
    if whole < minimum or 0 < patients < minimum:
        hidden = {"n_patients": None, "n_rows": None, "n_positive": None}
        return {**base, **nothing, **hidden, "status": "suppressed", "reason": few(minimum)}
    counts = {"n_patients": int(patients), "n_rows": len(rows), "n_positive": metric.positives(rows)}
    if reason := metric.too_few(rows):
        return {**base, **nothing, **counts, "status": "undefined", "reason": reason}
    numbered = rows.assign(patient=pd.factorize(rows["patient_id"])[0])
    measured = metric.measure(numbered, int(patients))
    if math.isnan(measured.value):
        return {**base, **nothing, **counts, "status": "undefined", "reason": measured.reason}
    low, high, method = metric.interval(numbered, measured)
    ends = {"low": None if math.isnan(low) else low, "high": None if math.isnan(high) else high}
    # At 0 or 1 the estimated error is 0 and says nothing.
    ends["error"] = measured.error if measured.error > 0 else None
    return {**base, "value": measured.value, **ends, "method": method, **counts, "status": "ok", "reason": ""}


def by_group(
    rows: pd.DataFrame,
    metric: Metric,
    attribute: str,
    minimum: int,
    hidden: Mapping[str, str] = NOTHING,
    free: Collection[str] = NOT_KNOWN,
) -> list[Row]:
    """An estimate for each group of an attribute, the known ones sorted, "unknown" last.

    `hidden` are the groups not to be shown, with the reason (see suppression.py); where few rows have a value of the
    metric, further ones are hidden by the same rule.
    """
    grouped = with_group(rows, attribute)
    hidden = _hidden(grouped, metric, minimum, hidden, free)
    found = []
    for name in ordered(pd.Series([*grouped["group"].unique(), *hidden], dtype=object)):
        row = estimate(grouped[grouped["group"] == name], metric, attribute, name, minimum)
        found.append(row | {**SUPPRESSED, "reason": hidden[name]} if name in hidden else row)
    return found


def _hidden(
    grouped: pd.DataFrame, metric: Metric, minimum: int, hidden: Mapping[str, str], free: Collection[str]
) -> Mapping[str, str]:
    """The groups not shown by a metric: those not shown at all, and where few of a group have it (a structure that few
    patients have) further ones.
    """
    kept = metric.uses(grouped)
    if len(kept) == len(grouped):
        return hidden
    people = kept.groupby("group")["patient_id"].nunique()
    cells = {str(name): Cell(int(count), int(count)) for name, count in people.items()}
    return hidden_cells(cells, [set(cells)], minimum, frozenset(hidden) & set(cells), free) | dict(hidden)


def gaps(
    rows: pd.DataFrame,
    metric: Metric,
    attribute: str,
    minimum: int,
    margin: float,
    hidden: Mapping[str, str] = NOTHING,
    free: Collection[str] = NOT_KNOWN,
) -> list[Row]:
    """A verdict for each known group against all other known rows; where a known group is hidden, the others also hold the
    hidden ones who are not known, so that nobody's share follows from a difference.

    gap          the simultaneous interval leaves out zero
    equivalent   it lies within plus or minus `margin`: two one-sided tests at 2.5 %, corrected for the number of groups,
                 where 5 % (a 90 % interval) are usual; a true difference of the margin passes in at most 2.5 %
    inconclusive neither; `smallest_detectable` says what this cohort could have shown
    suppressed   too few patients or only one class, on either side
    """
    grouped = with_group(rows, attribute)
    hidden = _hidden(grouped, metric, minimum, hidden, free)
    grouped = metric.uses(grouped)
    out = set(NOT_KNOWN) - (set(hidden) if set(hidden) - set(NOT_KNOWN) else set())
    grouped = grouped[~grouped["group"].isin(out)]
    grouped = grouped.assign(patient=pd.factorize(grouped["patient_id"])[0])
    patients = int(grouped["patient_id"].nunique())
    names = sorted(set(grouped["group"]) - set(NOT_KNOWN))
    if len(names) < 2:
        return [_verdict(metric, attribute, names[0] if names else UNKNOWN, "not evaluated", "one level only")]
    found: list[Row] = []
    sides: list[tuple[str, Measured, Measured]] = []
    for name in names:
        inside, rest = grouped[grouped["group"] == name], grouped[grouped["group"] != name]
        if reason := hidden.get(name, "") or _too_few(inside, rest, metric, minimum):
            found.append(_verdict(metric, attribute, name, "suppressed", reason))
            continue
        pair = metric.measure(inside, patients), metric.measure(rest, patients)
        if reason := untestable(*pair):
            found.append(_verdict(metric, attribute, name, "inconclusive", reason))
        else:
            sides.append((name, *pair))
    return sorted(found + judge(sides, metric, attribute, margin), key=lambda row: str(row["group"]))


def untestable(group: Measured, rest: Measured) -> str:
    """Why a difference has no usable error: at 0 or 1, or where nothing varies, the estimated one is zero."""
    if any(side.scale == "logit" and side.value in (0.0, 1.0) for side in (group, rest)):
        return "a side is at 0 or 1: no variance to test with"
    return "" if group.error > 0 and rest.error > 0 else "a side does not vary: no variance to test with"


def _too_few(inside: pd.DataFrame, rest: pd.DataFrame, metric: Metric, minimum: int) -> str:
    for side, name in (inside, "the group"), (rest, "the rest"):
        if side["patient_id"].nunique() < minimum:
            return f"{name} has fewer than {minimum} patients"
        if reason := metric.too_few(side):
            return f"{name}: {reason}"
    return ""


def judge(sides: Sequence[tuple[str, Measured, Measured]], metric: Metric, attribute: str, margin: float) -> list[Row]:
    if not sides:
        return []
    differences, influences = [], []
    for _, group, rest in sides:
        differences.append(scaled(group) - scaled(rest))
        influences.append(group.influence / slope(group) - rest.influence / slope(rest))
    spread = np.array(influences)
    errors = np.sqrt(np.square(spread).sum(1))
    largest = _critical(spread, errors, math.inf) / quantile(0.95, math.inf)
    found = []
    for (name, group, rest), difference, error in zip(sides, differences, errors, strict=True):
        critical = largest * quantile(0.95, _freedom(group, rest))
        low, high = (unscaled(group, rest, difference + sign * critical * float(error)) for sign in (-1, 1))
        raw = float(np.sqrt(np.square(group.influence - rest.influence).sum()))
        verdict = "gap" if low > 0 or high < 0 else "equivalent" if -margin < low and high < margin else "inconclusive"
        row = _verdict(metric, attribute, name, verdict, "")
        found.append(
            row | {"value": group.value - rest.value, "low": low, "high": high, "group_value": group.value,
                   "rest_value": rest.value, "smallest_detectable": POWER * raw}
        )  # fmt: skip
    return found


def _freedom(group: Measured, rest: Measured) -> float:
    """Degrees of freedom of the difference, after Welch and Satterthwaite."""
    parts = [((side.error / slope(side)) ** 2, side.freedom) for side in (group, rest)]
    return sum(variance for variance, _ in parts) ** 2 / sum(variance**2 / free for variance, free in parts)


def _critical(spread: np.ndarray, errors: np.ndarray, freedom: float) -> float:
    """The 95 % point of the largest absolute of the correlated differences, not below a single one's Student quantile."""
    single = quantile(0.95, freedom)
    if len(errors) == 1 or (errors == 0).any():
        return single
    correlation = spread @ spread.T / np.outer(errors, errors)
    values, vectors = np.linalg.eigh(correlation)
    draws = np.random.default_rng(SEED).standard_normal((DRAWS, len(errors)))
    largest = np.abs(draws * np.sqrt(np.clip(values, 0, None)) @ vectors.T).max(1)
    normal = float(np.quantile(largest, 0.95))
    return max(single, normal * single / quantile(0.95, math.inf))


def _verdict(metric: Metric, attribute: str, group: str, verdict: str, reason: str) -> Row:
    return {
        "metric": metric.name, "attribute": attribute, "group": group, "verdict": verdict, "reason": reason,
        "value": None, "low": None, "high": None, "group_value": None, "rest_value": None, "smallest_detectable": None,
    }  # fmt: skip


def scaled(measured: Measured) -> float:
    return logit(measured.value) if measured.scale == "logit" else measured.value


def slope(measured: Measured) -> float:
    return measured.value * (1 - measured.value) if measured.scale == "logit" else 1.0


def unscaled(group: Measured, rest: Measured, difference: float) -> float:
    """A difference on the metric's own scale, around the middle of both sides.

    Zero stays zero, the observed difference comes back exactly, and swapping the sides only changes the sign: for two
    groups both rows say the same.
    """
    if rest.scale != "logit":
        return difference
    middle = (logit(group.value) + logit(rest.value)) / 2
    return expit(middle + difference / 2) - expit(middle - difference / 2)
