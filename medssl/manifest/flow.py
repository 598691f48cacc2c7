"""What enters an archive's cohort, what leaves it and why, what stays: files, series, studies, patients.

Each thing is counted once at each level. A series, study or patient stays when any volume of it stays; one that leaves
does so for the reason that most of its files have (of equally many, the first by name). A file that names no series or
no study stands for one of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from medssl.manifest.cohort import Cohort

    Fates = dict[str, pd.Series[str]]

LEVELS = {"files": "instance_pid", "series": "series_pid", "studies": "study_pid", "patients": "patient_pid"}
"""Levels from the smallest to the largest, and the column that tells things of that level apart."""

BY_DESIGN = {
    "ANGIOGRAPHY", "ANIMAL", "COLOR_IMAGE", "DENTAL", "DERIVED_OR_SC", "DICOM_DIRECTORY", "DOCUMENT", "DOSE_PAGE",
    "DUP_INSTANCE", "EMPTY_FILE", "ENCAPSULATED_DOCUMENT", "EYE_MEASUREMENT", "EYE_PHOTO", "KEY_OBJECTS",
    "LOCALIZER_OR_TOO_FEW", "NON_IMAGE_SOP", "NOT_AN_ARCHIVE_FILE", "NO_PIXELS", "NUCLEAR_MEDICINE", "OCT_EN_FACE",
    "OCT_NON_RASTER", "PARAMETRIC_MAP", "PART_OF_SCAN", "PATHOLOGY", "PET_LEFT_OUT", "PHANTOM", "PRESENTATION_STATE",
    "RADIOTHERAPY", "RAW_DATA", "SCREEN_SAVE", "SEGMENTATION", "SPECTROSCOPY", "STRUCTURED_REPORT", "SYSTEM_FILE",
    "TOMOSYNTHESIS", "ULTRASOUND", "UNSUPPORTED_SOP", "VISIBLE_LIGHT", "WAVEFORM",
}  # fmt: skip
"""Reasons that say what is not wanted; every other one says that something is wrong or unclear and may be mended."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """Things of one level: `entered` is `stayed` plus all that `left`, by reason, the commonest first."""

    name: str
    entered: int
    stayed: int
    left: dict[str, int]


def flow(found: Fates) -> list[Level]:
    """A level each for files, series, studies and patients."""
    levels = []
    for name, reasons in found.items():
        left = reasons[reasons != ""].value_counts()
        ordered = sorted(((str(code), int(n)) for code, n in left.items()), key=lambda item: (-item[1], item[0]))
        levels.append(Level(name=name, entered=len(reasons), stayed=int((reasons == "").sum()), left=dict(ordered)))
    return levels


def fates(cohort: Cohort) -> Fates:
    """For each level why each thing left, by its pseudonym; "" for what stayed."""
    files = cohort.instances.set_index(LEVELS["files"])
    left = files["reason"].where(files["status"] == "excluded", "")
    return {"files": left} | {level: _fate(cohort, pid) for level, pid in LEVELS.items() if level != "files"}


def _fate(cohort: Cohort, pid: str) -> pd.Series[str]:
    import pandas as pd

    rows = _parts(cohort, pid)
    stayed = rows.groupby("unit")["stayed"].any()
    lost = rows[~rows["unit"].isin(stayed.index[stayed.to_numpy(bool)])]
    weights = pd.DataFrame(lost.groupby(["unit", "reason"])["files"].sum()).reset_index()
    chosen = weights.sort_values(["files", "reason"], ascending=[False, True]).drop_duplicates("unit")
    return chosen.set_index("unit")["reason"].reindex(stayed.index, fill_value="")


def _parts(cohort: Cohort, pid: str) -> pd.DataFrame:
    """The files that name a thing (`unit`) of this level, and the volumes; of those without a name their files too."""
    import pandas as pd

    volumes, files = cohort.volumes, cohort.instances[cohort.instances[pid] != ""]
    named = volumes[pid] != ""
    units = [files[pid], volumes[pid].where(named, "volume " + volumes["volume_id"])]
    rows = pd.concat([files[["status", "reason"]], volumes[["status", "reason"]]], ignore_index=True)
    # A volume tells whether its thing stays; the files of a thing with a name were counted before.
    counts = [*[1] * len(files), *volumes["n_sources"].where(~named, 0)]
    return rows.assign(unit=pd.concat(units, ignore_index=True), stayed=rows["status"] != "excluded", files=counts)


def without_name(cohort: Cohort, level: str) -> int:
    """How many volumes and series left out name no series or study and stand for one of their own."""
    return int((cohort.volumes[LEVELS[level]] == "").sum())
