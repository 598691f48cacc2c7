"""What is told of a scan beside its own volume: numbers, and the visits of the same eye or side before it."""

# B scans, Q covariates, T visits
from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch

from medssl.errors import UserError
from medssl.manifest.demographics import UNKNOWN
from medssl.store import Store

SIDE = ("patient_pid", "modality", "role", "laterality")
"""What volumes have in common that show one eye or side again."""


class Told(NamedTuple):
    """Numbers beside the views of B scans; empty where a head asks for none."""

    covariates: torch.Tensor = torch.empty(0)
    """Values (B, Q), nan where one is not known."""
    days: torch.Tensor = torch.empty(0)
    """How many days before the last visit each was (B, T), the oldest first; nan where there were fewer visits."""
    groups: torch.Tensor = torch.empty(0)
    """The number of each scan's group (B, 1), nan where it is unknown, or none that the head tells apart."""

    def of(self, rows: Any) -> Told:
        """What is told of some scans, by their numbers."""
        return Told(*(part[rows] if part.numel() else part for part in self))

    def to(self, device: torch.device) -> Told:
        """The same on another device."""
        return Told(*(part.to(device) for part in self))


ELSE = "a table tells pairs of a method others, e.g. clusters: method.contrast.pairs.labels"
"""What to do about a name that is like none of a store's."""

NOTHING = Told()
"""Of scans of which nothing is told."""


@dataclass(frozen=True)
class Series:
    """Which visits make one sample, at most `visits` of them and none longer than `within_days` before (0: however long).

    `ends` "first": one of each eye or side, its first visits; for labels that say what became of it in the end, and that
    are told of all its visits. What is looked at lies as early as it can, and no visit after it is looked at. "each": one
    for each volume with a label, which is its last; for labels that say what came after that very visit.
    """

    visits: int
    ends: Literal["first", "each"]
    within_days: float


class Beside(NamedTuple):
    """What a head asks for beside a volume: numbers, a series of visits, and a column with groups that it tells apart."""

    covariates: tuple[str, ...] = ()
    series: Series | None = None
    column: str = ""
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class History:
    """Of each row of a table the volumes of its visits, the last first (its own), and what is told beside."""

    volumes: list[tuple[str, ...]]
    told: Told


def with_history(
    store: Store, rows: pd.DataFrame, every: pd.DataFrame, beside: Beside = Beside()
) -> tuple[pd.DataFrame, History]:
    """Those of `rows` that end a series (all of them where none is asked for), and their history. `every` are the volumes
    that may be earlier visits; a row that is not among them has none.
    """
    series = beside.series
    volumes: list[tuple[str, ...]] = [(name,) for name in rows["volume_id"]]
    days = torch.empty(0)
    if series is not None:
        rows, volumes = _gathered(rows, every, series)
        day = every.set_index("volume_id")["days_since_first"].to_dict()
        days = torch.full((len(rows), series.visits), torch.nan)
        for number, visits in enumerate(volumes):
            before = [0.0, *(day[visits[0]] - day[earlier] for earlier in visits[1:])]
            days[number, -len(visits) :] = torch.tensor(before[::-1])
    known = [numbers_of(store, rows, name) for name in beside.covariates]
    told = torch.from_numpy(np.stack(known, 1)) if known else torch.empty(0)
    groups = torch.empty(0)
    if beside.column:
        numbers = {name: number for number, name in enumerate(beside.groups)}
        found = values_of(store, rows, beside.column).map(lambda value: numbers.get(str(value)))
        groups = torch.from_numpy(found.to_numpy(np.float32))[:, None]
    return rows, History(volumes, Told(told, days, groups))


def _gathered(rows: pd.DataFrame, every: pd.DataFrame, law: Series) -> tuple[pd.DataFrame, list[tuple[str, ...]]]:
    """The rows that end a series, and its volumes, the last first."""
    sides = {key: _by_day(group, law) for key, group in every.groupby([every[name].astype(str) for name in SIDE])}
    kept, found = [], []
    for number, row in enumerate(rows.to_dict("records")):
        visits = _visits(row, sides.get(tuple(str(row[name]) for name in SIDE), []), law)
        if visits:
            kept.append(number)
            found.append(visits)
    if not kept:
        raise UserError(
            f"head.ends: {law.ends}, but of {len(rows)} volumes with a label none is the last of its eye's or side's first "
            f"{law.visits} visits; set it to each, or lower head.visits"
        )
    return rows.iloc[kept].reset_index(drop=True), found


def _by_day(group: pd.DataFrame, law: Series) -> list[tuple[float, str]]:
    """Day and volume of the visits of one eye or side in their order; of several volumes of one day the first by id."""
    days = sorted(zip(group["days_since_first"], group["volume_id"], strict=True), key=lambda one: one[1])
    if len(days) > 1 and law.ends == "first" and any(day != day for day, _ in days):
        raise UserError(
            f"head.ends: first, but {len(days)} volumes of one eye or side have not all a day (days_since_first); tell the "
            "study_date in the data card, or choose among them by the data section"
        )
    once = {day: name for day, name in reversed(days) if len(days) == 1 or day == day}
    return sorted(once.items())


def _visits(row: Mapping[Any, Any], days: list[tuple[float, str]], law: Series) -> tuple[str, ...]:
    """The volumes of the series that a row ends, the last first; none where it ends none."""
    name, last = row["volume_id"], row["days_since_first"]
    if law.ends == "first":
        first = [one for day, one in days if not law.within_days or not day - days[0][0] > law.within_days]
        first = first[: law.visits]
        return tuple(reversed(first)) if first and first[-1] == name else ()
    before = [one for day, one in days if day < last and (not law.within_days or last - day <= law.within_days)]
    return name, *reversed(before[max(len(before) - law.visits + 1, 0) :])


def values_of(store: Store, rows: pd.DataFrame, name: str) -> pd.Series:
    """What a column, or a label, tells of each of `rows` (N,); None where it is not known."""
    if name in rows:
        values = rows[name].astype(object)
    else:
        labels = store.labels[store.labels["name"] == name]
        if labels.empty:
            known = [*map(str, rows.columns), *store.labels["name"].unique()]
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}; {ELSE}"
            raise UserError(f"{name}: the store has no column and no label of that name; {hint}")
        values = rows["volume_id"].map(labels.set_index("volume_id")["value"]).astype(object)
    return values.where(values.notna() & ~values.isin(["", UNKNOWN]), None)


def numbers_of(store: Store, rows: pd.DataFrame, name: str) -> np.ndarray:
    """The numbers of a column, or of a label, of `rows` (N,) float32; nan where one is not known. Raises UserError for what
    is no number.
    """
    values = values_of(store, rows, name)
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float32)
    strange = ~np.isfinite(numbers) & values.notna().to_numpy() & (values.astype(str).str.lower() != "nan").to_numpy()
    if strange.any():
        raise UserError(f"head.covariates: {name} holds {values[strange].iloc[0]!r}, which is no number; leave it out")
    return numbers
