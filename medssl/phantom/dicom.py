"""DICOM files as scanners write them: uids from hashes, fixed dates, nothing from the clock.

Geometry comes in as RAS+ affines (voxel index i = column, j = row, k = slice) and is written in DICOM's LPS.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medssl.phantom.cohort import Person

if TYPE_CHECKING:
    from pydicom import Dataset

SOP_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "OPT": "1.2.840.10008.5.1.4.1.1.77.1.5.4",
    "SC": "1.2.840.10008.5.1.4.1.1.7",
}
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
IMPLEMENTATION_UID = "2.25.302043790172249692526321623266752743501"
FIRST_DAY = date(2020, 1, 6)
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def uid(seed: int, *parts: int | str) -> str:
    """A DICOM uid that depends on nothing but its arguments."""
    digest = hashlib.sha256("|".join(map(str, ("medssl phantom", seed, *parts))).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def study_tags(person: Person, seed: int, modality: str, series: int) -> dict[str, Any]:
    """What every file of a series says about patient, study, series and machine."""
    day = f"{FIRST_DAY + timedelta(days=person.number * 3):%Y%m%d}"
    tags: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 100",
        "SOPClassUID": SOP_CLASSES[modality],
        "StudyDate": day,
        "SeriesDate": day,
        "StudyTime": "081500",
        "AccessionNumber": f"ACC{person.patient_id[5:]}",
        "Modality": "OT" if modality == "SC" else modality,
        "Manufacturer": "Invented Scanners Ltd",
        "ManufacturerModelName": person.scanner,
        "InstitutionName": person.site,
        "ReferringPhysicianName": "",
        "PatientName": f"Fakename^{person.kind.title()}{person.number + 1:04d}",
        "PatientID": person.patient_id,
        "PatientBirthDate": "",
        "PatientSex": person.sex if person.in_header else "",
        "StudyInstanceUID": uid(seed, person.patient_id, "study"),
        "SeriesInstanceUID": uid(seed, person.patient_id, "series", modality, series),
        "FrameOfReferenceUID": uid(seed, person.patient_id, "frame"),
        "StudyID": "1",
        "SeriesNumber": series,
        "BurnedInAnnotation": "NO",
    }
    if person.in_header:
        tags["PatientAge"] = f"{person.age_years:03d}Y"
    return tags


def dataset(tags: Mapping[str, Any]) -> Dataset:
    """A pydicom data set of the tags; a list of mappings becomes a sequence."""
    from pydicom import Dataset

    made = Dataset()
    for name, value in tags.items():
        nested = isinstance(value, list) and value and isinstance(value[0], Mapping)
        setattr(made, name, [dataset(item) for item in value] if nested else value)
    return made


def pixel_tags(pixels: np.ndarray, bits_stored: int | None = None) -> dict[str, Any]:
    """The image pixel module of a grey array (rows, columns) or (frames, rows, columns)."""
    bits = pixels.dtype.itemsize * 8
    stored = bits if bits_stored is None else bits_stored
    tags = {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "BitsAllocated": bits,
        "BitsStored": stored,
        "HighBit": stored - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.astype(pixels.dtype.newbyteorder("<")).tobytes(),
    }
    return tags if pixels.ndim == 2 else {"NumberOfFrames": pixels.shape[0], **tags}


def geometry_tags(affine: np.ndarray) -> dict[str, list[float]]:
    """ImageOrientationPatient and PixelSpacing of slices whose RAS+ affine has columns i, j (row index) and k."""
    lps = RAS_TO_LPS @ affine
    i, j = float(np.linalg.norm(lps[:3, 0])), float(np.linalg.norm(lps[:3, 1]))
    cosines = [*(lps[:3, 0] / i), *(lps[:3, 1] / j)]
    return {"ImageOrientationPatient": _decimals(cosines), "PixelSpacing": _decimals([j, i])}


def position(affine: np.ndarray, k: int) -> list[float]:
    """ImagePositionPatient of slice k: the centre of its first voxel, LPS mm."""
    return _decimals(RAS_TO_LPS[:3] @ affine @ np.array([0, 0, k, 1.0]))


def write(path: Path, tags: Mapping[str, Any]) -> None:
    """Nothing; the tags as a DICOM Part 10 file, explicit little endian. Equal tags give equal bytes."""
    from pydicom.dataset import FileMetaDataset

    made = dataset(tags)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = EXPLICIT_LITTLE_ENDIAN
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.ImplementationClassUID = IMPLEMENTATION_UID
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True, implicit_vr=False, little_endian=True)


def write_slices(folder: Path, voxels: np.ndarray, affine: np.ndarray, tags: Mapping[str, Any]) -> None:
    """Nothing; one single-frame file a slice of voxels (I, J, K). Slices are numbered from the last to the first."""
    series = str(tags["SeriesInstanceUID"])
    count = voxels.shape[2]
    shared = {**tags, **geometry_tags(affine), "SliceThickness": _decimals([float(np.linalg.norm(affine[:3, 2]))])[0]}
    for k in range(count):
        number = count - k
        single = {
            "SOPInstanceUID": uid(0, series, k),
            "InstanceNumber": number,
            "ImagePositionPatient": position(affine, k),
            **pixel_tags(np.ascontiguousarray(voxels[:, :, k].T)),
        }
        write(folder / f"IM{number:04d}.dcm", {**shared, **single})


def _decimals(values: Sequence[float] | np.ndarray) -> list[float]:
    """Numbers that fit the 16 characters of a DICOM decimal string."""
    return [float(f"{v:.9g}") if abs(v) >= 1e-9 else 0.0 for v in values]
