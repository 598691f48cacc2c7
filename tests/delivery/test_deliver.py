"""DICOM segmentations: opened again by highdicom, they lie where the maps lay."""

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from medssl.archive import open_volume
from medssl.delivery import deliver
from medssl.delivery.slices import pixel_to_world, places_of, regions
from medssl.errors import UserError

ROWS, COLUMNS, SLICES = 40, 32, 10
SPACING, THICK = (1.25, 0.75), 3.0


def turned():
    """Row and column directions of an oblique stack, LPS."""
    a, b = np.deg2rad([20, 10])
    row = np.array([np.cos(a), np.sin(a), 0])
    column = np.array([-np.sin(a) * np.cos(b), np.cos(a) * np.cos(b), np.sin(b)])
    return row, column


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """An oblique MR series whose files are in no order."""
    folder, study, whole, frame = tmp_path_factory.mktemp("series"), *(generate_uid() for _ in range(3))
    row, column = turned()
    for number in range(SLICES):
        one = pydicom.Dataset()
        one.SOPClassUID, one.SOPInstanceUID = MRImageStorage, generate_uid()
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, whole, frame
        one.Modality, one.PatientID, one.PatientName, one.PatientSex, one.PatientBirthDate = "MR", "p", "P^Q", "M", ""
        one.StudyID, one.StudyDate, one.StudyTime, one.AccessionNumber, one.ReferringPhysicianName = "1", "", "", "", ""
        one.SeriesNumber, one.InstanceNumber, one.Laterality, one.PositionReferenceIndicator = 3, number + 1, "", ""
        one.Rows, one.Columns, one.PixelSpacing, one.SliceThickness = ROWS, COLUMNS, list(SPACING), THICK
        one.ImageOrientationPatient = [*row, *column]
        one.ImagePositionPatient = list(np.array([-10.0, 5, 30]) + number * THICK * np.cross(row, column))
        one.BitsAllocated = one.BitsStored = 16
        one.HighBit, one.PixelRepresentation, one.SamplesPerPixel = 15, 0, 1
        one.PhotometricInterpretation, one.PixelData = "MONOCHROME2", bytes(2 * ROWS * COLUMNS)
        one.file_meta = pydicom.dataset.FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.save_as(folder / f"{(7 * number) % SLICES}.dcm", enforce_file_format=True)
    return sorted(folder.iterdir())


def in_order(series):
    """The slices by where they lie."""
    read = [pydicom.dcmread(path) for path in series]
    return [read[number] for number in places_of(read)]


def world(slices):
    """RAS+ mm of every pixel (F, R, C, 3)."""
    row, column = np.meshgrid(np.arange(ROWS), np.arange(COLUMNS), indexing="ij")
    places = np.stack([row, column, 0 * row, 1 + 0 * row], -1)
    return np.stack([(places @ pixel_to_world(one).T)[..., :3] for one in slices])


@pytest.fixture
def cohort(series, tmp_path):
    (tmp_path / "cohort" / "phi").mkdir(parents=True)
    names = [path.name for path in series]
    table = pd.DataFrame({
        "volume_id": "v", "archive": str(series[0].parent), "path": names, "order": range(len(series))
    })  # fmt: skip
    table.to_parquet(tmp_path / "cohort" / "phi" / "sources.parquet")
    return tmp_path / "cohort"


AFFINE = np.array([[-1.5, 0, 0, 40], [0, 1.5, 0, -60], [0, 0, 2, 0], [0, 0, 0, 1.0]])
SHAPE = (64, 64, 48)


def balls(slices, *radii):
    """A label map (I, J, K) on a grid of its own: balls within the stack, and their middles in mm."""
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    mm = index @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    stack = world(slices)
    middles = [stack[4, 12, 10], stack[6, 28, 22]]
    found = np.zeros(SHAPE, np.uint8)
    for number, (middle, radius) in enumerate(zip(middles, radii, strict=False), 1):
        found[np.linalg.norm(mm - middle, axis=-1) < radius] = number
    return found, middles


