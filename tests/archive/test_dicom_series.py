"""Series as scanners and exporters really write them: each is one volume, several, or a reason."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medssl.archive import Refusal, open_volume, read_stack
from medssl.archive.finding import find_files
from medssl.archive.headers import read_header
from medssl.archive.series import assemble
from medssl.errors import UserError

CT, MR, DX = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.1.1"
AXIAL = (1, 0, 0, 0, 1, 0)


def write(path, pixels, sop=CT, **tags):
    """A DICOM file with one picture (rows, columns) of int16 or uint16."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop, tags.get("SOPInstanceUID", generate_uid())
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    signed = pixels.dtype.kind == "i"
    facts = {
        "SOPClassUID": sop, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID, "PatientID": "P1",
        "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "FrameOfReferenceUID": "1.2.3.9",
        "Modality": {CT: "CT", MR: "MR", DX: "DX"}.get(sop, "OT"), "Rows": pixels.shape[0], "Columns": pixels.shape[1],
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16, "BitsStored": 16,
        "HighBit": 15, "PixelRepresentation": int(signed), "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    }  # fmt: skip
    if sop == CT:
        facts |= {"RescaleSlope": 1, "RescaleIntercept": -1024}
    for name, value in {**facts, **tags}.items():
        if value is not None:
            setattr(data, name, value)
    data.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def series(folder, places, sop=CT, orientation=AXIAL, offset=None, seed=0, **tags):
    """Slices at the given positions along the normal (mm), written in shuffled file order with lying instance numbers."""
    rng = np.random.default_rng(seed)
    normal = np.cross(orientation[:3], orientation[3:])
    for number, place in enumerate(rng.permutation(places)):
        step = normal * place if offset is None else np.array(offset) * place
        pixels = (1024 + 10 * place + np.arange(30).reshape(5, 6)).astype(np.int16)
        write(folder / f"{number:03d}.dcm", pixels, sop, ImagePositionPatient=list(np.array([-20.0, 30, 5]) + step),
              ImageOrientationPatient=list(orientation), PixelSpacing=[0.8, 0.5], InstanceNumber=int(100 - number),
              **tags)  # fmt: skip
    return folder


def stacks(folder):
    return assemble([read_header(path) for path in find_files(folder).files])


def reasons(folder):
    return sorted((stack.status, stack.reason, len(stack.headers), stack.split_by) for stack in stacks(folder))


@pytest.mark.parametrize("orientation", [AXIAL, (0, 1, 0, 0, 0, -1), (0.8, 0.6, 0, 0, 0, -1), (-1, 0, 0, 0, 1, 0)])
def test_geometry_is_that_of_an_independent_reader(tmp_path, orientation):
    volume = open_volume(series(tmp_path, np.arange(7) * 2.5, orientation=orientation))
    assert volume.shape == (6, 5, 7)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    expected = sitk.GetArrayFromImage(image).T
    for index in [(0, 0, 0), (5, 4, 6), (2, 3, 1)]:
        lps = np.array(image.TransformIndexToPhysicalPoint(index))
        ours = np.linalg.solve(volume.affine, [-lps[0], -lps[1], lps[2], 1])[:3]
        nearest = tuple(np.round(ours).astype(int))
        assert np.allclose(ours, nearest, atol=1e-4)
        assert volume.voxels[(0, *nearest)] == expected[index]


def test_ct_is_in_hounsfield_units_and_padding_is_not_measured(tmp_path):
    for k in range(4):
        pixels = np.full((5, 6), 1064, np.int16)
        pixels[0, :] = -2000
        write(tmp_path / f"{k}.dcm", pixels, ImagePositionPatient=[0, 0, k], ImageOrientationPatient=list(AXIAL),
              PixelSpacing=[1, 1], PixelPaddingValue=-2000)  # fmt: skip
    volume = open_volume(tmp_path)
    assert volume.unit == "HU"
    assert set(np.unique(volume.voxels)) == {-1024.0, 40.0}
    assert not volume.valid[:, 0].any()
    assert volume.valid[:, 1:].all()


def test_each_slice_has_its_own_slope(tmp_path):
    for k in range(4):
        write(tmp_path / f"{k}.dcm", np.full((5, 6), 100, np.int16), MR, ImagePositionPatient=[0, 0, k], RescaleSlope=k + 1,
              ImageOrientationPatient=list(AXIAL), PixelSpacing=[1, 1], RescaleIntercept=0)  # fmt: skip
    assert open_volume(tmp_path).voxels[0, 0, 0].tolist() == [100, 200, 300, 400]


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([0, 2, 4, 8, 10], ("excluded", "MISSING_SLICE")),
        ([0, 2, 4.3, 6, 8], ("excluded", "NONUNIFORM_SPACING")),
        ([0, 2, 4, 4, 6], ("excluded", "AMBIGUOUS_STACK")),
        ([0], ("excluded", "SINGLE_SLICE")),
        ([0, 2], ("excluded", "LOCALIZER_OR_TOO_FEW")),
        ([0, 2, 4.001, 6, 8], ("ok", "")),
    ],
)
def test_positions_decide(tmp_path, places, expected):
    assert [found[:2] for found in reasons(series(tmp_path, places))] == [expected]


