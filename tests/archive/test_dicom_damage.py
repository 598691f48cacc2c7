"""Files that are cut, packed, nested or oddly written: a reason for each, at once; and what is odd but tolerated."""

import io
import resource
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from medssl.archive import Refusal
from medssl.archive.headers import read_header
from medssl.archive.parsed import PLAIN_START

PIXELS = np.arange(64 * 64, dtype=np.int16).reshape(64, 64)
PLACED = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1]}
RLE = "1.2.840.10008.1.2.5"


def code(path):
    with pytest.raises(Refusal) as refusal:
        read_header(path)
    assert refusal.value.thing == path.name
    return refusal.value.code


@pytest.fixture
def good(tmp_path, write_dicom):
    return write_dicom(tmp_path / "x.dcm", PIXELS, **PLACED)


@pytest.mark.parametrize("missing", [2, 100, 64 * 64 * 2])
def test_native_pixels_that_are_cut(good, missing):
    content = good.read_bytes()
    good.write_bytes(content[:-missing])
    assert code(good) == "PIXELDATA_TRUNCATED"


def test_native_pixels_that_claim_less_than_the_picture_needs(good):
    content = good.read_bytes()
    at = content.index(b"\xe0\x7f\x10\x00OW")
    good.write_bytes(content[: at + 8] + struct.pack("<I", 64 * 64) + content[at + 12 :])
    assert code(good) == "PIXELDATA_TRUNCATED"
    good.write_bytes(content[: at + 8] + struct.pack("<I", 64 * 64 * 2 + 512) + content[at + 12 :])
    assert code(good) == "PIXELDATA_TRUNCATED"


def test_a_file_that_ends_before_its_pixels(good):
    content = good.read_bytes()
    good.write_bytes(content[: content.index(b"\xe0\x7f\x10\x00OW")])
    assert code(good) == "NO_PIXELS"


def test_padding_and_junk_behind_the_pixels_are_no_matter(good):
    content = good.read_bytes()
    good.write_bytes(content + b"\xfc\xff\xfc\xffOB\0\0\x04\0\0\0\0\0\0\0" + b"junk" * 9)
    header = read_header(good)
    assert (header.rows, header.parse_path) == (64, "fast")


@pytest.mark.parametrize("share", [0.3, 0.8, 0.99])
def test_encapsulated_pixels_that_are_cut(tmp_path, write_dicom, share):
    path = write_dicom(tmp_path / "x.dcm", PIXELS, compress=RLE, **PLACED)
    assert read_header(path).transfer_syntax == RLE
    content = path.read_bytes()
    at = content.index(b"\xe0\x7f\x10\x00OB")
    path.write_bytes(content[: at + 12 + int(share * (len(content) - at - 12))])
    assert code(path) == "PIXELDATA_TRUNCATED"


def test_fragments_that_do_not_follow_each_other(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "x.dcm", PIXELS, compress=RLE, **PLACED)
    content = path.read_bytes()
    second = content.index(b"\xfe\xff\x00\xe0", content.index(b"\xe0\x7f\x10\x00OB") + 16)
    path.write_bytes(content[:second] + b"\0\0\0\0" + content[second + 4 :])
    assert code(path) == "PIXELDATA_TRUNCATED"


def test_fragments_without_an_end_mark_are_whole(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "x.dcm", PIXELS, compress=RLE, **PLACED)
    content = path.read_bytes()
    assert content.endswith(b"\xfe\xff\xdd\xe0\0\0\0\0")
    path.write_bytes(content[:-8])
    assert read_header(path).rows == 64


@pytest.mark.parametrize(
    "tags",
    [{"Rows": 60000, "Columns": 60000}, {"Rows": 16385}, {"NumberOfFrames": 20001}, {"NumberOfFrames": 2**31 - 1}],
)
def test_pictures_larger_than_any(tmp_path, write_dicom, tags):
    path = write_dicom(tmp_path / "x.dcm", PIXELS, compress=RLE, **PLACED)
    data = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path)
    assert code(path) == "TOO_LARGE"


def test_compressed_pixels_too_few_for_the_picture(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "x.dcm", PIXELS, **PLACED)
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = RLE
    data.Rows = data.Columns = 8000
    data.PixelData = encapsulate([bytes(2000)])
    data.save_as(path)
    assert code(path) == "TOO_LARGE"


def deflated(path, content):
    """A deflated file with this data set."""
    packer = zlib.compressobj(9, wbits=-15)
    meta = PLAIN_START[:132] + b"\x02\x00\x10\x00UI\x16\x00" + b"1.2.840.10008.1.2.1.99"
    path.write_bytes(meta + packer.compress(content) + packer.flush())
    return path


@pytest.fixture
def content(good):
    """A data set without its file meta information."""
    data = good.read_bytes()
    at = data.index(b"\x08\x00\x08\x00CS")
    return data[at:]


def test_deflated_files_inflate_to_what_was_deflated(tmp_path, content, good):
    path = deflated(tmp_path / "d.dcm", content)
    found, usual = read_header(path), read_header(good)
    assert (found.sop_uid, found.rows, found.position) == (usual.sop_uid, 64, (0, 0, 0))
    assert (found.parse_path, usual.parse_path) == ("pydicom", "fast")


