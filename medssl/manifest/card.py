"""A data card: which files an archive holds, which table describes them, and what its columns mean."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Literal

from medssl.errors import UserError
from medssl.manifest.tables import PATIENTS, VOLUMES
from medssl.recipe import make, read_yaml

KEYS = ("file", "patient_id", "study_uid", "series_uid")
"""What a row of a clinical table may be about."""

SPLITS = ("train", "val", "test")

MASK_PARTS = ("stem", "name", "series_uid")
"""What the name of a label map may take from its volume."""

PLACED = {"sex", "race", "ethnicity", "age_years", "site", "scanner", "laterality", "view_position"}
"""Columns of a card that fill a column of the manifest; any other name becomes an attribute of the patient."""

TAKEN = (set(VOLUMES) | set(PATIENTS)) - PLACED
"""Columns that the manifest works out itself; a table must not overwrite them."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What an archive holds; every path is relative to it.

    `files` is a glob (empty: every file), `modality` the DICOM code of files that do not say theirs, `table` a CSV file
    with one row for each `key`, `columns` our name -> its column, `labels` our name -> a rule (see labels.py). `patient`
    is a regular expression with one group, searched in the stem of files that nothing else assigns to a patient. `masks`
    names the label map of a volume by {stem}, {name} or {series_uid}; `structures` names the numbers in it. `age_bands`
    are the first ages of the second, third... band. `identify_by` "uid" spares an archive too large to be read twice: DICOM
    files count as equal when their instance UIDs are, nothing is read but headers, and no checksum is known of them.
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
    identify_by: Literal["content", "uid"] = "content"

    def __post_init__(self) -> None:
        fault = _fault_of_table(self) or _fault_of_files(self) or _fault_of_numbers(self)
        if fault:
            raise UserError(f"card {self.name}: {fault}")


def read_card(path: Path | str) -> Card:
    """The card in a YAML file. Raises UserError naming the key that is wrong."""
    return make(Card, read_yaml(path), str(path))


def _fault_of_table(card: Card) -> str:
    if card.key not in KEYS:
        return f"key {card.key!r} is not one of {', '.join(KEYS)}"
    if card.table and card.key not in card.columns:
        return f"columns lack {card.key!r}, the key; add '{card.key}: NAME OF ITS COLUMN'"
    if (card.labels or card.columns) and not card.table:
        return "it has labels or columns but no table; add 'table: NAME OF A CSV FILE'"
    if taken := sorted(TAKEN & set(card.columns)):
        return f"columns.{taken[0]}: the manifest works {taken[0]!r} out itself; give the column another name"
    return ""


def _fault_of_files(card: Card) -> str:
    for what, path in ("files", card.files), ("masks", card.masks):
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            return f"{what} {path!r} leaves the archive; write it relative to the archive"
    try:
        groups = re.compile(card.patient).groups
    except re.error as error:
        return f"patient {card.patient!r} is not a regular expression ({error})"
    if card.patient and groups != 1:
        return f"patient {card.patient!r} has {groups} groups; put ( ) around the part that is the patient's id"
    parts = re.findall(r"\{([^{}]*)\}", card.masks)
    if strange := [part for part in parts if part not in MASK_PARTS]:
        return f"masks {card.masks!r}: {{{strange[0]}}} is not one of {{{'}, {'.join(MASK_PARTS)}}}"
    if card.masks and (not parts or not re.sub(r"\{[^{}]*\}", "", card.masks).strip("/")):
        return f"masks {card.masks!r} does not tell a label map from an image; write e.g. masks/{{name}}"
    return ""


def _fault_of_numbers(card: Card) -> str:
    fractions = list(card.splits.values())
    if set(card.splits) - set(SPLITS) or not math.isclose(sum(fractions), 1.0) or min(fractions) < 0:
        return f"splits {card.splits} must be fractions of train, val and test that add up to 1"
    if any(a >= b for a, b in pairwise((0, *card.age_bands))):
        return f"age_bands {list(card.age_bands)} must be rising ages above 0"
    return ""
