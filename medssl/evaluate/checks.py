"""What would make a number wrong, each with a code: all that is wrong with a table is found before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from medssl.errors import UserError
from medssl.evaluate.files import DECIMAL_COMMA
from medssl.evaluate.outlines import FAILURES, MEASURES, VOLUME, columns_of, split_name, volumes_of
from medssl.evaluate.terms import DECLARED_NOTHING, Terms

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

CODES = {
    "E100": "a column that every table needs is not there",
    "E101": "a score is no finite number",
    "E102": "a score is no probability",
    "E103": "a label is not 0, 1 or blank",
    "E104": "all scores are equal (a note: they rank nobody)",
    "E105": "another column of numbers holds something else",
    "E106": "a split or a task has no name, or one that is none",
    "E110": "a sample stands there twice",
    "E111": "a row has no patient",
    "E112": "a judged patient is also one that was learned from",
    "E113": "records of one patient contradict each other (a note: a group of its own)",
    "E122": "an attribute is no grouping but free text, a measurement or an identifier",
    "E130": "a sex that no rule knows",
    "E131": "the mapping of values is no mapping (a note: values it does not list)",
    "E132": "a value says why nothing is recorded (a note)",
    "E133": "an age is none, or the bands are",
    "E134": "a table on the prostate holds women (a note)",
    "E141": "a threshold does not say where it comes from",
    "E150": "a measure of outlines contradicts another, or is none",
    "E161": "a name is not there, or taken",
    "E162": "a file is no table",
    "W202": "the finding is twice as common in one group as in another (a note)",
    "W203": "much of an attribute is not recorded, or its recording goes with the outcome (a note)",
}
"""Every code that a message or a note begins with."""

SPLITS = ("train", "val", "test", "external")
SCORES = ("label", "score")
EXAMPLES = 5


class Problem(NamedTuple):
    """Something to mend: the code, and a sentence that names the thing, the value and the remedy."""

    code: str
    text: str


class Check(NamedTuple):
    """A rule for cells: its code, the columns of a table that it is for, which cells break it, and what to do."""

    code: str
    columns: Callable[[pd.DataFrame], Sequence[str]]
    wrong: Callable[[pd.DataFrame, str], pd.Series]
    why: str


def only(*names: str) -> Callable[[pd.DataFrame], Sequence[str]]:
    return lambda table: [name for name in names if name in table]


def outlines(*prefixes: str) -> Callable[[pd.DataFrame], Sequence[str]]:
    return lambda table: [c for c in columns_of(map(str, table.columns)) if split_name(c)[0] in prefixes]


def _volumes(table: pd.DataFrame) -> Sequence[str]:
    return [column for column in volumes_of(map(str, table.columns)) if column.startswith(VOLUME)]


def _outside(table: pd.DataFrame, column: str) -> pd.Series:
    finite = table[column].abs() < float("inf")
    return finite & ~table[column].between(0, 1)


def _endless(table: pd.DataFrame, column: str) -> pd.Series:
    return table[column].notna() & ~(table[column].abs() < float("inf"))


def _none_of(*allowed: float | str) -> Callable[[pd.DataFrame, str], pd.Series]:
    return lambda table, column: table[column].notna() & ~table[column].isin(allowed)


def _again(table: pd.DataFrame, column: str) -> pd.Series:
    return table.duplicated([column, "task"] if "task" in table else [column]) & (table[column] != "")


def _unnamed(table: pd.DataFrame, column: str) -> pd.Series:
    return (table[column] == "") & (table[column].nunique() > 1)


def _no_distance(table: pd.DataFrame, column: str) -> pd.Series:
    return table[column].notna() & ~table[column].between(0, float("inf"), inclusive="left")


CELLS = (
    Check("E111", only("patient_id"), lambda table, column: table[column] == "",
          "is blank; every row needs its patient (--rows-are-patients: a table without such a column)"),
    Check("E110", lambda table: only("sample_id")(table) if "task" not in table else [], _again,
          "occurs twice; give one row a sample"),
    Check("E110", lambda table: only("sample_id")(table) if "task" in table else [], _again,
          "occurs twice; give one row a sample and task"),
    Check("E106", only("task"), _unnamed, "is blank where others are not; name every row's"),
    Check("E106", only("split"), _none_of(*SPLITS), f"is not one of {', '.join(SPLITS)}"),
    Check("E103", only("label"), _none_of(0, 1), "is not 0, 1 or blank; say by --label-map what stands for what"),
    Check("E101", only("score"), _endless, "is not a finite number; leave the cell blank where there is no score: the row "
          "is not judged, and counted (or say --missing-scores exclude, or as_negative)"),
    Check("E105", only("unlike"), _outside, "is not between 0 and 1; give a share"),
    Check("E150", outlines("dice_", "nsd_"), _outside, "is not between 0 and 1; give an overlap"),
    Check("E150", outlines("hd95_"), _no_distance, "is not a distance in mm; of a failure give the diagonal of the volume"),
    Check("E150", outlines(*FAILURES), _none_of(0, 1), "is not 0, 1 or blank"),
    Check("E150", _volumes, lambda table, column: table[column] < 0,
          "is no volume in ml; of an absent structure give 0 or nothing"),
)  # fmt: skip

CHANCES = Check(
    "E102", only("score"), _outside,
    "is not between 0 and 1; give a probability, or say --score-kind rank where scores only rank",
)  # fmt: skip


def problems_of(table: pd.DataFrame, lines: np.ndarray, terms: Terms = DECLARED_NOTHING) -> list[Problem]:
    """Everything wrong with a table whose types are settled; `lines` are the numbers of its rows in the file."""
    found = []
    for check in (*CELLS, *([CHANCES] if terms.probabilities else [])):
        for column in check.columns(table):
            wrong = check.wrong(table, column)
            found += told(check.code, table, wrong, column, check.why, lines, show_ids=terms.show_ids)
    return found + _outline_problems(table, lines) + _split_problems(table)


def told(
    code: str,
    table: pd.DataFrame,
    wrong: pd.Series,
    column: str,
    why: str,
    lines: np.ndarray,
    *,
    show_ids: bool = False,
) -> list[Problem]:
    """The problem of some cells, [] of none: how many, the first one's value, and the rows of up to five."""
    if not wrong.any():
        return []
    at = wrong.to_numpy().nonzero()[0]
    found = table[column].iloc[int(at[0])]
    hide = column in ("sample_id", "patient_id") and not (show_ids and found)
    value = "" if hide else f" {found!r}" if isinstance(found, str) else f" {float(found)}"
    more = f" ({len(at)} such rows of {len(table)}: {_rows(lines[at])})" if len(at) > 1 else ""
    values = table[column][wrong].astype(str).unique()
    other = f"; also {', '.join(map(repr, values[1:EXAMPLES]))}" if code == "E103" and len(values) > 1 else ""
    return [Problem(code, f"{column}{value} in row {lines[at[0]]} {why}{more}{other}")]