def test_a_tilted_gantry_keeps_its_sheared_geometry(tmp_path):
    (stack,) = stacks(series(tmp_path, np.arange(6), offset=(0, np.tan(np.deg2rad(14)) * 2, 2)))
    assert (stack.status, stack.reason) == ("warn", "GANTRY_TILT")
    axes = stack.affine[:3, :3] / np.linalg.norm(stack.affine[:3, :3], axis=0)
    assert np.degrees(np.arccos(abs(axes[:, 2] @ [0, 0, 1]))) == pytest.approx(14, abs=1e-3)


def test_three_b_values_are_three_volumes(tmp_path):
    for n, b in enumerate((50, 400, 800)):
        series(tmp_path / str(n), np.arange(5) * 3, MR, seed=n, DiffusionBValue=float(b))
    assert reasons(tmp_path) == [("ok", "", 5, "b_value")] * 3


def test_two_echoes_are_two_volumes(tmp_path):
    for n, echo in enumerate((10.0, 80.0)):
        series(tmp_path / str(n), np.arange(5) * 3, MR, seed=n, EchoTime=echo)
    assert reasons(tmp_path) == [("ok", "", 5, "echo_time")] * 2


def test_three_planes_are_not_a_volume(tmp_path):
    for n, orientation in enumerate((AXIAL, (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1))):
        series(tmp_path / str(n), np.arange(3) * 5, MR, orientation=orientation)
    assert reasons(tmp_path) == [("excluded", "LOCALIZER_OR_TOO_FEW", 3, "orientation")] * 3


def test_copies_and_conflicts(tmp_path):
    folder = series(tmp_path / "a", np.arange(4))
    first = folder / "000.dcm"
    (tmp_path / "copy.dcm").write_bytes(first.read_bytes())
    assert reasons(tmp_path) == [("excluded", "DUP_INSTANCE", 1, ""), ("ok", "", 4, "")]
    changed = pydicom.dcmread(first)
    changed.PixelData = bytes(len(changed.PixelData))
    changed.save_as(tmp_path / "copy.dcm")
    assert {found[1] for found in reasons(tmp_path)} == {"DUP_UID_CONFLICT"}


def test_two_patients_in_one_series(tmp_path):
    series(tmp_path / "a", [0, 1, 2])
    series(tmp_path / "b", [3, 4, 5], seed=1, PatientID="P2")
    assert {found[1] for found in reasons(tmp_path)} == {"PATIENT_CONFLICT"}


@pytest.mark.parametrize(
    ("code", "tags"),
    [
        ("DERIVED_OR_SC", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
        ("DERIVED_OR_SC", {"sop": "1.2.840.10008.5.1.4.1.1.7"}),
        ("MOSAIC_UNSUPPORTED", {"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"], "sop": MR}),
        ("BURNED_IN", {"BurnedInAnnotation": "YES"}),
        ("UNSUPPORTED_SOP", {"sop": "1.2.840.10008.5.1.4.1.1.14.1"}),
        ("NON_IMAGE_SOP", {"sop": "1.2.840.10008.5.1.4.1.1.67", "Rows": None}),
        ("COLOR_IMAGE", {"SamplesPerPixel": 3}),
    ],
)
def test_what_is_not_an_acquisition_is_left_out(tmp_path, code, tags):
    with pytest.raises(Refusal) as refusal:
        read_header(write(tmp_path / "x.dcm", np.zeros((5, 6), np.int16), **{"sop": CT, **tags}))
    assert refusal.value.code == code


