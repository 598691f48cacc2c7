"""How old a patient was at a study and which sex the header tells. Nothing is imputed."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

from medssl.archive.tags import NAN, text

OLDEST = 120.0
"""Years; more is a filler such as 999Y."""

DAYS_IN = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25, "": 365.25}

SEXES = ("M", "F", "O")


def sex_of(data: Any) -> str:
    """M, F or O as PatientSex says it, "" for anything else."""
    told = text(data, "PatientSex").upper()
    return told if told in SEXES else ""


def age_of(data: Any) -> tuple[float, str]:
    """Age in years at the study, and its source: "age" (PatientAge), "dates" (study less birth), "birth year" (born on
    a 1 January, which is what tools leave of a birth date, so up to a year too old); nan and "" when none is believable.
    """
    told = re.fullmatch(r"(\d{1,3})\s*([DWMY]?)", text(data, "PatientAge").upper())
    if told:
        years = int(told.group(1)) * DAYS_IN[told.group(2)] / 365.25
        if 0 < years <= OLDEST:
            return years, "age"
    born, studied = (_day(text(data, name)) for name in ("PatientBirthDate", "StudyDate"))
    if born is None or studied is None or not born < studied:
        return NAN, ""
    whole = studied.year - born.year - ((studied.month, studied.day) < (born.month, born.day))
    years = float(whole) if whole else (studied - born).days / 365.25
    if years > OLDEST:
        return NAN, ""
    return years, "birth year" if (born.month, born.day) == (1, 1) else "dates"


def _day(told: str) -> date | None:
    """A day from YYYYMMDD, also with points or dashes between; None when there is no such day."""
    found = re.fullmatch(r"(\d{4})[.-]?(\d{2})[.-]?(\d{2})", told)
    try:
        return date(*map(int, found.groups())) if found else None
    except ValueError:
        return None