def test_pixels_lie_where_pydicom_s_own_words_put_them(series):
    slices = in_order(series)
    assert [one.InstanceNumber for one in slices] in ([*range(1, 11)], [*range(10, 0, -1)])
    row, column = turned()
    first = slices[0]
    told = np.array(first.ImagePositionPatient) + 3 * SPACING[0] * column + 5 * SPACING[1] * row
    assert np.allclose(world([first])[0, 3, 5], told * [-1, -1, 1])


@pytest.mark.parametrize("kind", ["labels", "detections"])
def test_a_segmentation_opened_again_lies_where_the_map_lay(series, cohort, tmp_path, kind):
    hd = pytest.importorskip("highdicom")
    slices = in_order(series)
    found, middles = balls(slices, 5, 6)
    names = ["gland", "lesion"] if kind == "labels" else ["lesion 1", "lesion 2"]
    written = found if kind == "labels" else np.where(found > 0, 0.25 * found, 0).astype(np.float32)
    (tmp_path / "maps").mkdir()
    nib.save(nib.Nifti1Image(written, AFFINE), tmp_path / "maps" / "v.nii.gz")
    told = names if kind == "labels" else ["lesion"]
    table = deliver(tmp_path / "maps", cohort, tmp_path / "out", told, model="a model")
    assert table["reason"].tolist() == [""] and table["regions"].tolist() == [2]
    opened = hd.seg.segread(tmp_path / "out" / "v.dcm")
    assert [opened.get_segment_description(n).SegmentLabel for n in opened.segment_numbers] == names
    assert opened.StudyInstanceUID == slices[0].StudyInstanceUID
    assert opened.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
    frames = opened.get_pixels_by_source_instance(
        [one.SOPInstanceUID for one in slices], combine_segments=True, assert_missing_frames_are_empty=True
    )
    mm = world(slices)
    sizes = {}
    for middle, radius in zip(middles, (5, 6), strict=True):
        near = (frames > 0) & (np.linalg.norm(mm - middle, axis=-1) < 10)
        (number,) = np.unique(frames[near])
        assert np.linalg.norm(mm[frames == number].mean(0) - middle) < 1
        assert np.linalg.norm(mm[frames == number] - middle, axis=-1).max() < radius + 1.5
        sizes[int(number)] = radius
    report = hd.sr.srread(tmp_path / "out" / "v_report.dcm")
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert [group.tracking_identifier for group in groups] == names
    for number, group in enumerate(groups, 1):
        told = {one.name.meaning: (one.value, one.unit.value) for one in group.get_measurements()}
        assert told["Volume"][1] == "ml" and told["Volume"][0] == pytest.approx(4.19e-3 * sizes[number] ** 3, rel=0.1)
        if kind == "detections":
            assert told["Probability"] == (pytest.approx({5: 25, 6: 50}[sizes[number]]), "%")
        else:
            assert list(told) == ["Volume"]
        assert group.referenced_segment.referenced_segment_numbers == [number]


def test_a_map_on_the_source_s_grid_is_drawn_voxel_by_voxel(series, cohort, tmp_path):
    hd = pytest.importorskip("highdicom")
    volume = open_volume(list(series))
    found = np.zeros(volume.shape, np.float32)
    found[3:9, 4:12, 2:5], found[20:26, 20:30, 6:8] = 0.25, 0.5
    (tmp_path / "maps").mkdir()
    nib.save(nib.Nifti1Image(found, volume.affine), tmp_path / "maps" / "v.nii.gz")
    table = deliver(tmp_path / "maps", cohort, tmp_path / "out", ["lesion"])
    assert table["reason"].tolist() == [""] and table["regions"].tolist() == [2]
    drawn = hd.seg.segread(tmp_path / "out" / "v.dcm").get_volume(combine_segments=True)
    place = np.argwhere(drawn.array > 0)
    mm = (np.c_[place, np.ones(len(place))] @ drawn.affine.T)[:, :3] * [-1, -1, 1]
    wanted = volume.world(np.argwhere(found > 0))
    assert np.allclose(*(one[np.lexsort(one.round(2).T)] for one in (mm, wanted)), atol=1e-3)


