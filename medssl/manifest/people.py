"""Who is in a cohort and who was left out of it, by sex, race, ethnicity, age band and site. The patient is the unit.

A group of fewer than 10 patients is not shown, and neither is as much of the others as would let it be worked out from
the total: what can be worked out is always about two groups or more that have 10 patients or more together. "unknown" is
no group of people but a gap in the record: it is shown however small it is, unless it must cover for a small group.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from medssl.manifest.demographics import UNKNOWN
from medssl.manifest.flow import BY_DESIGN

if TYPE_CHECKING:
    import pandas as pd

    from medssl.manifest.cohort import Cohort

MINIMUM = 10
"""Fewest patients of a group that is shown."""

MOST_GROUPS = 20
"""Groups of one attribute that are named; the smallest beyond it are one row together."""

ATTRIBUTES = {"sex": "Sex", "race": "Race", "ethnicity": "Ethnicity", "age_band": "Age", "site": "Site"}

Z = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""

RECORDED = "recorded"
"""What all groups of a cohort are called that is too small to have any."""

SMALL = f"fewer than {MINIMUM} patients"
COMPLEMENT = "not shown, so that a smaller group cannot be worked out"

Row = dict[str, Any]


def people(cohort: Cohort, fate: pd.Series[str]) -> Row:
    """All patients and each group of them: how many, how many left wholly, and how many lost a series to a fault.

    `fate` is why each patient left (see flow.py), "" for those who stayed.
    """
    table = patients_found(cohort, fate)
    return {
        "minimum": MINIMUM,
        "all": _counted(table),
        "attributes": [
            {"attribute": name, "title": title, "groups": groups(table, name)} for name, title in ATTRIBUTES.items()
        ],
        "age_years": _quartiles(table["age_years"].dropna()),
    }


def patients_found(cohort: Cohort, fate: pd.Series[str]) -> pd.DataFrame:
    """A row for each patient of whom any header could be read, with `left` and `hurt` (lost a series to a fault)."""
    table = cohort.patients.set_index("patient_pid").reindex(fate.index)
    table[[*ATTRIBUTES]] = table[[*ATTRIBUTES]].fillna(UNKNOWN)
    table["n_volumes"] = table["n_volumes"].fillna(0).astype(int)
    hurt: set[str] = set()
    for rows in cohort.volumes, cohort.instances:
        faulty = (rows["status"] == "excluded") & ~rows["reason"].isin(BY_DESIGN)
        hurt |= set(rows.loc[faulty, "patient_pid"])
    return table.assign(left=(fate != "").to_numpy(), hurt=table.index.isin(sorted(hurt)))


def groups(table: pd.DataFrame, attribute: str) -> list[Row]:
    """A row for each group, the known ones in order, "unknown" last; small ones say why they hold no numbers."""
    names = merged(table[attribute])
    if len(table) < MINIMUM:  # the total is told, and would tell of a single group
        names = names.where(names == UNKNOWN, RECORDED)
    sizes = {str(name): int(size) for name, size in names.value_counts().items()}
    reasons = hidden(sizes)
    rows = []
    for name in sorted(sizes, key=_place):
        if why := reasons.get(name):
            rows.append({"group": name, "hidden": why})
        else:
            rows.append({"group": name, "hidden": "", **_counted(table[names == name])})
    return rows


def merged(values: pd.Series[str]) -> pd.Series[str]:
    """The values; where there are very many, those of the smallest groups are one group. "unknown" stays itself."""
    sizes = values.value_counts()
    known = sorted((str(name) for name in sizes.index if name != UNKNOWN), key=lambda name: (-sizes[name], name))
    rest = known[MOST_GROUPS:]
    # Names of groups that small are most likely not of groups at all but of people.
    rest = [name for name in known if name in rest or sizes[name] < MINIMUM] if rest else []
    return values.where(~values.isin(rest), f"{len(rest)} other groups")


def hidden(sizes: Mapping[str, int], minimum: int = MINIMUM) -> dict[str, str]:
    """The groups that are not shown, and why: small ones, and the smallest others until nothing small is left over."""
    reasons = {name: SMALL for name, size in sizes.items() if size < minimum and name != UNKNOWN}
    others = sorted((name for name in sizes if name not in reasons), key=lambda name: (sizes[name], name))
    while reasons and others and sum(sizes[name] for name in reasons) < minimum:
        reasons[others.pop(0)] = COMPLEMENT
    return reasons


def wilson(hits: int, total: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share (JASA 1927); nan of nothing."""
    if total == 0:
        return math.nan, math.nan
    share, shrink = hits / total, 1 + Z**2 / total
    middle = (share + Z**2 / (2 * total)) / shrink
    spread = Z / shrink * math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2))
    return max(0.0, middle - spread) if hits else 0.0, min(1.0, middle + spread) if hits < total else 1.0


def share(hits: int, total: int) -> Row:
    """A count with its share of a total and the share's interval; None where there is nothing to share."""
    low, high = wilson(hits, total)
    ends = {"low": round(low, 4), "high": round(high, 4)} if total else {"low": None, "high": None}
    return {"n": hits, "share": round(hits / total, 4) if total else None, **ends}


def _counted(rows: pd.DataFrame) -> Row:
    total = len(rows)
    return {
        "patients": total,
        "volumes": int(rows["n_volumes"].sum()),
        "left": share(int(rows["left"].sum()), total),
        "hurt": share(int(rows["hurt"].sum()), total),
    }


def _quartiles(ages: pd.Series[float]) -> Row | None:
    """The quartiles of the known ages; None where they would tell single ages."""
    if len(ages) < MINIMUM:
        return None
    low, median, high = (round(float(ages.quantile(q)), 1) for q in (0.25, 0.5, 0.75))
    return {"low": low, "median": median, "high": high}


def _place(name: str) -> tuple[bool, bool, int, str]:
    """Numbers by size ("<40" before "40-59"), then words, then the merged rest, then "unknown"."""
    number = re.match(r"<?(\d+)(?=-|\+|$)", name)
    value = int(number.group(1)) - name.startswith("<") if number else 10**9
    return name == UNKNOWN, name.endswith(" other groups"), value, name
