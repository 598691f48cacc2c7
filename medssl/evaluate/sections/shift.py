"""Whether the model does alike everywhere: sites, scanners, years; what a new one may expect; and gaps within sites."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from medssl.evaluate.confounding import two_way
from medssl.evaluate.distances import Apart, distances
from medssl.evaluate.groups import with_group
from medssl.evaluate.heterogeneity import FEWEST_SITES, Between, between
from medssl.evaluate.intervals import expit, logit
from medssl.evaluate.measures import AUROC, Metric, mean_of
from medssl.evaluate.metrics import Measured
from medssl.evaluate.outlines import measure_of
from medssl.evaluate.predictions import NOT_KNOWN, structures_of
from medssl.evaluate.sections.judged import Judged, patients_of, reasons

SITES = (
    "site", "hospital", "centre", "center", "institution", "scanner", "device", "vendor", "manufacturer", "model_name",
    "field_strength", "year",
)  # fmt: skip
"""Attributes that say where or when an image was made, and not of whom."""


def shift(judged: Judged) -> dict[str, Any] | None:
    """For each attribute of SITES: the primary metric of each site and how far sites differ beyond chance, how far their
    scores lie apart, and gaps between groups within sites; None where no such attribute has two groups to show.

    Sites are independent samples here; a patient of two of them counts in each. Nothing is said of the spread of fewer than
    three sites.
    """
    metric = mean_of(structures_of(judged.rows)[0]) if judged.segmentation else AUROC
    found = [_attribute(judged, name, metric) for name in judged.attributes if name in SITES]
    told = [one for one in found if one is not None]
    return {"metric": metric.name, "attributes": told} if told else None


def _attribute(judged: Judged, name: str, metric: Metric) -> dict[str, Any] | None:
    told = {place: reason for place, reason in reasons(judged, name).items() if place not in NOT_KNOWN}
    shown = [place for place, reason in told.items() if not reason]
    if len(told) < 2 or not shown:
        return None
    grouped = with_group(judged.rows, name).rename(columns={"group": "place"})
    grouped = grouped[~grouped["place"].isin(NOT_KNOWN)]
    grouped = grouped.assign(patient=patients_of(grouped)[0])
    each = {place: _measured(grouped[grouped["place"] == place], metric) for place in shown}
    usable = {place: one for place, one in each.items() if isinstance(one, Measured)}
    apart = _distances(grouped, shown) if not judged.segmentation else {}
    rows = [_site(place, grouped, each[place], metric, apart.get(place, {})) for place in shown]
    hidden = [{"site": place, "reason": reason} | _nothing() for place, reason in told.items() if reason]
    summary, reason = None, f"fewer than {FEWEST_SITES} sites have an error to be weighed by"
    if len(usable) >= FEWEST_SITES:
        summary, reason = _summary(list(usable.values()), metric), ""
    others = [attribute for attribute in judged.attributes if attribute not in SITES and "*" not in attribute]
    tables = [table for one in others if (table := _table(judged, grouped, name, one, metric))]
    return {
        "attribute": name, "sites": rows + hidden, "summary": summary, "reason": reason, "tables": tables,
    }  # fmt: skip


def _table(judged: Judged, rows: pd.DataFrame, site: str, attribute: str, metric: Metric) -> dict[str, Any] | None:
    """The gaps between the groups that are shown, over all sites and within them."""
    shown = [
        [group for group, reason in reasons(judged, name).items() if not reason and group not in NOT_KNOWN]
        for name in (site, attribute)
    ]
    rows = with_group(metric.uses(rows), attribute)
    return two_way(rows[~rows["group"].isin(NOT_KNOWN)], shown, (site, attribute), metric, judged.minimum_patients)


def _nothing() -> dict[str, None]:
    return {"n_patients": None, "value": None, "low": None, "high": None, "distance": None, "distance_without": None}


def _measured(rows: pd.DataFrame, metric: Metric) -> Measured | str:
    """A site's metric with the error to weigh it by, or the reason why it has none."""
    rows = metric.uses(rows)
    if reason := metric.too_few(rows):
        return reason
    codes, patients = patients_of(rows)
    one = metric.measure(rows.assign(patient=codes), patients)
    if one.scale == "logit" and one.value in (0.0, 1.0):
        return f"at {one.value:g}: no error to weigh it by"
    return one if one.error > 0 else "does not vary: no error to weigh it by"


def _site(
    place: str, rows: pd.DataFrame, one: Measured | str, metric: Metric, apart: dict[str, Apart]
) -> dict[str, Any]:
    """A line of the table: the metric at a site and how far its scores lie from those elsewhere."""
    inside = rows[rows["place"] == place]
    row: dict[str, Any] = {"site": place, "reason": "", **_nothing(), "n_patients": int(inside["patient_id"].nunique())}
    row |= {name: _told(found) for name, found in apart.items()}
    if isinstance(one, str):
        return row | {"reason": one}
    used = metric.uses(inside)
    low, high, _ = metric.interval(used.assign(patient=patients_of(used)[0]), one)
    return row | {"value": one.value, "low": _known(low), "high": _known(high)}


def _distances(rows: pd.DataFrame, shown: Sequence[str]) -> dict[str, dict[str, Apart]]:
    """Of each site shown, how far its scores lie from those elsewhere: of all rows, and of those without the finding."""
    numbers = {place: number for number, place in enumerate(shown)}
    found: dict[str, dict[str, Apart]] = {place: {} for place in shown}
    for name, part in {"distance": rows, "distance_without": rows[rows["label"] == 0]}.items():
        if part.empty:
            continue
        site = part["place"].map(numbers).fillna(len(shown)).to_numpy(int)
        for place, one in zip(
            shown,
            distances(part["score"].to_numpy(float), part["patient"].to_numpy(int), site, len(shown)),
            strict=True,
        ):
            found[place][name] = one
    return found


def _told(one: Apart) -> dict[str, float] | None:
    return None if math.isnan(one.distance) else {"value": one.distance, "by_chance": one.by_chance, "p": one.p}


def _summary(each: Sequence[Measured], metric: Metric) -> dict[str, Any]:
    """What sites have in common, with shares on their own scale and the spread on that of the values."""
    ranked = each[0].scale == "logit"
    values = np.array([logit(one.value) if ranked else one.value for one in each])
    errors = np.array([one.error / (one.value * (1 - one.value)) if ranked else one.error for one in each])
    found = between(values, errors)
    top = math.inf if measure_of(metric.name).unit else 1.0

    def back(value: float) -> float:
        return expit(value) if ranked else min(max(value, 0.0), top)

    return {
        "sites": found.sites, "scale": "log odds" if ranked else measure_of(metric.name).unit or "share",
        "mean": _ends(back(found.mean), map(back, found.mean_ends)),
        "new": dict(zip(("low", "high"), map(back, found.new), strict=True)),
        "spread": _ends(math.sqrt(found.variance), map(math.sqrt, found.variance_ends)), **_share(found),
    }  # fmt: skip


def _share(found: Between) -> dict[str, Any]:
    return {"share": _ends(found.share, found.share_ends), "p": found.chance}


def _ends(value: float, ends: Any) -> dict[str, float]:
    low, high = ends
    return {"value": value, "low": low, "high": high}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
