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

KEYS = ("file", "name", "patient_id", "study_uid", "series_uid")
"""What a row of a clinical table may be about, beside the named groups of a card's `path`; "name" is the file's own."""

PARTS = re.compile(r"\{([^{}]*)\}")
"""What stands in { } in the name of a label map or a file of facts."""

SPLITS = ("train", "val", "test")

EXTERNAL = "external"
"""The split of the patients of a site that is held out."""

ROLES = ("", "t2w", "adc", "hbv")
"""What a volume may be to a study."""

MASK_PARTS = ("stem", "name", "folder", "series_uid")
"""What the name of a label map may take from its volume, beside the named groups of a card's `path`."""

PLACED = {
    "sex", "race", "ethnicity", "age_years", "age_year", "study_date", "site", "scanner", "laterality", "view_position",
    "modality", "role", "split",
}  # fmt: skip
"""Columns of a card that fill a column of the manifest; any other name becomes an attribute of the patient.

Where `age_year` is given, `age_years` is the age in that year and the years from it to `study_date` are added.
"""

TAKEN = (set(VOLUMES) | set(PATIENTS)) - PLACED
"""Columns that the manifest works out itself; a table must not overwrite them."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What an archive holds; every path is relative to it.

    `files` is a glob (empty: every file), `modality` the DICOM code of files that do not say theirs. `path` is a regular
    expression with named groups, matched with the whole path of a file: a group is a fact about it, `patient_id` and
    `study` (of that patient) say whose it is, and one with the name of a column of the manifest fills it. `facts` is the
    file with further facts ({file}: the NPZ itself; else e.g. {folder}/Info.cfg with "key: value" lines).

    `table` is a CSV file (globs, and several with " + " between: one below the other) with one row for each `key`; `joins`
    are further tables, each with the column that says what a row is about ("COLUMN", or "COLUMN = NAME OF THE FACT").
    `columns` is our name -> its column ("A or B": the first that is not blank), `labels` our name -> a rule (see
    labels.py), `values` our name -> what each code means ("" for: not known; a * at its end stands for any ending),
    `schemes` the list that races or ethnicities were chosen from. `split_lists` is train, val, test or "train+val" -> a
    file with one `key` a line. With `only_listed`, only files that have a row in the table (of `key` file) are looked at.

    `patient` is a regular expression with one group, searched in the stem of files that nothing else assigns to a patient.
    `masks` names the label map of a volume (with `mask_role`: of a volume of that role) by {stem}, {name}, {folder},
    {series_uid} or a group of `path`; `structures` names the numbers in it. `age_bands` are the first ages of the second,
    third... band. Patients of `held_out_sites` (as the table names them, or InstitutionName) are the split "external";
    those first seen on or after the day `test_from` (YYYY-MM-DD) are "test", see splits.py. An id with more than
    `most_studies` studies is suspected to be of several people, and only trained on. `identify_by` "uid" spares an
    archive too large to be read twice: DICOM files count as equal when their instance UIDs are, nothing is read but
    headers, and no checksum is known of them.
    """

    name: str
    files: str = ""
    modality: str = "unknown"
    path: str = ""
    facts: str = ""
    table: str = ""
    key: str = "patient_id"
    joins: dict[str, str] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, str]] = field(default_factory=dict)
    schemes: dict[str, str] = field(default_factory=dict)
    patient: str = ""
    masks: str = ""
    mask_role: str = ""
    structures: dict[str, int] = field(default_factory=dict)
    splits: dict[str, float] = field(default_factory=lambda: {"train": 0.6, "val": 0.1, "test": 0.3})
    split_lists: dict[str, str] = field(default_factory=dict)
    only_listed: bool = False
    split_seed: str = "0"
    held_out_sites: tuple[str, ...] = ()
    test_from: str = ""
    most_studies: int = 30
    age_bands: tuple[int, ...] = (40, 60, 75)
    identify_by: Literal["content", "uid"] = "content"

    def __post_init__(self) -> None:
        fault = _fault_of_path(self) or _fault_of_table(self) or _fault_of_files(self) or _fault_of_numbers(self)
        if fault:
            raise UserError(f"card {self.name}: {fault}")


def read_card(path: Path | str) -> Card:
    """The card in a YAML file. Raises UserError naming the key that is wrong."""
    return make(Card, read_yaml(path), str(path))


def groups_of(card: Card) -> tuple[str, ...]:
    """The names of the groups of the card's `path`."""
    return tuple(re.compile(card.path).groupindex)


