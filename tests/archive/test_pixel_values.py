"""From stored bits to values: the closed forms of the standard, and pydicom where it is right."""

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from medssl.archive import Refusal, open_volume
from medssl.archive.pixels import read_dataset, stored

PLACE = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1]}
PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"


@pytest.fixture
def picture():
    return np.random.default_rng(7).integers(0, 4096, (9, 11)).astype(np.uint16)


def opened(path):
    return open_volume(path).voxels[0, ..., 0].T


def values_of(path):
    return stored(read_dataset(path), path.name)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("bits", "high"), [(12, 11), (12, 15), (12, 13), (10, 9), (16, 15), (12, 5)])
@pytest.mark.parametrize("compress", ["", "1.2.840.10008.1.2.5"], ids=["plain", "rle"])
def test_bits_beyond_the_stored_ones_are_no_part_of_a_value(
    tmp_path, write_dicom, picture, bits, high, signed, compress
):
    """The twin takes every value's bits apart as text. A HighBit below BitsStored - 1 cannot be and counts for nothing."""
    words = np.random.default_rng(8).integers(0, 1 << 16, picture.shape).astype(np.uint16)
    path = write_dicom(tmp_path / "a.dcm", words.view(np.int16) if signed else words, "DX", compress=compress,
                       BitsStored=bits, HighBit=high)  # fmt: skip
    right = 15 - (high if high >= bits - 1 else bits - 1)
    for value, word in zip(values_of(path).ravel(), words.ravel(), strict=True):
        text = format(word, "016b")[right : right + bits]
        expected = int(text, 2) - ((1 << bits) if signed and text[0] == "1" else 0)
        assert value == expected


def test_a_codec_knows_its_own_bits(tmp_path, write_dicom):
    picture = np.random.default_rng(9).integers(0, 4096, (40, 50)).astype(np.uint16)
    for syntax in ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"):
        path = write_dicom(tmp_path / "a.dcm", picture, "DX", compress=syntax, BitsStored=12, HighBit=11)
        data = pydicom.dcmread(path)
        data.HighBit = 15  # as it was before it was compressed
        data.save_as(path)
        assert np.array_equal(values_of(path), picture)


def test_a_stream_that_is_unsigned_in_a_picture_that_is_signed():
    """The data set says signed, the JPEG 2000 stream unsigned; the picture is the one that pydicom's own tests know."""
    data = read_dataset(get_testdata_file("J2K_pixelrep_mismatch.dcm"))
    values = stored(data, "a.dcm")
    assert values.dtype == np.int16
    assert (values[0, 0], int(values.min()) < 0, int(values.max()) < 4096) == (-2000, True, True)


@pytest.mark.parametrize(("told", "bits"), [(63536, 16), (-2000, 16), (63536, 12)])
def test_padding_is_found_by_its_bits_whatever_its_sign(tmp_path, write_dicom, told, bits):
    pixels = np.full((3, 4), 1000, np.int16)
    pixels[1] = -2000
    path = write_dicom(tmp_path / "a.dcm", pixels, "DX", BitsStored=bits, HighBit=bits - 1)
    data = pydicom.dcmread(path)
    data.add_new("PixelPaddingValue", "US" if told > 0 else "SS", told)
    data.save_as(path)
    valid = open_volume(path).valid[..., 0].T
    assert not valid[1].any()
    assert valid.sum() == 8


def test_padding_that_lost_its_sign_is_no_tissue(tmp_path, write_dicom):
    for k in range(3):
        pixels = np.full((3, 4), 1064, np.uint16)
        pixels[0, 0] = 63536
        write_dicom(tmp_path / f"{k}.dcm", pixels, ImagePositionPatient=[0, 0, k], **PLACE)
    volume = open_volume(tmp_path)
    assert (volume.valid.sum(), volume.voxels.max()) == (33, 40)


@pytest.mark.parametrize("first", [0, 5, -3])
def test_a_modality_table_is_pydicoms(tmp_path, write_dicom, first):
    pixels = np.arange(-8, 12, dtype=np.int16).reshape(4, 5)
    curve = np.array([7, 1, 900, 5, 2, 65535, 4, 3], np.uint16)
    path = write_dicom(tmp_path / "a.dcm", pixels, "DX")
    data = pydicom.dcmread(path)
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "SS", [8, first, 16])
    item.add_new("LUTData", "US", curve.tolist())
    item.ModalityLUTType = "US"
    data.ModalityLUTSequence = [item]
    data.WindowCenter, data.WindowWidth, data.VOILUTFunction = 500, 1000, "LINEAR_EXACT"
    data.save_as(path)
    expected = apply_modality_lut(pixels, pydicom.dcmread(path))
    assert np.array_equal(expected, curve[np.clip(pixels.astype(int) - first, 0, 7)])
    assert np.allclose(opened(path), np.clip(expected / 1000.0, 0, 1), atol=1e-6)


