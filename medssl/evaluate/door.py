"""Letting a table in: by what its user declares it becomes a predictions table, with notes on all that was done to it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from medssl.errors import UserError
from medssl.evaluate.checks import Problem, refuse
from medssl.evaluate.classes import one_vs_rest
from medssl.evaluate.files import NO_NUMBER, read_table
from medssl.evaluate.predictions import settled, structures_of
from medssl.evaluate.terms import Terms
from medssl.evaluate.values import in_one_spelling


class Admitted(NamedTuple):
    """A checked predictions table, and what a reader must know of how it came to be."""

    table: pd.DataFrame
    notes: list[str]


def admit(table: pd.DataFrame, where: str, terms: Terms, split: str) -> Admitted:
    """The table as it is judged. Raises UserError with everything that is wrong with it; `split` is the one judged.

    Exact copies of a row are dropped; a table without sample_id gets the numbers of its rows.
    """
    given = [str(name) for name in table.columns]
    table = table.reset_index(drop=True)
    table, notes = _copies_dropped(table)
    lines = table.index.to_numpy() + 2
    table = one_vs_rest(table, where)
    lines = np.tile(lines, len(table) // max(len(lines), 1))
    if terms.rows_are_patients and "patient_id" not in table:
        table = table.assign(patient_id=[f"row {line}" for line in lines])
        notes.append("Every row is taken for another patient (--rows-are-patients); if not, intervals are too narrow.")
    if "sample_id" not in table:
        table = table.assign(sample_id=[f"row {line:09d}" for line in lines])
    table = _labels_mapped(table, terms)
    table, told = _scores_settled(table, terms)
    notes += told
    table, problems, told = in_one_spelling(table, lines, terms)
    notes += told
    table, found = settled(table, lines, terms, given)
    problems += found
    if {"patient_id", "split"} <= set(table):
        learned, told = _learned_from(table, terms, split)
        problems += learned
        notes += told
    refuse(where, problems)
    return Admitted(table.reset_index(drop=True), notes + _prostates(table, where))


def read_patients(path: Path | str) -> frozenset[str]:
    """The patients that a file names: a predictions table (those of its train and val rows) or another one with a column
    patient_id, or a text with one on each line. Raises UserError where there is none.
    """
    path = Path(path)
    if path.suffix.lower() not in (".csv", ".parquet"):
        try:
            found = frozenset(
                line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()
            )
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read ({type(error).__name__}); give one patient_id a line") from None
    else:
        table = read_table(path)
        if "patient_id" not in table:
            raise UserError(f"{path}: E111 no column 'patient_id'; it has: {', '.join(map(str, table.columns))}")
        if "split" in table:
            table = table[table["split"].isin(["train", "val"])]
        found = frozenset(table["patient_id"].astype(str)) - {""}
    if not found:
        raise UserError(f"{path}: names no patient that was trained on; give one patient_id a line")
    return found


def _copies_dropped(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Without rows that say nothing new of their sample."""
    if "sample_id" not in table:
        return table, []
    copies = table.astype(str).duplicated() & (table["sample_id"].astype(str) != "")
    told = f"E110 {int(copies.sum())} rows are exact copies of another one and were dropped."
    return table[~copies], [told] if copies.any() else []


def _labels_mapped(table: pd.DataFrame, terms: Terms) -> pd.DataFrame:
    if "label" not in table or not terms.label_map:
        return table
    text = [f"{one:g}" if isinstance(one, float) else str(one).strip() for one in table["label"]]
    meant = {"blank": np.nan, "0": 0.0, "1": 1.0}
    mapped = [meant[terms.label_map[one]] if one in terms.label_map else one for one in text]
    return table.assign(label=pd.Series(mapped, index=table.index, dtype=object).where(table["label"].notna()))


def _scores_settled(table: pd.DataFrame, terms: Terms) -> tuple[pd.DataFrame, list[str]]:
    """Scores that are none, as the user says: blank, or the lowest. Outlines have no score, and none is made for them."""
    if not terms.missing_scores or "score" not in table or structures_of(table):
        return table, []
    text = table["score"].astype(str).str.strip().str.lower()
    failed = table["score"].isna() | text.isin(NO_NUMBER | {""})
    kept = table["score"].astype(object).mask(failed)
    if terms.missing_scores == "exclude" or not failed.any():
        return table.assign(score=kept), []
    lowest = 0.0 if terms.probabilities else float(pd.to_numeric(kept, errors="coerce").min())
    told = f"{int(failed.sum())} rows have no score and count as not flagged (score {lowest:g}; as declared)."
    return table.assign(score=kept.where(~failed, lowest)), [told]


def _learned_from(table: pd.DataFrame, terms: Terms, split: str) -> tuple[list[Problem], list[str]]:
    """Whether a judged patient was learned from, where it is told who was."""
    if not terms.trained_on:
        return [], []
    both = set(table.loc[table["split"] == split, "patient_id"]) & terms.trained_on
    if not both:
        return [], [f"No judged patient is among the {len(terms.trained_on)} that the model learned from."]
    named = f": {', '.join(sorted(both)[:5])}" if terms.show_ids else ""
    text = f"{len(both)} judged patients are among those that the model learned from{named}; leave their rows out"
    return [Problem("E112", text)], []


def _prostates(table: pd.DataFrame, where: str) -> list[str]:
    names = [where, *(table["task"].unique() if "task" in table else [])]
    if "sex" in table and any("prostat" in name.lower() for name in names) and (table["sex"] == "F").any():
        return ["E134 A table on the prostate holds patients of sex F; they are kept. Check whose records they are."]
    return []
