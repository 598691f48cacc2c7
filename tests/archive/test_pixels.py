"""Pixels as they are stored: compressed, padded, windowed, cut short."""

import numpy as np
import pydicom
import pytest

from medssl.archive import Refusal, open_volume
from medssl.archive.headers import read_header

PLACE = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1]}
DETECTOR = {"ImagerPixelSpacing": [0.2, 0.1], "BitsStored": 12, "HighBit": 11}
RLE, JPEG_LS, JPEG_2000 = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"


def code(path):
    with pytest.raises(Refusal) as refusal:
        open_volume(path)
    return refusal.value.code


@pytest.fixture
def picture():
    """Random grey values of 12 bits, no two pictures alike."""
    return np.random.default_rng(3).integers(0, 4096, (40, 50)).astype(np.uint16)


@pytest.mark.parametrize("syntax", [RLE, JPEG_LS, JPEG_2000])
def test_lossless_compression_changes_nothing(tmp_path, write_dicom, picture, syntax):
    for k in range(4):
        for name, compress in ("plain", ""), ("packed", syntax):
            write_dicom(tmp_path / name / f"{k}.dcm", picture + k, compress=compress, SOPInstanceUID=f"1.2.{k + 1}",
                        ImagePositionPatient=[0, 0, k], **PLACE)  # fmt: skip
    assert read_header(tmp_path / "packed" / "0.dcm").transfer_syntax == syntax
    plain, packed = open_volume(tmp_path / "plain"), open_volume(tmp_path / "packed")
    assert np.array_equal(plain.voxels, packed.voxels)
    assert np.array_equal(plain.affine, packed.affine)


@pytest.mark.parametrize("syntax", [RLE, JPEG_LS, JPEG_2000])
def test_damaged_compressed_pixels_are_refused(tmp_path, write_dicom, picture, syntax):
    path = write_dicom(tmp_path / "a.dcm", picture, "DX", compress=syntax, **DETECTOR)
    data = pydicom.dcmread(path)
    data.PixelData = pydicom.encaps.encapsulate([b"\1\2\3\4" * 8])
    data.save_as(path)
    assert code(path) in {"DECODING_FAILED", "DECODER_MISSING", "PIXELDATA_TRUNCATED"}


def test_a_syntax_that_nothing_decodes_is_named(tmp_path, write_dicom, picture):
    path = write_dicom(tmp_path / "a.dcm", picture, "DX", compress=RLE, **DETECTOR)
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
    data.save_as(path)
    assert code(path) == "DECODER_MISSING"


@pytest.mark.parametrize("lost", [1, 100, 3000])
def test_one_lost_byte_is_found_by_the_header_alone(tmp_path, write_dicom, picture, lost):
    path = write_dicom(tmp_path / "a.dcm", picture, "DX", **DETECTOR)
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(Refusal) as refusal:
        read_header(path)
    assert refusal.value.code == "PIXELDATA_TRUNCATED"


@pytest.mark.parametrize(
    ("kind", "padding", "hidden"),
    [
        (np.int16, {"PixelPaddingValue": -2000}, [-2000]),
        (np.int16, {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1990}, [-2000, -1995, -1990]),
        (np.int16, {"PixelPaddingValue": -1990, "PixelPaddingRangeLimit": -2000}, [-2000, -1995, -1990]),
        (np.uint16, {"PixelPaddingValue": 63536}, [63536]),
        (np.int16, {}, []),
    ],
)
def test_padding_is_not_valid(tmp_path, write_dicom, kind, padding, hidden):
    pixels = np.full((3, 4), 1000, kind)
    pixels[0, :] = np.array([-2000, -1995, -1990, 7], np.int16).astype(kind)
    path = write_dicom(tmp_path / "a.dcm", pixels, "DX", ImagerPixelSpacing=[1, 1], **padding)
    volume = open_volume(path)
    expected = ~np.isin(pixels, np.array(hidden, np.int64)).T
    valid = np.ones(volume.shape, bool) if volume.valid is None else volume.valid
    assert np.array_equal(valid[..., 0], expected)


def test_what_no_scanner_can_measure_is_not_valid_without_a_tag(tmp_path, write_dicom):
    for k in range(3):
        pixels = np.full((3, 4), 1064, np.int16)
        pixels[0, 0] = -2000
        write_dicom(tmp_path / f"{k}.dcm", pixels, ImagePositionPatient=[0, 0, k], **PLACE)
    volume = open_volume(tmp_path)
    assert not volume.valid[0, 0].any()
    assert volume.valid.sum() == 33
    assert volume.voxels.min() == -1024


