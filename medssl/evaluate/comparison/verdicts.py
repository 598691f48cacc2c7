"""What a comparison says of each group, of the gaps between groups, and of whether a gap closed because the best fell."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from medssl.evaluate.comparison.compared import Compared
from medssl.evaluate.comparison.effects import NOTHING, Effect, critical, effect, error_of, freedom_of
from medssl.evaluate.comparison.pairs import MINIMUM_PATIENTS, hide_one_more
from medssl.evaluate.groups import POWER, Row, ordered, with_group
from medssl.evaluate.intervals import mean_interval, quantile
from medssl.evaluate.measures import FEWEST_OF_A_CLASS
from medssl.evaluate.metrics import patient_means
from medssl.evaluate.outlines import measure_of
from medssl.evaluate.predictions import NOT_KNOWN, UNKNOWN


def overall(rows: pd.DataFrame, metric: Compared) -> Row:
    """The difference over all rows."""
    return _judged([("all", rows)], metric, "", lambda _: "")[0][0]


def by_group(rows: pd.DataFrame, metric: Compared, attribute: str) -> tuple[list[Row], list[Row], Row]:
    """Of an attribute the difference in each group, the change of each group's gap to the rest, and whether levelled down.

    Both families of intervals, of groups and of gaps, are also told as simultaneous ones (adjusted_low, adjusted_high), by
    which their verdicts go: of a group "better", "not worse" (by as much as the margin, though perhaps by less), "worse" or
    "inconclusive"; of a gap "widened", "narrowed", "unchanged" (within the margin) or "inconclusive". Unknown is a group,
    and no side of a gap.
    """
    grouped = with_group(rows, attribute)
    groups = [(name, grouped[grouped["group"] == name]) for name in ordered(grouped["group"])]
    found, effects = _judged(groups, metric, attribute, lambda inside: _too_few(inside, metric))
    known = grouped[~grouped["group"].isin(NOT_KNOWN)]
    changes = _changes([(name, inside) for name, inside in groups if name not in NOT_KNOWN], known, metric, attribute)
    return found, changes, _levelling(found, effects, metric, attribute)


def _too_few(rows: pd.DataFrame, metric: Compared) -> str:
    """Why nothing is told of a group; "" where it is."""
    if rows["patient_id"].nunique() < MINIMUM_PATIENTS:
        return f"fewer than {MINIMUM_PATIENTS} patients"
    for label, name in ((1, "positive"), (0, "negative")):
        count = rows.loc[rows["label"] == label, "patient_id"].nunique()
        if label in metric.labels and count < FEWEST_OF_A_CLASS:
            return f"no {name}" if count == 0 else f"only {count} patient with a {name}"
    return ""


def _judged(
    groups: list[tuple[str, pd.DataFrame]], metric: Compared, attribute: str, too_few: Callable[[pd.DataFrame], str]
) -> tuple[list[Row], dict[str, Effect]]:
    """A row for each group, and the effects of those that have a value."""
    found: dict[str, Row] = {}
    effects: dict[str, Effect] = {}
    rows_of = dict(groups)
    patients = max((int(rows["patient"].max()) + 1 for rows in rows_of.values() if len(rows)), default=0)
    for name, rows in groups:
        there = int(rows["patient_id"].nunique())
        hidden = too_few(rows)
        found[name] = _row(attribute, name, None if there < MINIMUM_PATIENTS and hidden else there)
        one = None if hidden else effect(rows, metric, patients)
        if one is None or math.isnan(one.value):
            found[name] |= {
                "reason": hidden or _missing(rows, metric),
                "verdict": "suppressed" if hidden else "undefined",
            }
            continue
        effects[name] = one
        found[name] |= {"first": one.first, "second": one.second, "value": one.value}
    family = [one for name, one in effects.items() if not _unsure(rows_of[name], effects[name], metric)]
    times = critical(family)
    for name, one in effects.items():
        found[name] |= _interval(rows_of[name], one, metric, times)
    hide_one_more(list(found.values()))
    return list(found.values()), effects


def _row(attribute: str, group: str, patients: int | None) -> Row:
    return {
        "attribute": attribute, "group": group, "n_patients": patients, "first": None, "second": None, "value": None,
        "low": None, "high": None, "adjusted_low": None, "adjusted_high": None, "method": None, "verdict": "inconclusive",
        "smallest_detectable": None, "reason": "",
    }  # fmt: skip


def _missing(rows: pd.DataFrame, metric: Compared) -> str:
    there = set(rows["label"].dropna())
    return "one class only" if len(metric.labels) == 2 and len(there) < 2 else "no row to measure it on"


def _unsure(rows: pd.DataFrame, one: Effect, metric: Compared) -> str:
    """Why a difference has no interval; "" where it has one."""
    for label in metric.labels:
        count = rows.loc[rows["label"] == label, "patient_id"].nunique()
        if count < metric.fewest:
            return f"fewer than {metric.fewest} patients of a class" if metric.fewest > 2 else "one patient of a class"
    if one.freedom < 1:
        return "one patient"
    if error_of(one) <= NOTHING and not one.same and not metric.of_outlines:
        # Two rankings of equal worth on these patients, for example both perfect: no spread, but no certainty either.
        return "the difference does not vary between these patients"
    return ""


def _interval(rows: pd.DataFrame, one: Effect, metric: Compared, times: float) -> Row:
    """The interval of a group's difference by itself and with the others', and the verdict that the latter gives."""
    if reason := _unsure(rows, one, metric):
        return {"method": f"none: {reason}"}
    error, method = error_of(one), metric.method
    half = quantile(0.95, freedom_of(one)) * error
    low, high = one.value - half, one.value + half
    if metric.of_outlines and len(one.each) == 1:
        low, high, told = mean_interval(_per_patient(rows))
        method = f"paired {told}"
    wide = min(low, one.value - times * error), max(high, one.value + times * error)
    low, high, *ends = (_within(metric, 1, end) for end in (low, high, *wide))
    method += f"; and over {len(one.each)} runs of each" if len(one.each) > 1 else ""
    return {
        "low": low, "high": high, "adjusted_low": ends[0], "adjusted_high": ends[1], "method": method,
        "verdict": _verdict(ends[0], ends[1], metric), "smallest_detectable": POWER * error,
    }  # fmt: skip


def _per_patient(rows: pd.DataFrame) -> np.ndarray:
    codes = np.unique(rows["patient"].to_numpy(int), return_inverse=True)[1]
    return patient_means(rows["second0"].to_numpy(float), codes) - patient_means(rows["first0"].to_numpy(float), codes)


def _within(metric: Compared, most: float, end: float) -> float:
    """An end of an interval, of a share no farther out than `most`."""
    return end if measure_of(metric.name).unit else min(max(end, -most), most)


def _verdict(low: float, high: float, metric: Compared) -> str:
    """What an interval of second - first says; of metrics of which less is better, read the other way round."""
    low, high = (low, high) if metric.more_is_better else (-high, -low)
    if low > 0:
        return "better"
    if metric.margin is not None and low > -metric.margin:
        return "not worse"
    return "worse" if high < 0 else "inconclusive"


def _changes(
    groups: list[tuple[str, pd.DataFrame]], known: pd.DataFrame, metric: Compared, attribute: str
) -> list[Row]:
    """How the gap of each group to the rest changed: (second group - rest) - (first group - rest)."""
    if len(groups) < 2:
        name = groups[0][0] if groups else UNKNOWN
        return [_change(attribute, name) | {"verdict": "not evaluated", "reason": "one level only"}]
    patients = int(known["patient"].max()) + 1
    found: dict[str, Row] = {}
    effects: dict[str, Effect] = {}
    for name, inside in groups:
        found[name] = _change(attribute, name)
        rest = known[known["group"] != name]
        few = [(_too_few(rows, metric), who) for rows, who in ((inside, "the group"), (rest, "the rest"))]
        if told := [f"{who}: {why}" for why, who in few if why]:
            found[name] |= {"verdict": "suppressed", "reason": told[0]}
            continue
        sides = [effect(rows, metric, patients) for rows in (inside, rest)]
        one = sides[0].less(sides[1])
        found[name] |= {"first_gap": one.first, "second_gap": one.second, "value": one.value}
        unsure = [_unsure(rows, side, metric) for rows, side in zip((inside, rest), sides, strict=True)]
        if any(unsure) or (error_of(one) <= NOTHING and not one.same):
            found[name] |= {"reason": next((why for why in unsure if why), "the change does not vary")}
            continue
        effects[name] = one
    times = critical(list(effects.values()))
    for name, one in effects.items():
        error = error_of(one)
        half = quantile(0.95, freedom_of(one)) * error
        low, high, *ends = (_within(metric, 2, one.value + by) for by in (-half, half, -times * error, times * error))
        found[name] |= {
            "low": low, "high": high, "adjusted_low": ends[0], "adjusted_high": ends[1],
            "verdict": _moved(one, ends[0], ends[1], metric), "smallest_detectable": POWER * error,
        }  # fmt: skip
    return list(found.values())


def _change(attribute: str, group: str) -> Row:
    return {
        "attribute": attribute, "group": group, "first_gap": None, "second_gap": None, "value": None, "low": None,
        "high": None, "adjusted_low": None, "adjusted_high": None, "verdict": "inconclusive", "smallest_detectable": None,
        "reason": "",
    }  # fmt: skip


def _moved(one: Effect, low: float, high: float, metric: Compared) -> str:
    if low > 0 or high < 0:
        return "widened" if abs(one.second) > abs(one.first) else "narrowed"
    return (
        "unchanged" if metric.margin is not None and -metric.margin < low and high < metric.margin else "inconclusive"
    )


def _levelling(found: list[Row], effects: dict[str, Effect], metric: Compared, attribute: str) -> Row:
    """Whether the distance of the first model's best and worst group shrank because its best one fell.

    "shown" where the best group's simultaneous interval leaves out zero, "seen" where only the numbers say so, else "no";
    "not evaluated" without two groups. Zhang et al., CHIL 2022, arXiv:2203.12609: what made groups alike often made all
    worse.
    """
    known = {name: one for name, one in effects.items() if name not in NOT_KNOWN}
    row: Row = {"attribute": attribute, "state": "not evaluated", "best": None, "worst": None, "first_spread": None,
                "second_spread": None, "best_change": None, "worst_change": None}  # fmt: skip
    if len(known) < 2:
        return row
    sign = 1 if metric.more_is_better else -1
    best, worst = (pick(known, key=lambda name: sign * known[name].first) for pick in (max, min))
    spreads = [abs(getattr(known[best], side) - getattr(known[worst], side)) for side in ("first", "second")]
    fell = spreads[1] < spreads[0] and sign * known[best].value < 0
    (told,) = [one for one in found if one["group"] == best]
    end = told["adjusted_high" if metric.more_is_better else "adjusted_low"]
    shown = end is not None and sign * end < 0
    return row | {
        "state": ("shown" if shown else "seen") if fell else "no",
        "best": best, "worst": worst, "first_spread": spreads[0], "second_spread": spreads[1],
        "best_change": known[best].value, "worst_change": known[worst].value,
    }  # fmt: skip
