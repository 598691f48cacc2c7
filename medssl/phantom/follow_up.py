"""An invented eye clinic that sees its patients three times and exports maps of the nerve fibre layer.

Both eyes of each patient are seen at the start, after about a year and after about three. In half of the eyes the layer
thins each year as if severity grew by PROGRESS, and after the last visit these are said to have progressed; the label is
written into the files of all visits, as a clinic's table would have it. How ill an eye is at the start tells nothing of
it: one visit forecasts nothing, and the change from the first to the second does. Sex and race have no effect.
"""

from __future__ import annotations

import shutil
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from medssl.archive.field import POINTS
from medssl.errors import UserError
from medssl.phantom.cohort import generator
from medssl.phantom.eye import DISC_MM, FIELD_MM, healthy_rnfl, share_left
from medssl.phantom.files import write_npz
from medssl.phantom.texture import field

PIXELS = 64
PROGRESS = 0.35
"""Severity that an eye gains in a year if it progresses."""

WORST_START = 0.5
NOISE_UM = 3.0
"""Error of a scan's thickness, smooth over about 2 mm."""

VISITS = (0.0, 1.0, 3.0)
"""Years of the visits; each is late or early by up to LATE years."""

LATE = 0.2
FIRST_DAY = date(2010, 1, 4)


def write_follow_up(folder: Path | str, patients: int = 120, seed: int = 0) -> int:
    """How many files `folder` holds now, a map each, as PATIENT_EYE_VISIT.npz. Equal arguments give equal bytes.

    Raises UserError where the folder exists already.
    """
    folder = Path(folder)
    if folder.exists():
        raise UserError(f"{folder} exists already; name a new folder, or remove it first")
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for number in range(patients):
        _write(part, number, seed)
    part.replace(folder)
    return patients * 2 * len(VISITS)


def _write(folder: Path, number: int, seed: int) -> None:
    """Nothing; the maps of both eyes of a patient."""
    rng = generator(seed, "follow-up", number)
    age, male, race = rng.uniform(45, 85), int(rng.integers(2)), int(rng.integers(3))
    first = FIRST_DAY + timedelta(days=int(rng.integers(365)))
    years = [0.0, *(year + float(rng.uniform(-LATE, LATE)) for year in VISITS[1:])]
    for side, name in (("R", "OD"), ("L", "OS")):
        start, progressed = float(rng.uniform(0, WORST_START)), int(rng.integers(2))
        for visit, year in enumerate(years):
            severity = start + PROGRESS * year * progressed
            thickness = thickness_map(generator(seed, "eye", number, side), rng, severity, side)
            told: dict[str, np.ndarray] = {
                "rnflt": np.where(thickness < 2, -1, thickness).astype(np.float32),
                "tds": np.round(rng.normal(-0.5 - 11 * start, 2, POINTS), 1),
                "progression": np.array(progressed),
                "iop": np.array(round(float(rng.normal(17, 4)), 1)),
                "age": np.array(round(age + year, 1)),
                "male": np.array(male),
                "race": np.array(race),
                "day": np.array(f"{first + timedelta(days=round(365.25 * year)):%Y%m%d}"),
            }
            write_npz(folder / f"FAKE-M{number + 1:04d}_{name}_{visit}.npz", told)


def thickness_map(eye: np.random.Generator, scan: np.random.Generator, severity: float, side: str) -> np.ndarray:
    """Thickness in um (rows, columns) of an eye, which `eye` draws, as one scan measures it, which `scan` draws.

    Row 0 is inferior and column 0 the patient's right, as in the volumes of the eye clinic.
    """
    along = (np.arange(PIXELS) + 0.5) / PIXELS * FIELD_MM - FIELD_MM / 2
    centre = eye.normal(0, 0.15, 2)
    temporal = np.broadcast_to((along if side == "L" else -along) - centre[0], (PIXELS, PIXELS))
    up = np.broadcast_to((along - centre[1])[:, None], (PIXELS, PIXELS))
    radius, angle = np.hypot(temporal, up), np.arctan2(up, temporal)
    whole = healthy_rnfl(eye, radius, angle) * np.exp(eye.normal(0, 0.12))
    left = share_left(eye, min(severity, 1.5), radius, angle)
    error = NOISE_UM * field(scan, np.stack([temporal, up], -1), 2.0)
    return np.where(radius < 0.8 * DISC_MM, -1.0, whole * left * np.exp(scan.normal(0, 0.02)) + error)