@pytest.mark.parametrize("share", [0.4, 0.9])
def test_deflated_files_that_are_cut(tmp_path, content, share):
    path = deflated(tmp_path / "d.dcm", content)
    packed = path.read_bytes()
    path.write_bytes(packed[: int(share * len(packed))])
    assert code(path) == "DEFLATE_DAMAGED"
    path.write_bytes(packed[:170] + b"\xff" * 40 + packed[210:])
    assert code(path) == "DEFLATE_DAMAGED"


@pytest.mark.parametrize("claimed", ["the picture", "gigabytes"])
def test_a_deflated_bomb_costs_no_memory_and_no_time(tmp_path, content, claimed):
    """In a process of its own, whose memory is limited."""
    zeros = bytes(1 << 22)
    if claimed == "gigabytes":
        at = content.index(b"\xe0\x7f\x10\x00OW")
        content = content[: at + 8] + struct.pack("<I", 0xFFFFFFF0) + content[at + 12 :]
    packer = zlib.compressobj(1, wbits=-15)
    packed = packer.compress(content) + b"".join(packer.compress(zeros) for _ in range(150)) + packer.flush()
    path = tmp_path / "bomb.dcm"
    path.write_bytes(PLAIN_START[:132] + b"\x02\x00\x10\x00UI\x16\x001.2.840.10008.1.2.1.99" + packed)
    assert path.stat().st_size < 20_000_000
    script = (
        "import resource, sys, time; from pathlib import Path\n"
        "import pydicom; from medssl.archive.headers import read_header; from medssl.archive import Refusal\n"
        "used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; start = time.process_time()\n"
        "try: read_header(Path(sys.argv[1]))\n"
        "except Refusal as refusal: print(refusal.code)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used, time.process_time() - start)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    found, kilobytes, seconds = done.stdout.split()
    assert found == "DEFLATE_BOMB"
    assert float(seconds) < 2
    assert int(kilobytes) < 200_000


def nested(depth):
    """Sequences of unknown length within each other, explicit little endian."""
    start = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    return start * depth + end * depth


@pytest.mark.parametrize(("depth", "preamble"), [(17, True), (300, True), (100_000, True), (5000, False)])
def test_sequences_nested_without_end(tmp_path, good, depth, preamble):
    data = good.read_bytes()
    at = data.index(b"\x08\x00\x60\x00CS")  # in order
    path = tmp_path / "deep.dcm"
    path.write_bytes((data[:at] + nested(depth) + data[at:])[0 if preamble else 132 :])
    start = time.process_time()
    assert code(path) == "NESTED_TOO_DEEP"
    assert time.process_time() - start < 2


def test_sequences_nested_as_in_real_files_are_read(tmp_path, good):
    data = good.read_bytes()
    at = data.index(b"\x08\x00\x60\x00CS")
    (tmp_path / "deep.dcm").write_bytes(data[:at] + nested(16) + data[at:])
    assert read_header(tmp_path / "deep.dcm").rows == 64


def test_what_lies_beside_images(tmp_path, good):
    with zipfile.ZipFile(tmp_path / "study", "w") as archive:
        archive.write(good)
    with tarfile.open(tmp_path / "study.tar", "w") as archive:
        archive.add(good)
    with tarfile.open(tmp_path / "study.tgz", "w:gz") as archive:
        archive.add(good)
    (tmp_path / "report").write_bytes(b"%PDF-1.7\n" + bytes(200))
    for name in ("Thumbs.db", ".DS_Store", "VERSION", "._IM0001.dcm", "desktop.ini"):
        (tmp_path / name).write_bytes(b"\0\x05\x16\x07" * 50)
    (tmp_path / "notes.txt").write_bytes(b"words " * 50)
    assert {path.name: code(path) for path in tmp_path.iterdir() if path != good} == {
        "study": "PACKED_ARCHIVE", "study.tar": "PACKED_ARCHIVE", "study.tgz": "PACKED_ARCHIVE", "report": "DOCUMENT",
        "Thumbs.db": "SYSTEM_FILE", ".DS_Store": "SYSTEM_FILE", "VERSION": "SYSTEM_FILE", "._IM0001.dcm": "SYSTEM_FILE",
        "desktop.ini": "SYSTEM_FILE", "notes.txt": "NOT_AN_ARCHIVE_FILE",
    }  # fmt: skip


def test_a_directory_of_images_is_none():
    (path,) = Path(pydicom.__file__).parent.rglob("dicomdirtests/DICOMDIR")
    assert code(path) == "DICOM_DIRECTORY"


@pytest.mark.parametrize(
    ("preamble", "flags"),
    [(bytes(128), ()), (b"II*\0".ljust(128, b"\1"), ()), (b"MZ\x90\0".ljust(128, b"\1"), ("PREAMBLE_NONZERO",))],
    ids=["empty", "tiff", "program"],
)
def test_a_preamble_that_could_be_a_program_is_told(good, preamble, flags):
    good.write_bytes(preamble + good.read_bytes()[128:])
    assert read_header(good).flags == flags


def element(group, number, letters, value):
    return struct.pack("<HH2sH", group, number, letters, len(value)) + value


@pytest.mark.parametrize(
    ("written", "spacing", "flags"),
    [
        (b"0.5\\0.25", (0.5, 0.25), ()),
        (b"0,5\\0,25", (0.5, 0.25), ()),
        (b"0.5 \\ 0.25\0 ", (0.5, 0.25), ()),
        (b"0.50000000000000000000\\2.5E-1 ", (0.5, 0.25), ()),
        (b"", None, ()),
        (b"  \0\0", None, ()),
        (b"0.5 ", None, ()),
        (b"half\\0.25 ", None, ("TAG_INVALID:PixelSpacing",)),
        (b"nan\\0.25", None, ("TAG_INVALID:PixelSpacing",)),
        (b"1e999\\0.25", None, ("TAG_INVALID:PixelSpacing",)),
        (b"\xff\xfe\\0.25", None, ("TAG_INVALID:PixelSpacing",)),
    ],
)
@pytest.mark.parametrize("letters", [b"DS", b"LO"])
def test_numbers_however_they_are_written(tmp_path, write_dicom, written, spacing, flags, letters):
    path = write_dicom(tmp_path / "x.dcm", PIXELS, **{**PLACED, "PixelSpacing": None})
    content = path.read_bytes()
    at = content.index(b"\x28\x00\x00\x01US")
    path.write_bytes(content[:at] + element(0x28, 0x30, letters, written + b" " * (len(written) % 2)) + content[at:])
    header = read_header(path)
    assert (header.pixel_spacing, header.flags) == (spacing, flags)


@pytest.mark.parametrize(
    ("written", "number"), [(b"7 ", 7), (b"7.0 ", 7), (b" +7\0", 7), (b"seven ", None), (b"", None)]
)
def test_whole_numbers_however_they_are_written(tmp_path, write_dicom, written, number):
    path = write_dicom(tmp_path / "x.dcm", PIXELS, **PLACED)
    content = path.read_bytes()
    at = content.index(b"\x20\x00\x32\x00DS")
    path.write_bytes(content[:at] + element(0x20, 0x13, b"IS", written) + content[at:])
    assert read_header(path).instance_number == number


def test_rows_of_a_wrong_length_are_no_rows(good):
    content = good.read_bytes()
    at = content.index(b"\x28\x00\x10\x00US")
    good.write_bytes(content[:at] + element(0x28, 0x10, b"US", b"64 ") + content[at + 10 :])
    assert code(good) == "NO_PIXELS"


@pytest.mark.parametrize(
    ("character_set", "written", "said"),
    [
        ("ISO_IR 100", "Müller".encode("latin-1"), "Müller"),
        ("ISO_IR 192", "Müller·山田".encode(), "Müller·山田"),
        ("GB18030", "王小东".encode("gb18030"), "王小东"),
        ("\\ISO 2022 IR 87", "山田".encode("iso2022_jp"), "山田"),
        ("ISO 2022 IR 100\\ISO 2022 IR 87", "山田".encode("iso2022_jp"), "山田"),
        ("\\ISO 2022 IR 149", b"\x1b$)C\xb1\xe8", None),
        ("", "Müller".encode("latin-1"), "Müller"),
        ("NO SUCH SET", "Müller".encode("latin-1"), "Müller"),
        ("ISO_IR 192", b"M\xfcller", r"M\xfcller"),
    ],
)
def test_names_in_any_character_set(tmp_path, write_dicom, character_set, written, said):
    path = write_dicom(tmp_path / "x.dcm", PIXELS, PatientID=None, **PLACED)
    content = path.read_bytes()
    even = character_set.encode() + b" " * (len(character_set) % 2)
    at = content.index(b"\x08\x00\x08\x00CS")
    content = content[:at] + element(8, 5, b"CS", even) + content[at:]
    at = content.index(b"\x20\x00\x0d\x00UI")
    path.write_bytes(content[:at] + element(0x10, 0x20, b"LO", written + b" " * (len(written) % 2)) + content[at:])
    header = read_header(path)
    assert header.parse_path == "fast"
    assert header.patient_id == said if said else header.patient_id


def test_no_memory_is_taken_for_what_a_file_claims(good):
    """An element that claims four gigabytes is stepped over or refused, not read."""
    content = good.read_bytes()
    at = content.index(b"\x08\x00\x60\x00CS")
    claim = b"\x08\x00\x3e\x10UT\0\0" + struct.pack("<I", 0xFFFFFFFE)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    good.write_bytes(content[:at] + claim + content[at:])
    assert code(good) in {"UNREADABLE", "NON_IMAGE_SOP", "NO_PIXELS"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_an_empty_data_set(tmp_path):
    made = io.BytesIO()
    pydicom.dcmwrite(made, Dataset(), implicit_vr=True, little_endian=True)
    (tmp_path / "x.dcm").write_bytes(PLAIN_START + made.getvalue())
    assert code(tmp_path / "x.dcm") == "NON_IMAGE_SOP"