@pytest.mark.parametrize(("least", "code_"), [(1000, "HU_SUSPECT"), (-1000, "")])
def test_a_ct_without_an_intercept_has_to_show_air(tmp_path, write_dicom, least, code_):
    for k in range(3):
        pixels = np.linspace(least, 1500, 12).reshape(3, 4).astype(np.int16)
        write_dicom(tmp_path / f"{k}.dcm", pixels, ImagePositionPatient=[0, 0, k], RescaleIntercept=None,
                    RescaleSlope=None, **PLACE)  # fmt: skip
    if code_:
        assert code(tmp_path) == code_
    else:
        assert open_volume(tmp_path).voxels.min() == least


@pytest.mark.parametrize(
    "window",
    [
        {},
        {"WindowCenter": 1000, "WindowWidth": 600},
        {"WindowCenter": [1000, 3000], "WindowWidth": [600, 50]},
        {"WindowCenter": 1000, "WindowWidth": 600, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 1000, "WindowWidth": 600, "RescaleSlope": 2, "RescaleIntercept": -100},
    ],
    ids=["none", "one", "two", "sigmoid", "rescaled"],
)
def test_a_radiograph_is_between_black_and_white(tmp_path, write_dicom, picture, window):
    bright = open_volume(write_dicom(tmp_path / "a.dcm", picture, "DX", **DETECTOR, **window)).voxels[0, ..., 0].T
    assert bright.min() >= 0
    assert bright.max() <= 1
    assert bright.dtype == np.float32
    order = np.argsort(picture.ravel(), kind="stable")
    assert (np.diff(bright.ravel()[order]) >= 0).all()
    inverse = write_dicom(
        tmp_path / "b.dcm", picture, "DX", PhotometricInterpretation="MONOCHROME1", **DETECTOR, **window
    )
    assert np.allclose(open_volume(inverse).voxels[0, ..., 0].T, 1 - bright, atol=1e-6)


def test_a_linear_window_is_the_standards_formula(tmp_path, write_dicom, picture):
    path = write_dicom(tmp_path / "a.dcm", picture, "DX", WindowCenter=1000, WindowWidth=600, **DETECTOR)
    expected = np.clip((picture.astype(float) - (1000 - 0.5)) / 599 + 0.5, 0, 1)
    assert np.allclose(open_volume(path).voxels[0, ..., 0].T, expected, atol=1e-5)


@pytest.mark.parametrize(
    "window",
    [{"WindowWidth": 600}, {"WindowCenter": 600}, {"WindowCenter": 600, "WindowWidth": 0}],
    ids=["no centre", "no width", "zero width"],
)
def test_half_a_window_is_no_window(tmp_path, write_dicom, picture, window):
    plain = open_volume(write_dicom(tmp_path / "a.dcm", picture, "DX", **DETECTOR))
    half = open_volume(write_dicom(tmp_path / "b.dcm", picture, "DX", **DETECTOR, **window))
    assert np.array_equal(plain.voxels, half.voxels)


def test_a_table_of_grey_values_is_applied(tmp_path, write_dicom):
    picture = np.arange(12, dtype=np.uint16).reshape(3, 4)
    curve = (255 * np.linspace(0, 1, 12) ** 2).astype(np.uint16)
    table = [{"LUTDescriptor": [12, 0, 8], "LUTData": curve.tobytes()}]
    path = write_dicom(tmp_path / "a.dcm", picture, "DX", VOILUTSequence=table, **DETECTOR)
    assert np.allclose(open_volume(path).voxels[0, ..., 0].T.ravel(), curve / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("tags", "spacing", "source"),
    [
        ({"ImagerPixelSpacing": [0.2, 0.1]}, (0.1, 0.2), "header"),
        ({"ImagerPixelSpacing": [0.2, 0.1], "PixelSpacing": [0.4, 0.3]}, (0.3, 0.4), "header"),
        ({"ImagerPixelSpacing": [0.2, 0.1], "PixelSpacing": [0, 0]}, (0.1, 0.2), "header"),
        ({"ImagerPixelSpacing": [-1, -1], "PixelSpacing": [0, 0]}, (1.0, 1.0), "unknown"),
        ({"ImagerPixelSpacing": [0.2, 0.1], "EstimatedRadiographicMagnificationFactor": 2}, (0.05, 0.1), "header"),
        ({}, (1.0, 1.0), "unknown"),
    ],
)
def test_the_size_of_a_radiographs_pixels(tmp_path, write_dicom, picture, tags, spacing, source):
    volume = open_volume(write_dicom(tmp_path / "a.dcm", picture, "DX", **tags))
    assert volume.shape == (50, 40, 1)
    assert volume.spacing[:2] == pytest.approx(spacing)
    assert (volume.spacing_source, volume.oriented) == (source, False)


def test_a_header_without_pixels_is_refused(tmp_path, write_dicom, picture):
    path = write_dicom(tmp_path / "a.dcm", picture, "DX", compress=RLE, **DETECTOR)
    data = pydicom.dcmread(path)
    del data.PixelData
    data.save_as(path)
    assert code(path) == "NO_PIXELS"