def by_the_standard(x, c, w, function):
    """PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2 with ymin 0 and ymax 1, one value at a time."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(min(700, -4 * (x - c) / w)))
    if function == "LINEAR_EXACT":
        return 0 if x <= c - w / 2 else 1 if x > c + w / 2 else (x - c) / w + 0.5
    low, high = c - 0.5 - (w - 1) / 2, c - 0.5 + (w - 1) / 2
    return 0 if x <= low else 1 if x > high else (x - (c - 0.5)) / (w - 1) + 0.5


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(2000, 600), (2000.5, 1), (100, 4096), (-50, 300.5), (2000, 0.5)])
def test_windows_are_the_closed_forms_of_the_standard(tmp_path, write_dicom, picture, function, centre, width):
    rescale = {"RescaleSlope": 2, "RescaleIntercept": -1000}
    path = write_dicom(tmp_path / "a.dcm", picture, "DX", WindowCenter=centre, WindowWidth=width,
                       VOILUTFunction=function, **rescale)  # fmt: skip
    found = opened(path)
    if function == "LINEAR" and width < 1:  # not allowed, and so no window
        assert np.array_equal(found, opened(write_dicom(tmp_path / "b.dcm", picture, "DX", **rescale)))
        return
    expected = [[by_the_standard(2.0 * x - 1000, centre, width, function) for x in row] for row in picture]
    assert np.allclose(found, expected, atol=1e-5)
    if width > 100:
        data = pydicom.dcmread(path)
        data.BitsStored, shown = 16, apply_modality_lut(picture, data)
        oracle = apply_voi_lut(shown, data)
        low, high = -1000.0, 2 * 65535.0 - 1000
        assert np.allclose(found, (oracle - low) / (high - low), atol=1e-5)


def test_a_table_comes_before_a_window_and_after_the_rescale(tmp_path, write_dicom):
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4)
    curve = np.linspace(0, 1023, 24).astype(np.uint16)
    table = [{"LUTDescriptor": [24, 0, 10], "LUTData": curve.tobytes()}]
    path = write_dicom(tmp_path / "a.dcm", pixels, "DX", VOILUTSequence=table, WindowCenter=3, WindowWidth=2,
                       RescaleSlope=2, RescaleIntercept=1)  # fmt: skip
    assert np.allclose(opened(path), curve[2 * pixels + 1] / 1023, atol=1e-6)


def test_inverse_and_monochrome1_are_one_inversion(tmp_path, write_dicom, picture):
    window = {"WindowCenter": 2000, "WindowWidth": 3000}
    plain = opened(write_dicom(tmp_path / "a.dcm", picture, "DX", PresentationLUTShape="IDENTITY", **window))
    both = write_dicom(tmp_path / "b.dcm", picture, "DX", PresentationLUTShape="INVERSE",
                       PhotometricInterpretation="MONOCHROME1", **window)  # fmt: skip
    assert np.allclose(opened(both), 1 - plain, atol=1e-6)


@pytest.mark.parametrize(
    ("relation", "sop", "log"),
    [("LIN", PROCESSING, True), ("LOG", PROCESSING, False), ("LIN", None, False)],
)
def test_doses_become_absorption_for_processing_only(tmp_path, write_dicom, relation, sop, log):
    thickness = np.linspace(0, 1, 40).reshape(5, 8)
    pixels = (60_000 * np.exp(-4 * thickness)).astype(np.uint16)
    path = write_dicom(tmp_path / "a.dcm", pixels, "DX", PixelIntensityRelationship=relation,
                       PhotometricInterpretation="MONOCHROME1", **({"SOPClassUID": sop} if sop else {}))  # fmt: skip
    straight = np.corrcoef(opened(path).ravel(), thickness.ravel())[0, 1] > 0.9999
    assert straight == log


def mapping(code, **facts):
    unit = [{"CodeValue": code, "CodingSchemeDesignator": "UCUM", "CodeMeaning": "some unit"}]
    return {"RealWorldValueMappingSequence": [{"MeasurementUnitsCodeSequence": unit, **facts}]}


@pytest.mark.parametrize(
    ("code", "facts", "expected"),
    [
        ("mm2/s", {"RealWorldValueSlope": 1e-6, "RealWorldValueIntercept": 0.0}, lambda x: x),
        ("um2/s", {"RealWorldValueSlope": 0.5, "RealWorldValueIntercept": 3.0}, lambda x: 0.5 * x + 3),
        ("ms", {"RealWorldValueSlope": 2.0, "RealWorldValueIntercept": -1.0}, lambda x: 2 * x - 1),
        ("1", {"RealWorldValueSlope": 2.0, "RealWorldValueIntercept": -1.0}, lambda x: 10 * x + 7),
    ],
    ids=["mm2/s", "um2/s", "ms", "no unit"],
)
@pytest.mark.parametrize("where", ["data set", "shared", "each frame"])
def test_a_map_with_a_unit_is_in_its_unit(tmp_path, write_dicom, write_frames, code, facts, expected, where):
    """The slope and intercept beside it are for another purpose; a mapping to no unit says nothing."""
    pixels = np.arange(36, dtype=np.uint16).reshape(3, 3, 4)
    if where == "data set":
        for k in range(3):
            write_dicom(tmp_path / f"{k}.dcm", pixels[k], "MR", ImagePositionPatient=[0, 0, k], RescaleSlope=10,
                        RescaleIntercept=7, **PLACE, **mapping(code, **facts))  # fmt: skip
        volume = open_volume(tmp_path)
    else:
        rescale = {"PixelValueTransformationSequence": [{"RescaleSlope": 10, "RescaleIntercept": 7}]}
        found = mapping(code, **facts)
        volume = open_volume(write_frames(
            tmp_path / "a.dcm", pixels, "enhanced MR", [(0, 0, k) for k in range(3)],
            shared=rescale | (found if where == "shared" else {}),
            each=[found] * 3 if where == "each frame" else (),
        ))  # fmt: skip
    assert np.allclose(volume.voxels[0].transpose(2, 1, 0), expected(pixels.astype(float)), rtol=1e-6)


def test_a_mapping_may_be_a_table_for_some_values_only(tmp_path, write_dicom):
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4)
    table = (np.arange(5) ** 2.0).tolist()
    facts = {"RealWorldValueFirstValueMapped": 3, "RealWorldValueLastValueMapped": 7, "RealWorldValueLUTData": table}
    for k in range(3):
        write_dicom(tmp_path / f"{k}.dcm", pixels, "MR", ImagePositionPatient=[0, 0, k], **PLACE,
                    **mapping("ms", **facts))  # fmt: skip
    volume = open_volume(tmp_path)
    found, valid = volume.voxels[0, :, :, 0].T, volume.valid[..., 0].T
    assert np.array_equal(valid, (pixels >= 3) & (pixels <= 7))
    assert np.array_equal(found[valid], table)


@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
@pytest.mark.parametrize(
    "item",
    [
        {"LUTDescriptor": [24, 0, 10], "LUTData": bytes(20)},
        {"LUTDescriptor": [24, 0, 10]},
        {"LUTExplanation": "nothing else"},
        {"LUTDescriptor": [24, 0], "LUTData": bytes(48)},
        {"LUTDescriptor": [0, 0, 16], "LUTData": bytes(48)},
        {"LUTDescriptor": [24, 0, 0], "LUTData": bytes(48)},
    ],
    ids=["short", "no data", "no descriptor", "two numbers", "65536 entries", "no bits"],
)
def test_a_damaged_table_is_refused(tmp_path, write_dicom, picture, sequence, item):
    path = write_dicom(tmp_path / "a.dcm", picture, "DX", **{sequence: [item]})
    with pytest.raises(Refusal, match=r"a\.dcm: LUT_DAMAGED"):
        open_volume(path)


def test_a_table_of_one_byte_an_entry(tmp_path, write_dicom):
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4)
    curve = (255 * np.linspace(0, 1, 12) ** 2).astype(np.uint8)
    path = write_dicom(tmp_path / "a.dcm", pixels, "DX",
                       VOILUTSequence=[{"LUTDescriptor": [12, 0, 8], "LUTData": curve.tobytes()}])  # fmt: skip
    assert np.allclose(opened(path), curve[pixels] / 255, atol=1e-6)
