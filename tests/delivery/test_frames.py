"""Segmentations on a file that holds many frames, opened again by highdicom."""

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

from medssl.delivery import deliver
from medssl.delivery.slices import frames_of, places_of
from medssl.errors import UserError

ROWS, COLUMNS, PLACES, STEP = 24, 20, 6, 3.0
SPACING = (1.25, 0.75)
A = np.deg2rad(20)
ROW, COLUMN = np.array([np.cos(A), np.sin(A), 0]), np.array([-np.sin(A), np.cos(A), 0])
ORIGIN = np.array([-10.0, 5, 30])


@pytest.fixture
def enhanced(tmp_path):
    """A cohort of one enhanced MR file: six places in no order, each seen twice (two weightings)."""
    one = pydicom.Dataset()
    one.SOPClassUID, one.SOPInstanceUID, one.Modality = EnhancedMRImageStorage, generate_uid(), "MR"
    one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    one.PatientID, one.PatientName, one.PatientSex, one.PatientBirthDate = "p", "P^Q", "M", ""
    one.StudyID, one.StudyDate, one.StudyTime, one.AccessionNumber, one.ReferringPhysicianName = "1", "", "", "", ""
    one.SeriesNumber, one.InstanceNumber, one.PositionReferenceIndicator, one.Laterality = 3, 1, "", ""
    one.Rows, one.Columns, one.NumberOfFrames = ROWS, COLUMNS, 2 * PLACES
    one.BitsAllocated = one.BitsStored = 16
    one.HighBit, one.PixelRepresentation, one.SamplesPerPixel = 15, 0, 1
    one.PhotometricInterpretation, one.PixelData = "MONOCHROME2", bytes(4 * ROWS * COLUMNS * PLACES)
    one.SharedFunctionalGroupsSequence = [
        group(
            PlaneOrientationSequence={"ImageOrientationPatient": [*ROW, *COLUMN]},
            PixelMeasuresSequence={"PixelSpacing": list(SPACING), "SliceThickness": STEP},
        )
    ]
    order = [4, 0, 2, 5, 1, 3] * 2
    one.PerFrameFunctionalGroupsSequence = [
        group(PlanePositionSequence={"ImagePositionPatient": list(ORIGIN + n * STEP * np.cross(ROW, COLUMN))})
        for n in order
    ]
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.save_as(tmp_path / "frames.dcm", enforce_file_format=True)
    (tmp_path / "cohort" / "phi").mkdir(parents=True)
    told = {"volume_id": ["v"], "archive": [str(tmp_path)], "path": ["frames.dcm"], "order": [0]}
    pd.DataFrame(told).to_parquet(tmp_path / "cohort" / "phi" / "sources.parquet")
    return tmp_path


def group(**sequences):
    """A functional group item of sequences of one item each."""
    found = pydicom.Dataset()
    for name, tags in sequences.items():
        item = pydicom.Dataset()
        for tag, value in tags.items():
            setattr(item, tag, value)
        setattr(found, name, [item])
    return found


def test_a_ball_lies_on_the_frames_where_it_was_drawn(enhanced):
    """The affine is written down from the DICOM standard's own words, C.7.6.2.1.1, and turned to RAS+."""
    hd = pytest.importorskip("highdicom")
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = ROW * SPACING[1], COLUMN * SPACING[0]
    affine[:3, 2], affine[:3, 3] = np.cross(ROW, COLUMN) * STEP, ORIGIN
    affine = np.diag([-1.0, -1, 1, 1]) @ affine
    found = np.zeros((COLUMNS, ROWS, PLACES), np.uint8)
    found[5:9, 12:15, 2:4] = 1
    (enhanced / "maps").mkdir()
    nib.save(nib.Nifti1Image(found, affine), enhanced / "maps" / "v.nii.gz")
    table = deliver(enhanced / "maps", enhanced / "cohort", enhanced / "out", ["lesion"])
    assert table["reason"].tolist() == [""] and table["regions"].tolist() == [1]
    source = pydicom.dcmread(enhanced / "frames.dcm")
    opened = hd.seg.segread(enhanced / "out" / "v.dcm")
    assert opened.StudyInstanceUID == source.StudyInstanceUID
    pixels = opened.get_pixels_by_source_frame(
        source.SOPInstanceUID,
        list(range(1, 2 * PLACES + 1)),
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    for number, place in enumerate([4, 0, 2, 5, 1, 3] * 2):
        np.testing.assert_array_equal(pixels[number], found[:, :, place].T)
    assert hd.sr.srread(enhanced / "out" / "v_report.dcm").content.get_volumetric_roi_measurement_groups()


def test_frames_of_one_place_count_once():
    image = pydicom.Dataset()
    image.SOPInstanceUID, image.Rows, image.Columns, image.NumberOfFrames = "1.2", 4, 6, 6
    shared, each = pydicom.Dataset(), []
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [pydicom.Dataset()], [pydicom.Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence[0].PixelSpacing = [0.5, 0.25]
    for z in (4, 0, 2, 4, 0, 2):  # two weightings, in no order
        one = pydicom.Dataset()
        one.PlanePositionSequence = [pydicom.Dataset()]
        one.PlanePositionSequence[0].ImagePositionPatient = [0, 0, z]
        each.append(one)
    image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence = [shared], each
    frames = frames_of(image)
    assert [one.ImagePositionPatient[2] for one in frames] == [4, 0, 2, 4, 0, 2]
    assert places_of(frames) == [1, 2, 0]
    image.NumberOfFrames = 7
    with pytest.raises(UserError, match="has 7 frames and tells the place of 6"):
        frames_of(image)
