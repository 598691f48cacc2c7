"""A data card: which files an archive holds, which table describes them, and what its columns mean."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from medssl.errors import UserError
from medssl.recipe import make, read_yaml

KEYS = ("file", "patient_id", "study_uid", "series_uid")
"""What a row of a clinical table may be about."""

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Card:
    """What an archive holds; every path is relative to it.

    `files` is a glob (empty: every file), `modality` the DICOM code of files that do not say theirs, `table` a CSV file
    with one row for each `key`, `columns` our name -> its column, `labels` our name -> a rule (see labels.py). `patient`
    is a regular expression with one group, searched in the stem of files that no table assigns to a patient. `masks`
    names the label map of a volume by {stem}, {name} or {series_uid}; `structures` names the numbers in it.
    """

    name: str
    files: str = ""
    modality: str = "unknown"
    table: str = ""
    key: str = "patient_id"
    columns: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    patient: str = ""
    masks: str = ""
    structures: dict[str, int] = field(default_factory=dict)
    splits: dict[str, float] = field(default_factory=lambda: {"train": 0.6, "val": 0.1, "test": 0.3})
    split_seed: str = "0"
    age_bands: tuple[int, ...] = (40, 60, 75)

    def __post_init__(self) -> None:
        if self.key not in KEYS:
            raise UserError(f"card {self.name}: key {self.key!r} is not one of {', '.join(KEYS)}")
        if self.table and self.key not in self.columns:
            raise UserError(
                f"card {self.name}: columns lack {self.key!r}, the key; add '{self.key}: NAME OF ITS COLUMN'"
            )
        if (
            set(self.splits) - set(SPLITS)
            or not math.isclose(sum(self.splits.values()), 1.0)
            or min(self.splits.values()) < 0
        ):
            raise UserError(
                f"card {self.name}: splits {self.splits} must be fractions of train, val and test that add up to 1"
            )


def read_card(path: Path | str) -> Card:
    """The card in a YAML file. Raises UserError naming the key that is wrong."""
    return make(Card, read_yaml(path), str(path))