def columns_of(card: Card) -> dict[str, str]:
    """Our names for what is told of a volume, and the columns or groups of `path` that tell it."""
    return {name: name for name in groups_of(card) if name in PLACED or name == "patient_id"} | card.columns


def source_of(card: Card, name: str) -> str:
    """Where a cohort has one of its columns from: the card's name and the column."""
    return f"{card.name}: {columns_of(card).get(name, name)}"


def is_split(word: str) -> bool:
    """Whether a word is train, val, test, or several of them with + between."""
    return set(word.split("+")) <= set(SPLITS)


def _fault_of_path(card: Card) -> str:
    try:
        path = re.compile(card.path)
    except re.error as error:
        return f"path {card.path!r} is not a regular expression ({error})"
    if card.path and not path.groupindex:
        return f"path {card.path!r} has no named group; write e.g. (?P<patient_id>[^/]+)/.*"
    if card.facts and not (set(PARTS.findall(card.facts)) and set(PARTS.findall(card.facts)) <= {"file", "folder"}):
        return f"facts {card.facts!r} is not a place beside the image; write {{file}} or e.g. {{folder}}/Info.cfg"
    return ""


def _fault_of_table(card: Card) -> str:
    if card.key not in (known := (*KEYS, *groups_of(card))):
        return f"key {card.key!r} is not one of {', '.join(known)}"
    if card.only_listed and not (card.table and card.key == "file"):
        return "only_listed needs a table whose key is file"
    if card.table and card.key not in card.columns:
        return f"columns lack {card.key!r}, the key; add '{card.key}: NAME OF ITS COLUMN'"
    if (card.labels or card.columns) and not (card.table or card.joins or card.facts or card.path):
        return "it has labels or columns but no table; add 'table: NAME OF A CSV FILE'"
    if taken := sorted(TAKEN & set(card.columns)):
        return f"columns.{taken[0]}: the manifest works {taken[0]!r} out itself; give the column another name"
    if strange := sorted(set(card.values) - set(columns_of(card)) - set(card.labels)):
        return f"values.{strange[0]}: neither a column nor a label of the card"
    if strange := sorted(set(card.schemes) - {"race", "ethnicity"}):
        return f"schemes.{strange[0]}: only race and ethnicity are chosen from a list"
    if strange := [word for word in card.split_lists if not is_split(word)]:
        return f"split_lists.{strange[0]}: is not train, val, test or several of them with + between"
    return ""


def _fault_of_files(card: Card) -> str:
    places = [("table", card.table), *(("joins", name) for name in card.joins)]
    for what, path in (
        ("files", card.files),
        ("masks", card.masks),
        *(("split_lists", n) for n in card.split_lists.values()),
    ):
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            return f"{what} {path!r} leaves the archive; write it relative to the archive"
    for what, path in places:
        if ".." in PurePosixPath(path).parts:
            return f"{what} {path!r} leaves the archive; write it relative to the archive, or whole"
    if card.mask_role not in ROLES:
        return f"mask_role {card.mask_role!r} is not one of {', '.join(ROLES[1:])}"
    try:
        groups = re.compile(card.patient).groups
    except re.error as error:
        return f"patient {card.patient!r} is not a regular expression ({error})"
    if card.patient and groups != 1:
        return f"patient {card.patient!r} has {groups} groups; put ( ) around the part that is the patient's id"
    parts = PARTS.findall(card.masks)
    if strange := [part for part in parts if part not in (known := (*MASK_PARTS, *groups_of(card)))]:
        return f"masks {card.masks!r}: {{{strange[0]}}} is not one of {{{'}, {'.join(known)}}}"
    if card.masks and (not parts or not re.sub(r"\{[^{}]*\}", "", card.masks).strip("/")):
        return f"masks {card.masks!r} does not tell a label map from an image; write e.g. masks/{{name}}"
    return ""


def _fault_of_numbers(card: Card) -> str:
    fractions = list(card.splits.values())
    if set(card.splits) - set(SPLITS) or not math.isclose(sum(fractions), 1.0) or min(fractions) < 0:
        return f"splits {card.splits} must be fractions of train, val and test that add up to 1"
    if card.test_from and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", card.test_from):
        return f"test_from {card.test_from!r} is not a day; write YYYY-MM-DD"
    if any(a >= b for a, b in pairwise((0, *card.age_bands))):
        return f"age_bands {list(card.age_bands)} must be rising ages above 0"
    if card.most_studies < 1:
        return f"most_studies {card.most_studies} must be at least 1"
    return ""
