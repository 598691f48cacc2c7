"""Writing a whole archive."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from medssl.errors import UserError
from medssl.phantom.cohort import COLUMNS, MILDEST, WORST, Person, everyone
from medssl.phantom.eye_clinic import write_eyes
from medssl.phantom.radiology import write_chest, write_head, write_prostate, write_xray
from medssl.phantom.readme import readme
from medssl.phantom.spoiled import write_spoiled
from medssl.progress import Progress, silent


@dataclass(frozen=True, kw_only=True)
class PhantomSettings:
    """How many invented patients of each kind; any number may be 0. `planted_gap` mutes glaucoma in one race group.

    The severity of glaucoma, from 0 to 1, is uniform between `mildest` and `worst`: the nearer to 0, the harder to tell.
    Prostate lesions show from `faintest` to `clearest`; with `mimics`, half of the prostates hold a benign nodule that is as
    dark on the T2w as a lesion, and hardly so in diffusion.
    """

    eye_patients: int = 360
    prostate_patients: int = 48
    chest_patients: int = 16
    xray_patients: int = 24
    head_patients: int = 6
    seed: int = 0
    planted_gap: bool = True
    mildest: float = MILDEST
    worst: float = WORST
    faintest: float = 1.0
    clearest: float = 1.0
    mimics: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise UserError(f"{name} is {value}: it cannot be negative; give 0 or more")
        if not 0 < self.mildest <= self.worst <= 1:
            raise UserError(f"severities from {self.mildest:g} to {self.worst:g}; give 0 < mildest <= worst <= 1")
        if not 0 < self.faintest <= self.clearest <= 1:
            raise UserError(
                f"faintest is {self.faintest:g} and clearest {self.clearest:g}; give shares above 0, at most 1, in order"
            )


def write_archive(
    folder: Path | str, settings: PhantomSettings = PhantomSettings(), *, progress: Progress = silent
) -> dict[str, int]:
    """Counts of what lies in the archive (patients, files, dicom, npz, nifti, masks), which is written to `folder`.

    The same settings give the same bytes. The folder appears whole or not at all; one that already holds exactly these
    settings is kept, any other that is not empty is refused.
    """
    folder = Path(folder)
    text = readme(settings)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for the archive")
    if folder.is_dir() and any(folder.iterdir()):
        told = folder / "README.txt"
        if told.is_file() and told.read_text(encoding="utf-8") == text:
            return count(folder)
        raise UserError(f"{folder} already holds other files; name a new or empty folder, or remove it first")
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        _fill(part, settings, progress)
        (part / "README.txt").write_text(text, encoding="utf-8")
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return count(folder)


def count(folder: Path) -> dict[str, int]:
    """Number of patients in the clinical table, of all files, and of files of each sort (spoiled ones too)."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    with (folder / "clinical.csv").open(encoding="utf-8", newline="") as table:
        patients = sum(1 for _ in csv.DictReader(table))
    return {
        "patients": patients,
        "files": len(files),
        "dicom": sum(path.suffix == ".dcm" for path in files),
        "npz": sum(path.suffix == ".npz" for path in files),
        "nifti": sum(path.parent.name == "nifti" for path in files),
        "masks": sum(path.parent.name == "masks" for path in files),
    }


def _fill(folder: Path, settings: PhantomSettings, progress: Progress) -> None:
    for name in ("pacs", "oct_npz", "nifti", "masks"):
        (folder / name).mkdir(parents=True)
    groups = everyone(settings)
    spoiled = groups.pop("spoiled")
    persons = [person for group in groups.values() for person in group]
    writers: dict[str, Callable[[Path, Person, int], None]] = {
        "eye": partial(write_eyes, planted_gap=settings.planted_gap),
        "prostate": partial(
            write_prostate, faintest=settings.faintest, clearest=settings.clearest, mimics=settings.mimics
        ),
        "chest": write_chest,
        "xray": write_xray,
        "head": write_head,
    }
    write_spoiled(folder, spoiled, settings.seed)
    _write_table(folder / "clinical.csv", [*persons, *spoiled])
    for person in progress(persons, "writing patients", len(persons)):
        writers[person.kind](folder, person, settings.seed)


def _write_table(path: Path, persons: list[Person]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows(person.row() for person in persons)
