import csv
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from medssl.phantom import SPOILED
from medssl.phantom.eye_clinic import HARVARD_RACE


def clinical(folder: Path) -> dict[str, dict[str, str]]:
    """Patient id -> row of the clinical table."""
    with (folder / "clinical.csv").open(newline="") as file:
        return {row["patient_id"]: row for row in csv.DictReader(file)}


def sound_dicom(folder: Path) -> list[Path]:
    """All DICOM files but the truncated one."""
    return [path for path in sorted(folder.rglob("*.dcm")) if "FAKE-B0002" not in path.parts]


def test_every_dicom_file_decodes_and_has_its_own_uid(small_archive: Path) -> None:
    seen = set()
    for path in sound_dicom(small_archive):
        image = pydicom.dcmread(path)
        assert image.pixel_array.size == image.Rows * image.Columns * int(image.get("NumberOfFrames", 1))
        assert image.PatientID == path.relative_to(small_archive).parts[1]
        assert image.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID
        assert pydicom.uid.UID(image.SOPInstanceUID).is_valid and pydicom.uid.UID(image.SeriesInstanceUID).is_valid
        seen.add(image.SOPInstanceUID)
    assert len(seen) == len(sound_dicom(small_archive))


def test_headers_never_contradict_the_table(small_archive: Path) -> None:
    table, told = clinical(small_archive), 0
    for path in sound_dicom(small_archive):
        image = pydicom.dcmread(path, stop_before_pixels=True)
        row = table[image.PatientID]
        assert image.PatientName.family_name.startswith("Fakename")
        assert image.InstitutionName == row["site"] and image.ManufacturerModelName == row["scanner"]
        if image.PatientSex:
            told += 1
            assert row["sex"] in ("", image.PatientSex)
            assert row["age_years"] in ("", str(int(image.PatientAge[:3])))
    assert 0 < told < len(sound_dicom(small_archive))


def test_npz_files_open_without_pickle_and_agree_with_the_table(small_archive: Path) -> None:
    table = clinical(small_archive)
    for path in sorted((small_archive / "oct_npz").iterdir()):
        row = table[path.stem.split("_")[0]]
        with np.load(path, allow_pickle=False) as content:
            assert content["oct_bscans"].shape == (24, 96, 64) and content["oct_bscans"].dtype == np.uint8
            assert str(content["glaucoma"]) == row["glaucoma"]
            assert ("race" in content) == bool(row["race"]) and ("male" in content) == bool(row["sex"])
            if row["race"]:
                assert int(content["race"]) == HARVARD_RACE[row["race"]]
            if row["sex"]:
                assert int(content["male"]) == (row["sex"] == "M")
            if row["age_years"]:
                assert float(content["age"]) == float(row["age_years"])


def test_opt_frames_lie_where_their_positions_say(small_archive: Path) -> None:
    """Sorted by position from below, the frames of every machine show the same order: row 0 is inferior."""
    orders = set()
    for path in small_archive.glob("pacs/FAKE-E*/*/*/*.dcm"):
        image = pydicom.dcmread(path)
        assert image.SOPClassUID == "1.2.840.10008.5.1.4.1.1.77.1.5.4" and image.NumberOfFrames == 24
        frames = image.PerFrameFunctionalGroupsSequence
        heights = [float(frame.PlanePositionSequence[0].ImagePositionPatient[2]) for frame in frames]
        steps = np.diff(heights)
        assert np.abs(steps) == pytest.approx(0.25)
        orders.add((image.ManufacturerModelName == "Gamma OCT", bool(steps[0] > 0)))
        shared = image.SharedFunctionalGroupsSequence[0]
        depth, across = shared.PixelMeasuresSequence[0].PixelSpacing
        assert (depth * image.Rows, across * image.Columns) == pytest.approx((2.0, 6.0))
        assert shared.FrameAnatomySequence[0].FrameLaterality == image.ImageLaterality
    assert orders <= {(True, False), (False, True)}


def test_nifti_heads_are_bright_inside_in_both_orientations(small_archive: Path) -> None:
    codes = set()
    for path in sorted((small_archive / "nifti").glob("FAKE-H*")):
        image = nibabel.load(path)
        codes.add("".join(nibabel.aff2axcodes(image.affine)))
        voxels = np.asanyarray(image.dataobj)
        middle = tuple(n // 2 for n in voxels.shape)
        assert voxels[middle[0] + 6, middle[1] + 8, middle[2] + 8] > 3 * voxels[0, 0, 0]
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)
    assert codes == {"LPS", "RAS"}


def test_spoiled_content_is_spoiled_as_told(small_archive: Path) -> None:
    gap, cut, capture, report, nifti, notes = (small_archive / name for name in SPOILED)
    heights = sorted(float(pydicom.dcmread(path).ImagePositionPatient[2]) for path in gap.iterdir())
    assert sorted(np.round(np.diff(heights), 3)) == [8.0] * 21 + [16.0]
    with pytest.raises(Exception, match=r"(?i)pixel data|bytes|end of file"):
        pydicom.dcmread(cut).pixel_array
    assert pydicom.dcmread(capture).SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert report.read_bytes().startswith(b"%PDF") and notes.read_text().strip()
    with pytest.raises((EOFError, OSError)):
        np.asanyarray(nibabel.load(nifti).dataobj)
