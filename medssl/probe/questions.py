"""What is asked of frozen features: labels and attributes of patients, with who is asked and who may be learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medssl.manifest.demographics import UNKNOWN
from medssl.store import Store

ATTRIBUTES = ("scanner", "site", "sex", "race", "age_band")
"""What is asked beside labels."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One question. `held` are the numbers (N,) of the held-out rows of which the answer is known, `truth` (N,) the classes
    they have and `patients` (N,) whose they are; `seen` (M,), `seen_truth` and `seen_patients` the same of training rows.
    """

    name: str
    classes: tuple[str, ...]
    held: np.ndarray
    truth: np.ndarray
    patients: np.ndarray
    seen: np.ndarray
    seen_truth: np.ndarray
    seen_patients: np.ndarray


def names(store: Store, rows: pd.DataFrame, attributes: Sequence[str] = ATTRIBUTES) -> list[str]:
    """The labels of a store and the attributes that its rows have."""
    return [*sorted(store.labels["name"].unique()), *(name for name in attributes if name in rows.columns)]


def task(store: Store, rows: pd.DataFrame, seen_rows: pd.DataFrame, name: str) -> Task | None:
    """The question `name` put to held-out rows; None where fewer than two answers are known among them, or among those to
    be learned from.
    """
    told, seen_told = answers(store, rows, name), answers(store, seen_rows, name)
    classes = tuple(sorted(set(told) - {""}))
    held, seen = np.flatnonzero(told.isin(classes)), np.flatnonzero(seen_told.isin(classes))
    if len(classes) < 2 or seen_told.iloc[seen].nunique() < 2:
        return None
    code = {word: number for number, word in enumerate(classes)}
    return Task(
        name=name,
        classes=classes,
        held=held,
        truth=told.iloc[held].map(code).to_numpy(),
        patients=rows["patient_pid"].to_numpy()[held],
        seen=seen,
        seen_truth=seen_told.iloc[seen].map(code).to_numpy(),
        seen_patients=seen_rows["patient_pid"].to_numpy()[seen],
    )


def answers(store: Store, rows: pd.DataFrame, name: str) -> pd.Series:
    """The answer for each row as a word; "" where it is not known, and for labels that are measurements."""
    if name in ATTRIBUTES:
        return rows[name].astype(str).replace(UNKNOWN, "")
    values = store.labels[store.labels["name"] == name].set_index("volume_id")["value"]
    told = rows["volume_id"].map(values)
    whole = told.dropna().mod(1).eq(0).all()
    return told.map(lambda value: f"{value:g}" if whole and value == value else "")
