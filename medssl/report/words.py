"""Names and numbers as a reader sees them, the same on the page and in the text files beside it."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

from medssl.evaluate.cells import COMPLEMENT
from medssl.evaluate.outlines import measure_of, title_of

Row = Mapping[str, Any]

LONGEST_LABEL = 60
"""Characters of a group's name that are shown; a name can be anything that a table holds."""

VERDICTS = {
    "gap": ("▲", "difference shown"),
    "equivalent": ("=", "within the margin"),
    "inconclusive": ("?", "cannot conclude"),
    "suppressed": ("–", "not shown"),
    "not evaluated": ("·", "one level: not evaluated"),
}
"""A sign and words for each verdict: the page must be readable without colour."""

METRICS = {
    "auroc": "AUROC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "average_precision": "average precision",
    "sensitivity_at_specificity_90": "sensitivity at specificity 0.90",
    "specificity_at_sensitivity_90": "specificity at sensitivity 0.90",
    "brier": "Brier score",
}


def clean(text: object) -> str:
    """Text without control and direction characters, which could reorder what a reader sees."""
    return "".join(c for c in str(text) if unicodedata.category(c)[0] != "C")


def brief(reason: str) -> str:
    """Why something is not shown, in a few words where the whole reason is long."""
    if not reason.endswith(COMPLEMENT):
        return clean(reason)
    return "hidden for another" if reason == COMPLEMENT else "few, or hidden for another"


def tame(text: object) -> str:
    """A label as one short line: cleaned, and cut when it is too long."""
    plain = clean(text)
    return plain if len(plain) <= LONGEST_LABEL else plain[: LONGEST_LABEL - 1] + "…"


def tamed(content: Any) -> Any:
    """The content with every text in it tamed: a drawing has no filters."""
    if isinstance(content, Mapping):
        return {key: tamed(value) for key, value in content.items()}
    if isinstance(content, list):
        return [tamed(value) for value in content]
    return tame(content) if isinstance(content, str) else content


def metric(name: str) -> str:
    """A metric for a reader, with the structure it is of and its unit."""
    what, structure = title_of(name)
    unit = measure_of(name).unit
    whole = METRICS.get(name, what if what != name else tame(name)) + (f", {tame(structure)}" if structure else "")
    return f"{whole} ({unit})" if unit else whole


def numbers(row: Row) -> str:
    """A value with its interval, with real minus signs and no minus nought."""
    value, *ends = [number(row[key]) for key in ("value", "low", "high")]
    if not value:
        return ""
    return value if "" in ends else f"{value} ({ends[0]} to {ends[1]})"


def number(value: float | None) -> str:
    """A number to two places; "" for none."""
    return "" if value is None else f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def signed(value: float) -> str:
    """A difference to two places with its sign; nought has none."""
    rounded = round(value, 2) + 0.0
    return f"{rounded:+.2f}".replace("-", "−") if rounded else "0.00"


def percent(value: float | None) -> str:
    """A share in whole percent; "" for none."""
    return "" if value is None else f"{100 * value:.0f} %"


def hundred(rate: Row) -> str:
    """How many of 100 a share is, with its interval where it has one."""
    value, *ends = [None if rate[key] is None else f"{100 * rate[key]:.0f}" for key in ("value", "low", "high")]
    return f"{value}" if None in ends else f"{value} ({ends[0]} to {ends[1]})"


def rest_of(rate: Row) -> dict[str, float | None]:
    """The share of all others: of specificity the false alarms, the ends of the interval in their order."""
    ends = {"value": rate["value"], "low": rate["high"], "high": rate["low"]}
    return {key: None if end is None else 1 - end for key, end in ends.items()}


def failed(row: Row | None) -> str:
    """How many failures of how many volumes, or why that is not told."""
    if row is None or row["n_rows"] is None:
        return "" if row is None else row["reason"]
    return f"{row['n_positive']} of {row['n_rows']}"


def required(row: Row) -> str:
    """What an acceptance criterion asks."""
    most = not measure_of(row["metric"]).more_is_better
    return f"{metric(row['metric'])} at {'most' if most else 'least'} {number(row['limit'])}"
