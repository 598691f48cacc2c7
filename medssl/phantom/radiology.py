"""What the radiology department exports: prostate MR, chest CT, chest films (all DICOM) and heads (NIfTI)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medssl.phantom import chest, head, prostate
from medssl.phantom.cohort import Person, generator
from medssl.phantom.dicom import pixel_tags, study_tags, uid, write, write_slices
from medssl.phantom.files import nifti_bytes, write_bytes
from medssl.phantom.texture import grid_points

T2_SHAPE, T2_SPACING = (64, 64, 16), (1.5, 1.5, 3.5)
DWI_SHAPE, DWI_SPACING = (48, 48, 14), (2.2, 2.2, 4.0)
TILT_DEG = 8.0
CT_SHAPE, CT_SPACING = (64, 64, 24), (5.9375, 5.9375, 8.0)
CT_INTERCEPT = -1024
CT_PADDING = -2000
"""Stored value of pixels outside the round field of view; it reads as -3024 HU if it is not masked."""
HEAD_SHAPE, HEAD_SPACING = (48, 60, 52), (3.5, 3.5, 3.5)


def centred(shape: tuple[int, int, int], spacing: tuple[float, float, float], tilt_deg: float = 0.0) -> np.ndarray:
    """The RAS+ affine of a grid around the origin: i to the left, j to the back, k upwards, tilted about x."""
    turn = np.deg2rad(tilt_deg)
    rotation = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-spacing[0], -spacing[1], spacing[2]])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def write_prostate(
    folder: Path, person: Person, seed: int, *, faintest: float = 1.0, clearest: float = 1.0, mimics: bool = False
) -> None:
    """Nothing; T2w, ADC and high-b series on two grids of one frame of reference, and the label map of the T2w."""
    rng = generator(seed, "prostate", person.number)
    anatomy = prostate.pelvis(rng, bool(person.affected), faintest=faintest, clearest=clearest, mimics=mimics)
    t2_affine = centred(T2_SHAPE, T2_SPACING, TILT_DEG + rng.uniform(-3, 3))
    dwi_affine = centred(DWI_SHAPE, DWI_SPACING)
    t2 = prostate.t2w(rng, anatomy, t2_affine, T2_SHAPE, person.scanner)
    adc, high_b = prostate.diffusion(rng, anatomy, dwi_affine, DWI_SHAPE, person.scanner)
    slope = 1.0 if person.scanner == "Delta MR" else 0.5
    study = folder / "pacs" / person.patient_id / "ST01"
    images = ((t2, t2_affine), (adc / slope, dwi_affine), (high_b, dwi_affine))
    for series, ((image, affine), made) in enumerate(zip(images, _mr_tags(slope), strict=True), start=1):
        tags = {**study_tags(person, seed, "MR", series), **MR_TAGS, **made}
        write_slices(study / f"SE{series:02d}", np.round(image).astype(np.uint16), affine, tags)
    truth = prostate.labels(anatomy, grid_points(T2_SHAPE, t2_affine))
    series_uid = study_tags(person, seed, "MR", 1)["SeriesInstanceUID"]
    write_bytes(folder / "masks" / f"{series_uid}.nii.gz", nifti_bytes(truth, t2_affine))


def write_chest(folder: Path, person: Person, seed: int) -> None:
    """Nothing; one CT series; half of the patients have a lung nodule."""
    voxels, affine, tags = chest_ct(person, seed)
    write_slices(folder / "pacs" / person.patient_id / "ST01" / "SE01", voxels, affine, tags)


def chest_ct(person: Person, seed: int) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Stored values (I, J, K) of int16, RAS+ affine and tags of a patient's chest CT."""
    rng = generator(seed, "chest", person.kind, person.number)
    anatomy = chest.thorax(rng, with_nodule=bool(person.affected))
    affine = centred(CT_SHAPE, CT_SPACING)
    units = chest.ct(rng, anatomy, affine, CT_SHAPE, person.scanner)
    stored = np.clip(np.round(units), CT_INTERCEPT, 3071) - CT_INTERCEPT
    i, j = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in CT_SHAPE[:2]), indexing="ij")
    stored[np.hypot(i, j) > CT_SHAPE[0] / 2] = CT_PADDING
    tags = {
        **study_tags(person, seed, "CT", 1),
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SeriesDescription": "CHEST 8.0",
        "BodyPartExamined": "CHEST",
        "PatientPosition": "HFS",
        "KVP": 120.0,
        "ConvolutionKernel": "SOFT",
        "RescaleIntercept": CT_INTERCEPT,
        "RescaleSlope": 1,
        "RescaleType": "HU",
    }
    if person.scanner == "Zeta CT":
        tags["PixelPaddingValue"] = CT_PADDING
    return stored.astype(np.int16), affine, tags


