"""What attributes say, in one spelling: sexes as DICOM writes them, ages in bands, why nothing is recorded, and whatever a
mapping declares. Nothing is guessed: what no rule knows is an error, or stays as it is.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.errors import UserError
from medssl.evaluate.checks import Problem, told
from medssl.evaluate.predictions import CONFLICTING, DECLINED, NOT_KNOWN, UNKNOWN, UNMAPPED, attributes_of
from medssl.evaluate.terms import Terms

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

SEX = ("sex", "gender", "patient_sex", "PatientSex")
OTHER_SEX = "other (DICOM O)"
SEXES = {"m": "M", "male": "M", "f": "F", "female": "F", "o": OTHER_SEX, "other": OTHER_SEX, "u": UNKNOWN}

NOT_RECORDED = {
    "": UNKNOWN, "unknown": UNKNOWN, "unk": UNKNOWN, "nask": UNKNOWN, "not asked": UNKNOWN, "not recorded": UNKNOWN,
    "asku": DECLINED, "declined": DECLINED, "declined to answer": DECLINED, "declined to specify": DECLINED,
    "patient declined": DECLINED, "patient refused": DECLINED, "refused": DECLINED, "prefer not to say": DECLINED,
}  # fmt: skip
"""Words that say why there is no value (HL7 null flavours and their plain forms). Numbers such as 9, and NA, which may be
a value, are declared by a mapping."""

OF_A_PERSON = (*SEX, "race", "ethnicity", "ethnic_group", "ancestry", "language", "religion", "skin_tone")
"""Attributes that a patient has one value of; others (an eye's side, the site, an age) may differ between rows."""

BANDS = re.compile(r"\s*(\d+\s*(-|–|to)\s*\d+|[<>≤≥]=?\s*\d+)")
AGE = re.compile(r"\s*(\d{1,3}(?:\.\d+)?)\s*([DWMYdwmy]?)\s*(\+?)\s*")
YEARS = {"D": 365.25, "W": 52.18, "M": 12.0}
OLDEST, TOP = 120, 89


def in_one_spelling(
    table: pd.DataFrame, lines: np.ndarray, terms: Terms
) -> tuple[pd.DataFrame, list[Problem], list[str]]:
    """The table with its attributes in one spelling, what is wrong with them, and notes on what was done.

    A column `age` gives `age_band`, unless there is one, and `age_in_years`; one that holds bands stays as it is.
    """
    table, problems, notes = _ages(table, lines, terms)
    for name in attributes_of(table):
        column = table[name].astype(object).where(table[name].notna(), "").astype(str).str.strip()
        if name in terms.mapping:
            column, told_of = _mapped(column, name, terms.mapping[name])
            notes += told_of
        else:
            column, told_of = _nothing_recorded(column, name)
            notes += told_of
            if name in SEX:
                folded = column.str.lower().map(SEXES)
                kept = column.isin([*SEXES.values(), *NOT_KNOWN])
                why = "is no sex that DICOM knows (M, F, O or blank); say by --mapping which group it is"
                problems += told("E130", table.assign(**{name: column}), folded.isna() & ~kept, name, why, lines)
                notes += _folded(column, folded, name)
                column = folded.where(folded.notna(), column)
        table = table.assign(**{name: column})
    for name in [name for name in OF_A_PERSON if name in table and "patient_id" in table]:
        several = table.groupby("patient_id")[name].transform("nunique") > 1
        if (several & (table["patient_id"] != "")).any():
            table = table.assign(**{name: table[name].where(~several, CONFLICTING)})
            notes.append(
                f"E113 {name}: rows of some patients differ, or only some of them tell it; these patients are the group "
                f'"{CONFLICTING}". Give each patient one value.'
            )
    return table, problems, notes


def read_mapping(path: Path | str) -> dict[str, dict[str, str]]:
    """attribute -> value -> group of a CSV file with these three columns (others are not read).

    Raises UserError (E131) where a column is missing, a cell is blank or a value has two groups.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: E131 cannot be read ({type(error).__name__}); --mapping-template writes a file to fill in"
        ) from None
    found: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, 2):
        attribute, value, group = ((row.get(name) or "").strip() for name in ("attribute", "value", "group"))
        if not attribute or not group:
            raise UserError(f"{path}: E131 row {number} has no attribute or no group; give attribute, value, group")
        if found.setdefault(attribute, {}).setdefault(value, group) != group:
            raise UserError(f"{path}: E131 row {number} gives {attribute} {value!r} a second group; leave one of them")
    if not found:
        raise UserError(f"{path}: E131 no rows; give the columns attribute, value, group")
    return found


def write_template(path: Path, tables: Mapping[str, pd.DataFrame], by: Sequence[str], minimum: int) -> int:
    """How many values of the attributes `by` (empty: of all) stand in the CSV file that is written, to be filled in."""
    import pandas as pd

    from medssl.atomic import write_text

    parts = []
    for where, table in tables.items():
        if "patient_id" not in table:
            raise UserError(f"{where}: E111 no column 'patient_id'; say by --columns which one it is")
        there = attributes_of(table)
        names = dict.fromkeys(part for name in by for part in ([name] if name in there else name.split("*")))
        if lacking := [name for name in names if name not in there]:
            raise UserError(f"{where}: E161 the table has no attribute {lacking[0]!r}; it has: {', '.join(there)}")
        parts.append(mapping_template(table, list(names) or there, minimum))
    whole = pd.concat(parts).drop_duplicates(["attribute", "value"])
    write_text(path, whole.to_csv(index=False))
    return len(whole)


def mapping_template(table: pd.DataFrame, names: Sequence[str], minimum: int) -> pd.DataFrame:
    """A row for each value of the attributes: what a mapping is filled into. Patients are counted from `minimum` on."""
    import pandas as pd

    rows = []
    for name in names:
        values = table[name].astype(object).where(table[name].notna(), "").astype(str).str.strip()
        people = table.groupby(values)["patient_id"].nunique()
        for value, count in people.items():
            known = NOT_RECORDED.get(str(value).lower(), SEXES.get(str(value).lower(), "") if name in SEX else "")
            few = f"fewer than {minimum}"
            rows.append(
                {"attribute": name, "value": value, "group": known, "patients": count if count >= minimum else few}
            )
    return pd.DataFrame(rows, columns=["attribute", "value", "group", "patients"])


def age_in_years(text: str) -> float:
    """Years of "61", "061Y", "018M" or "90+"; nan when blank, 0 or no age. 89+ and above is 90: who is older is not told."""
    found = AGE.fullmatch(text)
    if not found:
        return math.nan
    years = float(found[1]) / YEARS.get(found[2].upper(), 1.0)
    if found[3]:
        return float(TOP + 1) if years >= TOP else math.nan
    return years if 0 < years <= OLDEST else math.nan


def age_band(years: float, firsts: Sequence[int]) -> str:
    """The band of an age, e.g. "40-64"; "unknown" for nan. `firsts` are the first ages of the second, third... band."""
    if math.isnan(years):
        return UNKNOWN
    place = sum(years >= first for first in firsts)
    low = 0 if place == 0 else firsts[place - 1]
    return f"{low}+" if place == len(firsts) else f"{low}-{firsts[place] - 1}"


def _ages(table: pd.DataFrame, lines: np.ndarray, terms: Terms) -> tuple[pd.DataFrame, list[Problem], list[str]]:
    if "age" not in table or "age" in terms.mapping:
        return table, [], []
    text = table["age"].astype(object).where(table["age"].notna(), "").astype(str).str.strip()
    text = text.where(~text.str.lower().isin(NOT_RECORDED), "")
    if text.str.match(BANDS).any():
        return table, [], []
    years = text.map(age_in_years)
    if not text.str.contains(r"\d").any():
        return table, [], []  # words for ages are groups as they are
    newborn = text.str.fullmatch(r"0+(\.0+)?\s*[DWMYdwmy]?")
    why = f"is no age from 0 to {OLDEST} (61, 061Y, 006M, 90+); leave the cell blank if none is recorded"
    texts = table.assign(age=text)
    problems = told("E133", texts, (text != "") & years.isna() & ~newborn, "age", why, lines)
    notes = []
    if newborn.any():
        notes.append(
            "E133 age: 0 is taken as not recorded, as scanners write it by default; give newborns' ages in days."
        )
    table = table.drop(columns="age").assign(age_in_years=years.clip(upper=TOP + 1))
    if "age_band" not in table:
        table = table.assign(age_band=[age_band(one, terms.age_bands) for one in years])
    return table, problems, notes


def _nothing_recorded(column: pd.Series, name: str) -> tuple[pd.Series, list[str]]:
    found = column.str.lower().map(NOT_RECORDED)
    kept = found.where(found.notna(), column)
    changed = sorted(set(column[(kept != column) & (column != "")]))
    if not changed:
        return kept, []
    words = ", ".join(f"{word!r} as {NOT_RECORDED[word.lower()]}" for word in changed)
    return kept, [f"E132 {name}: read {words}."]


def _folded(column: pd.Series, folded: pd.Series, name: str) -> list[str]:
    notes = []
    changed = sorted(set(column[folded.notna() & (folded != column) & ~folded.isin([OTHER_SEX, UNKNOWN])]))
    if changed:
        notes.append(f"E130 {name}: read {', '.join(f'{word!r} as {SEXES[word.lower()]}' for word in changed)}.")
    if (folded == OTHER_SEX).any():
        notes.append(
            f"E130 {name}: O is a group of its own; some devices write it by default, for phantoms and tests. The header's "
            "sex is an administrative one, not gender."
        )
    return notes


def _mapped(column: pd.Series, name: str, groups: Mapping[str, str]) -> tuple[pd.Series, list[str]]:
    """The column by its mapping; a value that it does not list is UNMAPPED, unless it says that nothing is recorded."""
    found = column.map(groups)
    rest = column.str.lower().map(NOT_RECORDED)
    unmapped = sorted(set(column[found.isna() & rest.isna()]) - set(groups.values()))
    kept = column.where(column.isin(list(groups.values())), UNMAPPED)
    found = found.where(found.notna(), rest.where(rest.notna(), kept))
    if not unmapped:
        return found, []
    return found, [f'E131 {name}: {len(unmapped)} values are not in the mapping; they are the group "{UNMAPPED}".']


__all__ = ["age_band", "age_in_years", "in_one_spelling", "mapping_template", "read_mapping", "write_template"]
