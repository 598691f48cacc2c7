"""Whether a cohort can be judged fairly: nobody on both sides of a split, and tables that mean what they say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from medssl.manifest.card import EXTERNAL, SPLITS
from medssl.manifest.cohort import read_sources

if TYPE_CHECKING:
    import pandas as pd

LEAKS = {
    "PATIENT": "One patient on both sides: the test asks for what was learned by heart. Index again; splits are by patient.",
    "STUDY": "One study on both sides: its two patient ids are one person. Link them in the clinical table.",
    "SERIES": "One series on both sides: its two patient ids are one person. Link them in the clinical table.",
    "FRAME": "One frame of reference on both sides: most likely one person under two ids. Link them in the clinical table.",
    "SAME_VOXELS": "Identical voxels on both sides: a copy under another id. Leave one of them out.",
    "NEAR_DUPLICATE": "Almost identical images on both sides: most likely a copy, scaled or compressed. Look at both.",
}
"""Code -> how somebody is on both sides of a split, and what to do."""

FAULTS = {
    "ID_TWICE": "An id that should be unique occurs more than once; index again.",
    "SPLIT_WORD": "A split that is none of the known ones; index again.",
    "SPLIT_DIFFERS": "The patient's split is not that of the volume; index again.",
    "AFFINE": "An affine that is not finite or is singular: millimetres mean nothing; index again.",
    "SPACING": "A voxel size outside 0.01 to 30 mm is a mistake of the unit; give the card the right one.",
    "LABEL_OF_NOTHING": "A label of a volume that is not there; index again.",
    "PATIENT_OF_NOBODY": "A volume of a patient who is not in the table of patients; index again.",
    "PATH_LEAVES": "A source file outside the archive: the table was changed by hand or by an attack; index again.",
}
"""Code -> what is wrong with a table, and what to do."""

SPACING_MM = 0.01, 30.0
"""Smallest and largest voxel edge that a scanner of people makes."""

SINGULAR = 1e-9
"""Volume of a voxel in mm3 below which an affine has lost a direction."""

PEOPLE = (("patient_pid", "PATIENT"), ("study_pid", "STUDY"), ("series_pid", "SERIES"), ("frame_pid", "FRAME"))
"""Columns whose values belong to one person, and the leak when one is on both sides."""


@dataclass(frozen=True, order=True)
class Finding:
    """Something wrong: a code of one of the closed tables, the pseudonyms it is about, and what was seen of them."""

    code: str
    things: tuple[str, ...]
    seen: str = ""


def usable(volumes: pd.DataFrame) -> pd.DataFrame:
    """The volumes that are not left out."""
    return volumes[volumes["status"] != "excluded"]


def people_on_both_sides(volumes: pd.DataFrame, sides: pd.Series) -> list[Finding]:
    """Everybody, by any id that belongs to one person, whose volumes are on more than one of the `sides`.

    `sides` gives each row its side (a split, or whether it was learned from or judged on). Blank ids are nobody's.
    """
    found = []
    for column, code in PEOPLE:
        if column not in volumes:
            continue
        known = volumes[column].fillna("") != ""
        each = sides[known].groupby(volumes.loc[known, column]).unique()
        found += [Finding(code, (str(name),), " and ".join(sorted(on))) for name, on in each.items() if len(on) > 1]
    return sorted(found)


def faults(volumes: pd.DataFrame, patients: pd.DataFrame, labels: pd.DataFrame) -> list[Finding]:
    """What is wrong with the tables of a cohort or a store; [] when nothing is."""
    import numpy as np

    kept = usable(volumes)
    found = [Finding("ID_TWICE", (str(name),), "volume") for name in _twice(volumes["volume_id"])]
    found += [Finding("ID_TWICE", (str(name),), "patient") for name in _twice(patients["patient_pid"])]
    known = set(volumes["volume_id"])
    found += [Finding("LABEL_OF_NOTHING", (str(name),)) for name in sorted(set(labels["volume_id"]) - known)]
    people = dict(zip(patients["patient_pid"], patients["split"], strict=True))
    for row in kept.to_dict("records"):
        name, who = str(row["volume_id"]), row["patient_pid"]
        if row["split"] not in (*SPLITS, EXTERNAL):
            found.append(Finding("SPLIT_WORD", (name,), str(row["split"])))
        if who not in people:
            found.append(Finding("PATIENT_OF_NOBODY", (name, str(who))))
        elif people[who] != row["split"]:
            found.append(Finding("SPLIT_DIFFERS", (name, str(who)), f"{row['split']}, {people[who]}"))
        affine = np.array(row["affine"], dtype=np.float64)
        if affine.size != 16 or not np.isfinite(affine).all():
            found.append(Finding("AFFINE", (name,), "not 16 finite numbers"))
        elif abs(np.linalg.det(affine.reshape(4, 4)[:3, :3])) < SINGULAR:
            found.append(Finding("AFFINE", (name,), "singular"))
        low, high = SPACING_MM
        if row["spacing_source"] != "unknown" and not all(low <= mm <= high for mm in row["spacing"]):
            found.append(Finding("SPACING", (name,), " x ".join(f"{mm:g}" for mm in row["spacing"])))
    return sorted(found)


def _twice(names: pd.Series) -> list[str]:
    return sorted(set(names[names.duplicated()]))


def sources_outside(cohort: Path) -> list[Finding]:
    """Source files whose path leaves the archive; the paths themselves are not told. None where phi/ is not there."""
    return sorted(set(_outside(read_sources(cohort)))) if (cohort / "phi").exists() else []


def _outside(table: pd.DataFrame) -> Iterator[Finding]:
    for row in table.to_dict("records"):
        for column in "path", "mask_path":
            path = PurePosixPath(row[column])
            if path.is_absolute() or ".." in path.parts or "\0" in str(path):
                yield Finding("PATH_LEAVES", (str(row["volume_id"]),), column)