def write_xray(folder: Path, person: Person, seed: int) -> None:
    """Nothing; one frontal radiograph. Odd patients are MONOCHROME1: stored inverted, shown the same."""
    rng = generator(seed, "xray", person.number)
    view = "AP" if rng.random() < 0.4 else "PA"
    anatomy = chest.thorax(rng, with_nodule=bool(person.affected), front_beam=view == "AP")
    film = chest.radiograph(rng, anatomy, person.scanner)
    inverted = person.number % 2 == 1
    stored = (chest.FILM_MAXIMUM - film).astype(np.uint16) if inverted else film
    tags = study_tags(person, seed, "DX", 1)
    pixels = {**pixel_tags(stored, bits_stored=12), "PhotometricInterpretation": f"MONOCHROME{1 if inverted else 2}"}
    told = {
        "SOPInstanceUID": uid(0, tags["SeriesInstanceUID"], 0),
        "ImageType": ["ORIGINAL", "PRIMARY", ""],
        "PresentationIntentType": "FOR PRESENTATION",
        "PresentationLUTShape": "INVERSE" if inverted else "IDENTITY",
        "BodyPartExamined": "CHEST",
        "ViewPosition": view,
        "PatientOrientation": ["L", "F"],
        "ImageLaterality": "U",
        "ImagerPixelSpacing": [chest.FILM_MM / chest.FILM_PIXELS] * 2,
        "PixelIntensityRelationship": "LOG",
        "PixelIntensityRelationshipSign": 1,
        "RescaleIntercept": 0,
        "RescaleSlope": 1,
        "RescaleType": "US",
        "WindowCenter": 2048,
        "WindowWidth": 4096,
        "InstanceNumber": 1,
    }
    write(folder / "pacs" / person.patient_id / "ST01" / "SE01" / "IM0001.dcm", {**tags, **told, **pixels})


def write_head(folder: Path, person: Person, seed: int) -> None:
    """Nothing; one NIfTI head, every second one stored with its axes to the left and the back."""
    voxels, affine = head_mr(person, seed)
    write_bytes(folder / "nifti" / f"{person.patient_id}_T1w.nii.gz", nifti_bytes(voxels, affine))


def head_mr(person: Person, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (I, J, K) of int16 and the RAS+ affine of a patient's head."""
    rng = generator(seed, "head", person.kind, person.number)
    affine = centred(HEAD_SHAPE, HEAD_SPACING)
    if person.number % 2:
        affine[:2] *= -1
    scanner = person.scanner if person.scanner in head.LOOK else "Delta MR"
    return np.round(head.t1w(rng, affine, HEAD_SHAPE, scanner)).astype(np.int16), affine


MR_TAGS = {
    "BodyPartExamined": "PROSTATE",
    "PatientPosition": "HFS",
    "MRAcquisitionType": "2D",
    "MagneticFieldStrength": 3.0,
}


def _mr_tags(slope: float) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What tells T2w, ADC and high-b series apart."""
    spin_echo = {
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM"],
        "SeriesDescription": "t2_tse_tra",
        "ScanningSequence": "SE",
        "SequenceVariant": "SK",
        "ScanOptions": "",
        "SequenceName": "*tse2d1_25",
        "RepetitionTime": 4200.0,
        "EchoTime": 101.0,
    }
    echo_planar = {
        "ScanningSequence": "EP",
        "SequenceVariant": "SK",
        "ScanOptions": "FS",
        "RepetitionTime": 3600.0,
        "EchoTime": 68.0,
    }
    adc = {
        "ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "NORM"],
        "SeriesDescription": "ep2d_diff_tra_ADC",
        "SequenceName": "ep_b50_1400",
        "RescaleIntercept": 0,
        "RescaleSlope": slope,
        "RescaleType": "1e-6 mm2/s",
    }
    high_b = {
        "ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "TRACEW", "NORM"],
        "SeriesDescription": "ep2d_diff_tra_TRACEW",
        "SequenceName": f"ep_b{prostate.B_VALUE:.0f}t",
        "DiffusionBValue": prostate.B_VALUE,
        "DiffusionDirectionality": "ISOTROPIC",
    }
    return spin_echo, {**echo_planar, **adc}, {**echo_planar, **high_b}