def test_what_would_lose_a_lesion_is_not_delivered_and_the_rest_is(series, cohort, tmp_path):
    slices = in_order(series)
    found, _ = balls(slices, 5)
    (tmp_path / "out").mkdir()
    for name in ("v.dcm", "v_report.dcm"):  # of a former map
        (tmp_path / "out" / name).touch()
    lone = found.copy()
    lone[0, 0, 0] = 1  # far from any slice
    (tmp_path / "maps").mkdir()
    for name, values in (("v", lone), ("nobody", found)):
        nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "maps" / f"{name}.nii.gz")
    table = deliver(tmp_path / "maps", cohort, tmp_path / "out", ["lesion"]).set_index("volume_id")
    assert "2 regions of lesion are 1 on the slices' grid" in table.loc["v", "reason"]
    assert "the cohort has no such volume" in table.loc["nobody", "reason"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["delivered.csv"]
    nib.save(nib.Nifti1Image(2 * found, AFFINE), tmp_path / "maps" / "v.nii.gz")
    assert (
        "holds structure 2, but 1 are named"
        in deliver(tmp_path / "maps", cohort, tmp_path / "out", ["lesion"]).set_index("volume_id").loc["v", "reason"]
    )
    nib.save(nib.Nifti1Image(found.astype(np.int16) * 257, AFFINE), tmp_path / "maps" / "v.nii.gz")  # 1 in a byte
    told = deliver(tmp_path / "maps", cohort, tmp_path / "out", ["lesion"]).set_index("volume_id")
    assert "holds structure 257, but 1 are named" in told.loc["v", "reason"]
    nib.save(nib.Nifti1Image(0 * found, AFFINE), tmp_path / "maps" / "v.nii.gz")
    assert (
        "nothing was found"
        in deliver(tmp_path / "maps", cohort, tmp_path / "out", ["lesion"]).set_index("volume_id").loc["v", "reason"]
    )
    whole = (tmp_path / "maps" / "v.nii.gz").read_bytes()
    for cut in (whole[: len(whole) // 2], b"no image at all"):  # one damaged map does not stop the others
        (tmp_path / "maps" / "v.nii.gz").write_bytes(cut)
        told = deliver(tmp_path / "maps", cohort, tmp_path / "out", ["lesion"]).set_index("volume_id")
        assert len(told) == 2 and "not a whole NIfTI file" in told.loc["v", "reason"]
    with pytest.raises(UserError, match="no maps"):
        deliver(tmp_path / "cohort", cohort, tmp_path / "out", ["lesion"])
    assert regions(found) == 1


@pytest.mark.real
def test_expert_lesions_of_a_real_study_come_back_in_their_place(real_data, tmp_path):
    """The lesions of ProstateX-0000, drawn on the slices of its T2w series: as many, where the mask has them."""
    hd = pytest.importorskip("highdicom")
    from medssl.manifest import index

    index(real_data / "archive_dicom" / "prostatex", tmp_path / "cohort")
    mask = nib.load(real_data / "prostatex_labels" / "ProstateX-0000_lesions.nii.gz")
    labels = (np.asarray(mask.dataobj) > 0).astype(np.uint8)
    volumes = pd.read_parquet(tmp_path / "cohort" / "volumes.parquet")
    (mine,) = (row.volume_id for row in volumes.itertuples() if row.role == "t2w" and tuple(row.shape) == labels.shape)
    (tmp_path / "maps").mkdir()
    nib.save(nib.Nifti1Image(labels, mask.affine), tmp_path / "maps" / f"{mine}.nii.gz")
    table = deliver(tmp_path / "maps", tmp_path / "cohort", tmp_path / "out", ["lesion"])
    assert table["reason"].tolist() == [""]
    assert table["regions"].tolist() == [regions(labels)]
    opened = hd.seg.segread(tmp_path / "out" / f"{mine}.dcm")
    volume = opened.get_volume(combine_segments=True)
    place = np.argwhere(volume.array > 0)
    lps = (np.c_[place, np.ones(len(place))] @ volume.affine.T)[:, :3]
    wanted = np.argwhere(labels > 0)
    ras = (np.c_[wanted, np.ones(len(wanted))] @ mask.affine.T)[:, :3]
    assert len(place) == len(wanted)
    assert np.abs(lps.mean(0) * [-1, -1, 1] - ras.mean(0)).max() < 0.1
