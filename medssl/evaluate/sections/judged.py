"""What a section is told."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from medssl.evaluate.groups import ordered, with_group
from medssl.evaluate.predictions import NOT_KNOWN
from medssl.evaluate.suppression import hidden_groups
from medssl.evaluate.threshold import Threshold


@dataclass(frozen=True)
class Judged:
    """What is judged of a table, or of one task of it: the rows with what they need, those left out, and the rules.

    `segmentation` says which of the two kinds it is; `rows` of a classification have label and score. `validation` are the
    rows of split val, empty when there are none or when they are themselves judged. `lesions` are those of all labelled
    cases of a detection (see evaluate/lesions.py), None of anything else. `name` is that of the table or the task;
    `prevalence` that of the place of use, None where it was not declared. `probabilities`: whether
    scores are some, or only rank. `table`: all rows, of all splits. `free`: the groups for whose sake no other is hidden.
    """

    rows: pd.DataFrame
    left_out: pd.DataFrame
    validation: pd.DataFrame
    segmentation: bool
    threshold: Threshold
    attributes: Sequence[str]
    minimum_patients: int
    margin: float
    lesions: pd.DataFrame | None = None
    name: str = ""
    prevalence: float | None = None
    probabilities: bool = True
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    free: Collection[str] = NOT_KNOWN

    @cached_property
    def hidden(self) -> Mapping[str, Mapping[str, str]]:
        """Attribute -> group -> reason, of the groups that are not shown; decided once, on who is judged or left out."""
        return {name: self.hidden_of(name) for name in self.attributes}

    def hidden_of(self, attribute: str) -> dict[str, str]:
        """Group -> reason, of the groups of an attribute or of a crossing that are not shown."""
        return hidden_groups(self.rows, self.left_out, attribute, self.minimum_patients, self.free)

    def groups(self) -> Iterator[tuple[str, str, pd.DataFrame, str]]:
        """(attribute, group, rows, reason): everybody first, as ("", "all"), then each group of each attribute, "unknown"
        last. A group that is not shown (suppression.py) has the reason and no rows.
        """
        yield "", "all", self.rows, ""
        for attribute in self.attributes:
            grouped, hidden = with_group(self.rows, attribute), self.hidden[attribute]
            for name in ordered(pd.Series([*grouped["group"].unique(), *hidden], dtype=object)):
                inside = grouped[grouped["group"] == name]
                yield attribute, name, inside.iloc[:0] if name in hidden else inside, hidden.get(name, "")


def patients_of(rows: pd.DataFrame) -> tuple[np.ndarray, int]:
    """(number of each row's patient (N,), how many patients there are)."""
    codes, names = pd.factorize(rows["patient_id"])
    return np.asarray(codes), len(names)


def reasons(judged: Judged, attribute: str) -> dict[str, str]:
    """Each group of an attribute, with the reason why nothing is told of it, or "" where it is shown."""
    return {group: reason for name, group, _, reason in judged.groups() if name == attribute}
