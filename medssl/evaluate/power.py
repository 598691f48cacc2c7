"""What a cohort could have shown: where nothing could be concluded of a group, how far it was from it, in a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medssl.evaluate.findings import LONGEST_NAME
from medssl.evaluate.groups import Row
from medssl.evaluate.outlines import measure_of, title_of

HALF_WIDTH = 0.05
"""How near a metric must be known for the number of cases needed: plus or minus this, at 95 %."""

NORMAL = 1.96

TOO_WIDE = 0.15
"""An interval reaching further than this to either side, on average, tells too little of a group to rely on."""

WORDS = {"auroc": "AUROC"}


def cases_needed(count: int, error: float, half_width: float = HALF_WIDTH) -> int | None:
    """How many cases would bring a 95 % interval down to plus or minus `half_width`, when `count` gave a standard `error`.

    The error falls with the root of the count: count * (error / (half_width / 1.96))^2, rounded up. None where the error is
    0 or not a number: at 0 or 1, or from nothing, it says nothing of more cases. Raises ValueError where `half_width` is not
    above 0.
    """
    if not half_width > 0:
        raise ValueError(f"half_width {half_width} is not above 0")
    if not error > 0 or count < 1:
        return None
    return math.ceil(count * (error * NORMAL / half_width) ** 2 - 1e-9)


def power(estimates: Sequence[Row], gaps: Sequence[Row]) -> list[Row]:
    """A row, with its sentence, for each comparison that could not be concluded, in the order of the gaps.

    Made from rows of the report alone, so that it tells of no group what they do not. `standing` is "too few" where the
    group is not shown or its interval is wider than `TOO_WIDE` to either side: nobody should rely on it there; else "open".
    `n` and `needed` count `of`: of a share the class that it is of, of an AUROC the rarer class, of outlines patients.
    """
    known = {(row["metric"], row["attribute"], row["group"]): row for row in estimates}
    return [
        _row(gap, known.get((gap["metric"], gap["attribute"], gap["group"]), {}))
        for gap in gaps
        if gap["verdict"] in ("inconclusive", "suppressed")
    ]


def _row(gap: Row, row: Row) -> Row:
    hidden = gap["verdict"] == "suppressed" or row.get("value") is None
    base = {key: gap[key] for key in ("metric", "attribute", "group", "smallest_detectable")}
    if hidden:
        reason = row.get("reason") or gap["reason"] or "not shown"
        nothing = {"n_patients": None, "of": None, "n": None, "needed": None}
        told = {"standing": "too few", "reason": reason}
        return {**base, **nothing, **told, "sentence": f"{_name(gap)}: {reason}; nothing can be concluded."}
    of, count = _counted(row)
    # Of distances, no nearness is declared.
    shares = not measure_of(gap["metric"]).unit
    error = row.get("error")
    needed = cases_needed(count, error) if shares and error is not None else None
    found = {"n_patients": row["n_patients"], "of": of, "n": count, "needed": needed}
    wide = shares and (row["low"] is None or (row["high"] - row["low"]) / 2 > TOO_WIDE)
    told = {**base, **found, "standing": "too few" if wide else "open", "reason": gap["reason"]}
    return {**told, "sentence": _sentence(told, row, gap["reason"])}


def _counted(row: Row) -> tuple[str, int]:
    """What a metric's precision depends on, and how many there are."""
    if row["n_positive"] is None:
        return "patients", row["n_patients"]
    positives, negatives = row["n_positive"], row["n_rows"] - row["n_positive"]
    if row["metric"] == "sensitivity" or (row["metric"] != "specificity" and positives <= negatives):
        return "positives", positives
    return "negatives", negatives


def _sentence(told: Row, row: Row, reason: str) -> str:
    what, structure = title_of(row["metric"])
    metric = WORDS.get(row["metric"], f"{what} of {structure}" if structure else what)
    unit = f" {measure_of(row['metric']).unit}".rstrip()
    counts = f"n = {told['n_patients']}" + (f", {told['n']} {told['of']}" if told["of"] != "patients" else "")
    between = "" if row["low"] is None else f" ({row['low']:.2f} to {row['high']:.2f})"
    parts = [f"{_name(row)} ({counts}): {metric} {row['value']:.2f}{unit}{between}"]
    if told["standing"] == "too few":
        parts.append("too few to conclude")
    if told["smallest_detectable"] is not None:
        parts.append(f"smallest gap this test could have shown: {told['smallest_detectable']:.2f}{unit}")
    elif reason:
        parts.append(reason)
    if told["needed"] is not None and told["needed"] > told["n"]:
        parts.append(f"about {_about(told['needed'])} {told['of']} needed to know it to within {HALF_WIDTH:.2f}")
    return "; ".join(parts) + "."


def _name(row: Row) -> str:
    parts = (row["attribute"], row["group"])
    return " ".join(part if len(part) <= LONGEST_NAME else part[: LONGEST_NAME - 1] + "…" for part in parts)


def _about(count: int) -> int:
    """A count to two figures, rounded up: more would pretend to know the error that well."""
    step = 10 ** max(len(str(count)) - 2, 0)
    return -(-count // step) * step
