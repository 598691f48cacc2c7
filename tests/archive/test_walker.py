"""The fast parser against pydicom: whatever either says of a file, the other says too."""

import os
import struct
import warnings
from dataclasses import asdict
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from medssl.archive import Refusal, headers
from medssl.archive.headers import Header, read_header
from medssl.phantom import PhantomSettings, write_archive

WHEELS = [Path(pydicom.__file__).parent, Path(nibabel.__file__).parent]
PIXELS = np.arange(20, dtype=np.int16).reshape(4, 5)
PLACED = {
    "ImagePositionPatient": [1.5, -2, 3], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [0.7, 0.8],
}  # fmt: skip


def said(path: Path) -> Header | tuple[str, str]:
    """The header, or code and value of the refusal; what libraries warn of is part of neither."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read_header(path)
        except Refusal as refusal:
            return refusal.code, refusal.value


def both(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Header | tuple[str, str], Header | tuple[str, str]]:
    """What is said by the walker with pydicom behind it, and by pydicom alone."""
    fast = said(path)
    with monkeypatch.context() as patch:
        patch.setattr(headers, "walk", lambda *_: None)
        return fast, said(path)


def equal(one: Header | tuple[str, str], other: Header | tuple[str, str]) -> bool:
    """Also where both have nan."""
    return repr(asdict(one) | {"parse_path": ""} if isinstance(one, Header) else one) == repr(
        asdict(other) | {"parse_path": ""} if isinstance(other, Header) else other
    )


def test_every_file_of_the_wheels_is_the_same_by_both_parsers(monkeypatch):
    seen, fast = 0, 0
    for path in sorted(path for wheel in WHEELS for path in wheel.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            if not headers._looks_like_dicom(file.read(256)) or path.suffix in (".py", ".pyc"):
                continue
        one, other = both(path, monkeypatch)
        assert equal(one, other), path.name
        seen += 1
        fast += isinstance(one, Header) and one.parse_path == "fast"
    assert seen > 150
    assert fast > 15  # most of them are no images, or hold none


def test_every_file_of_the_public_archive_is_the_same_and_fast(monkeypatch):
    folder = Path(os.environ.get("MEDSSL_DATA", "")) / "archive_dicom"
    if not os.environ.get("MEDSSL_DATA") or not folder.is_dir():
        pytest.skip("MEDSSL_DATA has no archive_dicom")
    for path in sorted(folder.rglob("*.dcm")):
        one, other = both(path, monkeypatch)
        assert equal(one, other), path.name
        assert isinstance(one, Header) and one.parse_path == "fast", path.name


def test_every_file_of_the_phantom_is_the_same(tmp_path, monkeypatch):
    counts = {"eye_patients": 2, "prostate_patients": 1, "chest_patients": 1, "xray_patients": 2, "head_patients": 0}
    write_archive(tmp_path / "a", PhantomSettings(**counts))
    paths = sorted((tmp_path / "a").rglob("*.dcm"))
    told = {path: both(path, monkeypatch) for path in paths}
    assert all(equal(*pair) for pair in told.values())
    assert {one.parse_path for one, _ in told.values() if isinstance(one, Header) and one.n_frames == 1} == {"fast"}
    assert len(paths) > 40


SOURCES = ("CT_small.dcm", "MR_small.dcm", "MR_small_implicit.dcm", "MR_small_RLE.dcm", "nested_priv_SQ.dcm")


@pytest.mark.parametrize("name", SOURCES)
def test_damage_is_seen_alike_by_both(tmp_path, monkeypatch, name):
    (source,) = WHEELS[0].rglob(name)
    rng = np.random.default_rng(len(name))
    path, fast = tmp_path / "x.dcm", 0
    for number in range(60):
        damaged = bytearray(source.read_bytes())
        place = int(rng.integers(132, min(len(damaged) - 4, 5000)))
        if number % 4 == 0:
            del damaged[place:]
        elif number % 4 == 1:
            damaged[place : place + 4] = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"SQ\0\0", b"UN\0\0")[number // 4 % 4]
        else:
            damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        one, other = both(path, monkeypatch)
        assert equal(one, other), (name, number)
        fast += isinstance(one, Header) and one.parse_path == "fast"
    assert fast or name == "nested_priv_SQ.dcm"


def test_values_are_those_that_pydicom_converts():
    (path,) = WHEELS[0].rglob("CT_small.dcm")
    header, data = read_header(path), pydicom.dcmread(path)
    assert header.parse_path == "fast"
    assert header.position == tuple(map(float, data.ImagePositionPatient))
    assert header.orientation == tuple(map(float, data.ImageOrientationPatient))
    assert header.pixel_spacing == tuple(map(float, data.PixelSpacing))
    assert (header.rows, header.columns) == (data.Rows, data.Columns) == (128, 128)
    assert (header.sop_uid, header.series_uid) == (data.SOPInstanceUID, data.SeriesInstanceUID)
    assert (header.patient_id, header.image_type) == (data.PatientID, tuple(data.ImageType))
    assert (header.institution, header.instance_number) == (data.InstitutionName, data.InstanceNumber)
    assert header.transfer_syntax == data.file_meta.TransferSyntaxUID


def rewritten(path: Path, syntax: str) -> Path:
    data, made = pydicom.dcmread(path), Dataset()
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    if not little:
        data.PixelData = np.frombuffer(data.PixelData, "<i2").astype(">i2").tobytes()
    made.update(data)  # one that pydicom does not remember the encoding of
    made.file_meta, made.preamble = data.file_meta, data.preamble
    made.file_meta.TransferSyntaxUID = syntax
    made.save_as(path, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return path


@pytest.mark.parametrize(
    ("syntax", "parser"),
    [(ImplicitVRLittleEndian, "fast"), (ExplicitVRBigEndian, "pydicom"), (DeflatedExplicitVRLittleEndian, "pydicom")],
)
def test_every_way_to_write_a_file_says_the_same(tmp_path, write_dicom, syntax, parser):
    tags = {**PLACED, "DiffusionBValue": 800.0, "PatientAge": "061Y"}
    usual = read_header(write_dicom(tmp_path / "x.dcm", PIXELS, **tags))
    other = read_header(rewritten(tmp_path / "x.dcm", syntax))
    assert (usual.parse_path, other.parse_path, other.transfer_syntax) == ("fast", parser, syntax)
    assert (usual.b_value, usual.rows, usual.columns) == (800, 4, 5)
    differing = {name for name, value in asdict(usual).items() if value == value and value != getattr(other, name)}
    assert differing - {"size", "parse_path"} == {"transfer_syntax"}


def test_a_data_set_without_preamble_is_read_and_text_is_not(tmp_path, write_dicom):
    content = write_dicom(tmp_path / "x.dcm", PIXELS, **PLACED).read_bytes()
    (tmp_path / "bare.dcm").write_bytes(content[132:])
    bare = read_header(tmp_path / "bare.dcm")
    assert (bare.parse_path, bare.rows, bare.position) == ("pydicom", 4, (1.5, -2, 3))
    (tmp_path / "text.dcm").write_bytes(b"08 is no group, and this is no header at all" * 9)
    assert said(tmp_path / "text.dcm") == ("NOT_AN_ARCHIVE_FILE", "")


@pytest.mark.parametrize("declared", [ImplicitVRLittleEndian, pydicom.uid.ExplicitVRLittleEndian])
def test_elements_written_in_another_way_than_declared_are_noticed(tmp_path, write_dicom, declared):
    path = write_dicom(tmp_path / "x.dcm", PIXELS, **PLACED)
    written = pydicom.uid.ExplicitVRLittleEndian if declared == ImplicitVRLittleEndian else ImplicitVRLittleEndian
    content = rewritten(path, written).read_bytes()
    old, new = (uid.encode().ljust(20, b"\0") for uid in (written, declared))
    at = content.index(b"\x02\x00\x10\x00UI")
    length = struct.unpack_from("<H", content, at + 6)[0]
    padded = declared.encode() + b"\0" * (len(declared) % 2)
    content = content[: at + 6] + struct.pack("<H", len(padded)) + padded + content[at + 8 + length :]
    group = content.index(b"\x02\x00\x00\x00UL") + 8
    size = struct.unpack_from("<I", content, group)[0] + len(padded) - length
    path.write_bytes(content[:group] + struct.pack("<I", size) + content[group + 4 :])
    assert old != new
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = read_header(path)
    assert (header.parse_path, header.rows, header.position) == ("pydicom", 4, (1.5, -2, 3))


def sequences(depth: int, *, undefined: bool) -> Items:
    item = Dataset()
    item.StudyDescription = "inside"
    item.Rows = 9999  # not the picture's
    if depth > 1:
        item.add_new(0x00081140, "SQ", sequences(depth - 1, undefined=undefined))
        item[0x00081140].is_undefined_length = undefined
    item.is_undefined_length_sequence_item = undefined
    return Items([item, Dataset()])


@pytest.mark.parametrize("syntax", [pydicom.uid.ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("filler", [0, 30_000])
def test_sequences_and_long_private_elements_are_stepped_over(tmp_path, write_dicom, syntax, undefined, filler):
    path = write_dicom(tmp_path / "x.dcm", PIXELS, **PLACED)
    data = pydicom.dcmread(path)
    data.add_new(0x00081140, "SQ", sequences(4, undefined=undefined))
    data[0x00081140].is_undefined_length = undefined
    data.add_new(0x00090010, "LO", "SOMEBODY")
    data.add_new(0x00091001, "OB", bytes(filler))
    data.add_new(0x00091002, "UT", "\0Rows" * filler)
    data.save_as(path)
    rewritten(path, syntax)
    header = read_header(path)
    assert (header.parse_path, header.rows, header.columns) == ("fast", 4, 5)
    assert header.pixel_spacing == (0.7, 0.8)


def test_several_frames_are_for_the_general_parser(tmp_path, write_frames):
    path = write_frames(tmp_path / "x.dcm", np.zeros((3, 4, 5), np.int16), "enhanced CT", [(0, 0, z) for z in range(3)])
    assert read_header(path).parse_path == "pydicom"
    one = write_frames(tmp_path / "one.dcm", np.zeros((1, 4, 5), np.int16), "enhanced CT", [(7, 0, 0)])
    header = read_header(one)
    assert (header.parse_path, header.position) == ("pydicom", (7, 0, 0))


def test_several_frames_without_places_too(tmp_path, write_dicom):
    header = read_header(write_dicom(tmp_path / "x.dcm", np.zeros((3, 4, 5), np.int16), "DX"))
    assert (header.parse_path, header.n_frames) == ("pydicom", 3)


def inserted(path: Path, element: bytes) -> Path:
    """The file with an element before its modality."""
    content = path.read_bytes()
    at = content.index(b"\x08\x00\x60\x00CS")
    path.write_bytes(content[:at] + element + content[at:])
    return path


def test_an_element_of_no_known_kind_is_written_without_kinds_inside(tmp_path, write_dicom):
    inside = b"\x08\x00\x50\x11\x02\0\0\0" + b"1\0" + b"\x28\x00\x10\x00\x02\0\0\0" + b"\x0f\x27"
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + inside + b"\xfe\xff\x0d\xe0\0\0\0\0"
    unknown = b"\x08\x00\x40\x11UN\0\0\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    header = read_header(inserted(write_dicom(tmp_path / "x.dcm", PIXELS, **PLACED), unknown))
    assert (header.parse_path, header.rows) == ("fast", 4)


def test_a_wanted_element_far_too_long_is_odd(tmp_path, write_dicom, monkeypatch):
    for length, parser in (20_000, "fast"), (100_000, "pydicom"):
        told = b"\x08\x00\x3e\x10UT\0\0" + struct.pack("<I", length) + b"x" * length
        one, other = both(inserted(write_dicom(tmp_path / "x.dcm", PIXELS, **PLACED), told), monkeypatch)
        assert equal(one, other)
        assert isinstance(one, Header) and (one.parse_path, len(one.description)) == (parser, length)


def test_the_parser_is_not_part_of_what_a_header_says(tmp_path, write_dicom, monkeypatch):
    one, other = both(write_dicom(tmp_path / "x.dcm", PIXELS, **PLACED), monkeypatch)
    assert isinstance(one, Header) and isinstance(other, Header)
    assert (one.parse_path, other.parse_path) == ("fast", "pydicom")
    assert "parse_path" not in {name for name, field in Header.__dataclass_fields__.items() if field.compare}
