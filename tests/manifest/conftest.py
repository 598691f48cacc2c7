"""Small real files: NIfTI volumes and DICOM series whose every identifying tag holds a canary."""

import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture(scope="session")
def scan():
    """Writes a NIfTI volume of noise; another seed gives other content."""

    def write(path: Path, seed: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(seed).integers(0, 99, (4, 5, 6)).astype(np.int16)
        nib.save(nib.Nifti1Image(values, np.eye(4)), path)

    return write


@pytest.fixture(scope="session")
def series():
    """Writes a CT series of six slices; `tags` overrides what it says of itself."""
    from pydicom import config
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    def write(folder: Path, patient: str, **tags: object) -> None:
        folder.mkdir(parents=True)
        study, number, frame = generate_uid(), generate_uid(), generate_uid()
        for k in range(6):
            data = Dataset()
            data.file_meta = FileMetaDataset()
            data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CT
            data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
            data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, number, frame
            data.PatientID, data.Modality, data.Rows, data.Columns = patient, "CT", 32, 32
            data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
            data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
            data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 2 * k], [1, 0, 0, 0, 1, 0]
            data.PixelSpacing, data.RescaleIntercept, data.RescaleSlope = [1, 1], -1024, 1
            # Other pixels in each series: equal content would count as a copy.
            noise = np.random.default_rng([k, *str(folder).encode()]).integers(0, 99, (32, 32)).astype(np.int16)
            data.PixelData = noise.tobytes()
            with config.disable_value_validation(), warnings.catch_warnings(action="ignore"):
                # hospitals write what the standard forbids
                for name, value in tags.items():
                    setattr(data, name, value)
                data.save_as(folder / f"{k}.dcm", enforce_file_format=True)

    return write
