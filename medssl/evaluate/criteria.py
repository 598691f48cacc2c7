"""Acceptance criteria, declared before looking: which of them are met, by everybody and in each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medssl.errors import UserError
from medssl.evaluate.groups import Row
from medssl.evaluate.outlines import measure_of

MET, NOT_MET, OPEN = "met", "not met", "cannot conclude"


def read_criteria(told: Sequence[str]) -> dict[str, float]:
    """Metric -> limit, of words such as "sensitivity=0.80". Raises UserError where one is none, or a metric comes twice."""
    limits: dict[str, float] = {}
    for words in told:
        name, sign, value = words.partition("=")
        try:
            limit = float(value)
        except ValueError:
            limit = float("nan")
        if not sign or not name or not abs(limit) < float("inf"):
            raise UserError(f"--require {words}: not METRIC=NUMBER; e.g. sensitivity=0.80")
        if name in limits:
            raise UserError(f"--require {words}: {name} was required before; give one limit for a metric")
        limits[name] = limit
    return limits


def with_criteria(report: Mapping[str, Any], limits: Mapping[str, float]) -> dict[str, Any]:
    """The report with `criteria`: the limits, and for each estimate of these metrics whether its limit is reached.

    met: the whole 95 % interval reaches it; not met: none of it does; cannot conclude: it lies in the interval, or there is
    none. At least that much is asked of a share, at most that much of a distance. Intervals are each for itself. Raises
    UserError for a metric that no analysis has. Nothing required: the report as it is.
    """
    if not limits:
        return dict(report)
    known = list(dict.fromkeys(row["metric"] for analysis in report["analyses"] for row in analysis["estimates"]))
    for name in limits:
        if name not in known:
            raise UserError(f"--require {name}: no analysis measures it; it may be: {', '.join(known)}")
    rows = [
        {"analysis": analysis["name"], **_judged(row, limits[row["metric"]])}
        for analysis in report["analyses"]
        for row in analysis["estimates"]
        if row["metric"] in limits
    ]
    return {**report, "criteria": {"limits": dict(limits), "rows": rows}}


def _judged(row: Row, limit: float) -> Row:
    ends = [row["low"], row["high"]]
    if not measure_of(row["metric"]).more_is_better:
        ends = [None if end is None else -end for end in reversed(ends)]
        bound = -limit
    else:
        bound = limit
    low, high = ends
    verdict = OPEN
    if low is not None and low >= bound:
        verdict = MET
    elif high is not None and high < bound:
        verdict = NOT_MET
    kept = {key: row[key] for key in ("metric", "attribute", "group", "value", "low", "high", "reason")}
    return {**kept, "limit": limit, "verdict": verdict}
