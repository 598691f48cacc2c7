"""What the eye clinic exports: Harvard-style NPZ files and multi-frame OPT DICOM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medssl.phantom import eye
from medssl.phantom.cohort import MUTED_RACE, Person, generator
from medssl.phantom.dicom import geometry_tags, pixel_tags, position, study_tags, uid, write
from medssl.phantom.files import write_npz

NPZ_SHARE = 0.6
TWO_EYES_SHARE = 0.5
HARVARD_RACE = {"Asian": 0, "Black": 1, "White": 2}
TOP_FIRST = "Gamma OCT"
"""The machine that writes its frames from top to bottom."""


def write_eyes(folder: Path, person: Person, seed: int, planted_gap: bool) -> None:
    """Nothing; one or two eyes of a patient as NPZ files or as multi-frame OPT DICOM."""
    rng = generator(seed, "eyes", person.number)
    as_npz = rng.random() < NPZ_SHARE
    both = rng.random() < TWO_EYES_SHARE
    sides = ["R", "L"] if both else [str(rng.choice(["R", "L"]))]
    thickness = float(np.exp(rng.normal(0, 0.09)))
    for series, side in enumerate(sides, start=1):
        severity = min(1.0, person.severity * float(rng.uniform(0.8, 1.2)))
        volume, truth = eye.oct_eye(
            rng,
            severity,
            age_years=person.age_years,
            laterality=side,
            scanner=person.scanner,
            muted=planted_gap and person.race == MUTED_RACE,
            thickness=thickness,
        )
        if as_npz:
            name = f"{person.patient_id}_{'OD' if side == 'R' else 'OS'}.npz"
            write_npz(folder / "oct_npz" / name, _harvard(volume, person, truth, rng))
        else:
            _write_opt(folder, person, seed, volume, (side, series))


def _harvard(
    volume: np.ndarray, person: Person, truth: eye.EyeTruth, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The members of a Harvard-style NPZ; a value the clinical table does not have is not in here either."""
    deviation = float(rng.normal(-0.3, 1.0) - 11 * truth.severity)
    told = {"race": HARVARD_RACE[person.race], "sex": int(person.sex == "M"), "age_years": float(person.age_years)}
    names = {"race": "race", "sex": "male", "age_years": "age"}
    scalars = {names[k]: np.array(v) for k, v in told.items() if k not in person.blank}
    return {
        "oct_bscans": volume,
        "glaucoma": np.array(person.affected),
        "md": np.array(round(deviation, 2)),
        **scalars,
    }


def _write_opt(folder: Path, person: Person, seed: int, volume: np.ndarray, which: tuple[str, int]) -> None:
    """Nothing; one eye as a multi-frame OPT file. The Gamma machine writes its frames from top to bottom."""
    side, series = which
    frames = volume[::-1] if person.scanner == "Gamma OCT" else volume
    bscans, depth, ascans = volume.shape
    step = eye.FIELD_MM / bscans * (-1 if person.scanner == "Gamma OCT" else 1)
    affine = np.zeros((4, 4))
    affine[0, 0], affine[1, 1], affine[2, 2] = -eye.FIELD_MM / ascans, -eye.DEPTH_MM / depth, step
    affine[:, 3] = [eye.FIELD_MM / 2, 0, -step * (bscans - 1) / 2, 1]
    grid = geometry_tags(affine)
    tags = study_tags(person, seed, "OPT", series)
    anatomy = {"FrameLaterality": side, "AnatomicRegionSequence": [_code("5665001", "SCT", "Retina")]}
    shared = {
        "FrameAnatomySequence": [anatomy],
        "PlaneOrientationSequence": [{"ImageOrientationPatient": grid["ImageOrientationPatient"]}],
        "PixelMeasuresSequence": [{"PixelSpacing": grid["PixelSpacing"], "SliceThickness": abs(step)}],
    }
    told = {
        "SOPInstanceUID": uid(0, tags["SeriesInstanceUID"], 0),
        "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME"],
        "SeriesDescription": "ONH cube 6x6",
        "BodyPartExamined": "EYE",
        "ImageLaterality": side,
        "InstanceNumber": 1,
        "ConcatenationFrameOffsetNumber": 0,
        "OphthalmicVolumetricPropertiesFlag": "YES",
        "AcquisitionDeviceTypeCodeSequence": [_code("392012008", "SCT", "Optical Coherence Tomography Scanner")],
        "DimensionOrganizationSequence": [{"DimensionOrganizationUID": uid(seed, person.patient_id, "dimension")}],
        "SharedFunctionalGroupsSequence": [shared],
        "PerFrameFunctionalGroupsSequence": [_frame(affine, k) for k in range(bscans)],
    }
    pixels = pixel_tags(np.ascontiguousarray(frames))
    path = folder / "pacs" / person.patient_id / "ST01" / f"SE{series:02d}" / "IM0001.dcm"
    write(path, {**tags, **told, **pixels})


def _frame(affine: np.ndarray, k: int) -> dict[str, Any]:
    """The functional groups of frame k."""
    content = {"StackID": "1", "InStackPositionNumber": k + 1, "DimensionIndexValues": [1, k + 1]}
    return {"FrameContentSequence": [content], "PlanePositionSequence": [{"ImagePositionPatient": position(affine, k)}]}


def _code(value: str, scheme: str, meaning: str) -> dict[str, str]:
    return {"CodeValue": value, "CodingSchemeDesignator": scheme, "CodeMeaning": meaning}