def numbers(table: pd.DataFrame, column: str, lines: np.ndarray) -> tuple[pd.Series, list[Problem]]:
    """A column as floats (nan: blank, or no number), and what is no number."""
    import pandas as pd

    text = table[column].astype(str).str.strip()
    blank = table[column].isna() | (text == "")
    found = pd.to_numeric(table[column].where(~blank), errors="coerce").astype(float)
    wrong = found.isna() & ~blank
    commas = wrong & text.str.match(DECIMAL_COMMA)
    code = {"score": "E101", "label": "E103"}.get(column, "E105")
    mend = {
        "score": "is not a number; leave the cell blank where there is no score: the row is not judged, and counted "
        "(of nan or inf say --missing-scores exclude, or as_negative)",
        "label": "is not a number; leave the cell blank if there is none, or say by --label-map what stands for what",
    }.get(column, "is not a number; leave the cell blank if there is none")
    why = "has a decimal comma; write a point, or separate columns by semicolons"
    texts = table.assign(**{column: table[column].astype(str)})
    return found, [
        *told("E162", texts, commas, column, why, lines),
        *told(code, texts, wrong & ~commas, column, mend, lines),
    ]


def refuse(where: str, problems: Sequence[Problem]) -> None:
    """Nothing; raises UserError with all problems, a line each where there are several."""
    if len(problems) == 1:
        raise UserError(f"{where}: {problems[0].code} {problems[0].text}")
    if problems:
        lines = "".join(f"\n  {problem.code} {problem.text}" for problem in problems)
        raise UserError(f"{where}: {len(problems)} problems{lines}")


def _rows(lines: np.ndarray) -> str:
    return ", ".join(map(str, lines[:EXAMPLES])) + (", …" if len(lines) > EXAMPLES else "")


def _outline_problems(table: pd.DataFrame, lines: np.ndarray) -> list[Problem]:
    """Surface Dice of several tolerances, and a failure that another measure drops."""
    found = []
    if "tolerance_mm" in table and outlines("nsd_")(table):
        tolerances = sorted(table["tolerance_mm"].dropna().unique())
        if len(tolerances) > 1:
            all_of = ", ".join(f"{one:g}" for one in tolerances)
            found = [
                Problem("E150", f"tolerance_mm is {all_of}; surface Dice of each is another measure, predict with one")
            ]
    for column in outlines(*MEASURES)(table):
        name = split_name(column)[1]
        for other in (one + name for one in MEASURES if one + name in table):
            wrong = table[column].notna() & table[other].isna()
            why = f"is not blank where {other} is; of a failure give Dice 0, surface Dice 0 and as HD95 the diagonal in mm"
            found += told("E150", table, wrong, column, why, lines)
    return found


def _split_problems(table: pd.DataFrame) -> list[Problem]:
    if "patient_id" not in table or "split" not in table:
        return []
    several = int((table[table["patient_id"] != ""].groupby("patient_id")["split"].nunique() > 1).sum())
    who = "1 patient is" if several == 1 else f"{several} patients are"
    text = f"{who} in more than one split; split by patient, else the test leaks"
    return [Problem("E112", text)] if several else []
