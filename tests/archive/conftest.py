"""Builders of small DICOM files, shared by the tests of the archive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

Write = Callable[..., Path]
KINDS = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "OPT": "1.2.840.10008.5.1.4.1.1.77.1.5.4",
    "enhanced CT": "1.2.840.10008.5.1.4.1.1.2.1",
    "enhanced MR": "1.2.840.10008.5.1.4.1.1.4.1",
}


def dataset(tags: dict[str, Any]) -> Dataset:
    """A data set of keywords; lists of dictionaries are sequences, None is left out."""
    data = Dataset()
    for name, value in tags.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = Items([dataset(item) for item in value])
        if value is not None:
            setattr(data, name, value)
    return data


@pytest.fixture
def write_dicom() -> Write:
    """write_dicom(path, pixels, kind="CT", compress="", **tags) -> path; pixels are (rows, columns) or (frames, ...)."""

    def write(path: Path, pixels: np.ndarray, kind: str = "CT", compress: str = "", **tags: Any) -> Path:
        sop = KINDS[kind]
        bits = 8 * pixels.dtype.itemsize
        facts = {
            "SOPClassUID": sop, "SOPInstanceUID": generate_uid(), "PatientID": "P1", "StudyInstanceUID": "1.2.3",
            "SeriesInstanceUID": "1.2.3.4", "FrameOfReferenceUID": "1.2.3.9", "Modality": kind.removeprefix("enhanced "),
            "Rows": pixels.shape[-2], "Columns": pixels.shape[-1], "SamplesPerPixel": 1, "BitsAllocated": bits,
            "PhotometricInterpretation": "MONOCHROME2", "BitsStored": bits, "HighBit": bits - 1,
            "PixelRepresentation": int(pixels.dtype.kind == "i"), "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "NumberOfFrames": len(pixels) if pixels.ndim == 3 else None,
        }  # fmt: skip
        if kind == "CT":
            facts |= {"RescaleSlope": 1, "RescaleIntercept": -1024}
        data = dataset({**facts, **tags})
        data.file_meta = FileMetaDataset()
        data.file_meta.MediaStorageSOPClassUID = sop
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.PixelData = pixels.tobytes()
        if compress:
            data.compress(compress, encoding_plugin="pydicom" if compress.endswith("1.2.5") else "")
        path.parent.mkdir(parents=True, exist_ok=True)
        data.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def write_frames(write_dicom: Write) -> Write:
    """write_frames(path, pixels, kind, positions, shared={}, each=[], orientation=None, **tags): an enhanced file."""

    def write(
        path: Path,
        pixels: np.ndarray,
        kind: str,
        positions: Sequence[Sequence[float]],
        shared: dict[str, Any] | None = None,
        each: Sequence[dict[str, Any]] = (),
        **tags: Any,
    ) -> Path:
        groups = {
            "PlaneOrientationSequence": [{"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}],
            "PixelMeasuresSequence": [{"PixelSpacing": [0.5, 0.25]}],
        }
        further = each or [{}] * len(positions)
        frames = [
            {"PlanePositionSequence": [{"ImagePositionPatient": list(place)}], **more}
            for place, more in zip(positions, further, strict=True)
        ]
        return write_dicom(
            path, pixels, kind, SharedFunctionalGroupsSequence=[{**groups, **(shared or {})}],
            PerFrameFunctionalGroupsSequence=frames, **tags,
        )  # fmt: skip

    return write