@pytest.mark.parametrize("left", [0.3, 0.9])
def test_a_truncated_file_is_refused(tmp_path, left):
    path = write(tmp_path / "x.dcm", np.zeros((64, 64), np.int16))
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])
    with pytest.raises(Refusal) as refusal:
        read_header(path)
    assert refusal.value.code == "PIXELDATA_TRUNCATED"


@pytest.mark.parametrize(
    ("content", "code"), [(b"", "EMPTY_FILE"), (b"hello, this is text\n" * 9, "NOT_AN_ARCHIVE_FILE")]
)
def test_files_that_are_no_images(tmp_path, content, code):
    (tmp_path / "x.dat").write_bytes(content)
    with pytest.raises(Refusal) as refusal:
        read_header(tmp_path / "x.dat")
    assert refusal.value.code == code


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 2000, "WindowWidth": 3000}])
def test_monochrome1_and_2_show_the_same_picture(tmp_path, window):
    picture = np.linspace(100, 3900, 30).reshape(5, 6).astype(np.uint16)
    tags = {"BitsStored": 12, "HighBit": 11, "ImagerPixelSpacing": [0.2, 0.1]}
    flipped = {k: 4095 - v if k == "WindowCenter" else v for k, v in window.items()}
    bright = open_volume(write(tmp_path / "2.dcm", picture, DX, **tags, **window))
    dark = open_volume(
        write(
            tmp_path / "1.dcm",
            (4095 - picture).astype(np.uint16),
            DX,
            PhotometricInterpretation="MONOCHROME1",
            **tags,
            **flipped,
        )
    )
    assert bright.shape == (6, 5, 1)
    assert bright.spacing == pytest.approx((0.1, 0.2, 1.0))
    assert not bright.oriented
    assert np.abs(bright.voxels - dark.voxels).max() < 2e-3
    assert bright.voxels[0, 5, 4, 0] > bright.voxels[0, 0, 0, 0]


def test_several_volumes_in_a_folder_ask_for_one(tmp_path):
    series(tmp_path / "a", np.arange(4))
    series(tmp_path / "b", np.arange(4), SeriesInstanceUID="1.2.3.5")
    with pytest.raises(UserError, match="holds 2 volumes"):
        open_volume(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        open_volume(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="an empty folder"):
        open_volume(tmp_path / "empty")


@pytest.mark.real
def test_every_real_series_is_read_split_or_left_out(real_data):
    found = stacks(real_data / "archive_dicom")
    assert sum(len(stack.headers) for stack in found) == 229
    kept = [stack for stack in found if stack.status != "excluded"]
    roles = sorted(stack.role for stack in kept if "prostatex" in str(stack.headers[0].path))
    assert roles == ["", "", "", "", "adc", "hbv", "t2w"]
    assert sum(stack.split_by == "b_value" for stack in kept) == 3
    assert len(kept) == 11
    assert all(np.isfinite(read_stack(stack).voxels).all() for stack in kept)


def test_every_file_of_the_libraries_own_tests_ends_in_a_header_or_a_reason():
    from importlib.util import find_spec
    from pathlib import Path

    folders = [Path(find_spec("pydicom").origin).parent / "data" / "test_files",
               Path(find_spec("nibabel").origin).parent / "tests" / "data",
               Path(find_spec("nibabel").origin).parent / "nicom" / "tests" / "data"]  # fmt: skip
    ends = {"header": 0, "refusal": 0}
    headers = []
    for path in [path for folder in folders for path in find_files(folder).files]:
        try:
            headers.append(read_header(path))
            ends["header"] += 1
        except Refusal:
            ends["refusal"] += 1
    assert min(ends.values()) > 20
    found = assemble(headers)
    assert sum(len(stack.headers) for stack in found) == len(headers)
    for stack in found:
        if stack.status != "excluded" and stack.headers[0].kind == "dicom":
            try:
                assert read_stack(stack).shape == tuple(stack.shape)
            except Refusal as refusal:
                assert refusal.code
