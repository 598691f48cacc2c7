"""Files that are honest and nearly empty: refused, or read in bounded memory, in a process that is given little of it."""

import gzip
import json
import struct
import subprocess
import sys
import zlib

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.filereader import read_file_meta_info

from medssl.archive import Refusal
from medssl.archive.headers import read_header

READ = """
import json, resource, sys, time
from pathlib import Path
import nibabel, numpy, pydicom, SimpleITK, PIL.Image
from medssl.archive import Refusal, open_volume
from medssl.archive import files, ct, mr, oct, xray, pixels, series
from medssl.archive.headers import read_header
read = {"header": lambda path: read_header(path), "volume": lambda path: open_volume(path)}[sys.argv[2]]
pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (pages + (1 << 30),) * 2)
Path("/proc/self/clear_refs").write_text("5")  # the most that was resident is counted from here
def most():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("VmHWM"))
before, start = most(), time.perf_counter()
try:
    read(Path(sys.argv[1]))
    code = ""
except Refusal as refusal:
    code = refusal.code
print(json.dumps([code, time.perf_counter() - start, (most() - before) / 1024]))
"""


def outcome(path, what):
    """Reason code, seconds and further MB of a process that may take 1 GB more than its libraries."""
    done = subprocess.run([sys.executable, "-c", READ, path, what], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    code, seconds, megabytes = json.loads(done.stdout.splitlines()[-1])
    print(f"{path.name} {what}: {code or 'read'}, {seconds:.2f} s, {megabytes:.0f} MB")  # noqa: T201
    return code, seconds, megabytes


def zeros(count, start=b"", wbits=31):
    """`start` and `count` zeros, packed without ever being held."""
    packer, block = zlib.compressobj(6, zlib.DEFLATED, wbits), bytes(1 << 20)
    packed = [packer.compress(start), *(packer.compress(block) for _ in range(count >> 20))]
    return b"".join([*packed, packer.compress(bytes(count & 0xFFFFF)), packer.flush()])


def nifti_start(edge):
    header = nib.Nifti1Header()
    header.set_data_shape((edge, edge, edge))
    header.set_data_dtype(np.int16)
    header.set_sform(np.eye(4), 1)
    header.set_data_offset(352)
    return header.binaryblock + bytes(4)


def png(path, edge, colour):
    """A picture of one grey, in grey or in red, green and blue."""
    head = struct.pack(">IIBBBBB", edge, edge, 8, 2 if colour else 0, 0, 0, 0)
    parts = head, zeros(edge * (edge * (3 if colour else 1) + 1), wbits=15), b""
    chunks = [name + part for name, part in zip((b"IHDR", b"IDAT", b"IEND"), parts, strict=True)]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    ))  # fmt: skip


def npz(path, edge):
    import zipfile

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as members, members.open("oct_bscans.npy", "w") as member:
        facts = {"descr": "<i2", "fortran_order": False, "shape": (edge, edge, edge)}
        np.lib.format.write_array_header_1_0(member, facts)
        for _ in range(edge):
            member.write(bytes(2 * edge * edge))


def mha(path, edge):
    path.write_bytes(b"ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = True\nDimSize = %d %d %d\n"
                     b"ElementType = MET_SHORT\nElementDataFile = LOCAL\n" % (edge, edge, edge)
                     + zeros(2 * edge**3, wbits=15))  # fmt: skip


def nrrd(path, edge):
    path.write_bytes(b"NRRD0004\ntype: short\ndimension: 3\nsizes: %d %d %d\nspace: left-posterior-superior\n"
                     b"space directions: (1,0,0) (0,1,0) (0,0,1)\nkinds: domain domain domain\nencoding: gzip\n"
                     b"endian: little\nspace origin: (0,0,0)\n\n" % (edge, edge, edge) + zeros(2 * edge**3))  # fmt: skip


BOMBS = {
    "a.nii.gz": lambda path: path.write_bytes(zeros(2 * 1000**3, nifti_start(1000))),
    "a.mha": lambda path: mha(path, 800),
    "a.nrrd": lambda path: nrrd(path, 800),
    "a.npz": lambda path: npz(path, 800),
    "grey.png": lambda path: png(path, 13_000, colour=False),
    "colour.png": lambda path: png(path, 13_000, colour=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_what_is_huge_and_nearly_empty_is_refused_at_once(tmp_path, name):
    path = tmp_path / name
    BOMBS[name](path)
    for what in ("header", "volume"):
        code, seconds, megabytes = outcome(path, what)
        assert code == "TOO_EMPTY"
        assert seconds < 5
        assert megabytes < 20


@pytest.mark.slow
@pytest.mark.parametrize(("name", "write"), [("a.mha", mha), ("a.nrrd", nrrd), ("a.npz", npz)])
def test_a_sparse_label_map_is_verified_without_being_held(tmp_path, name, write):
    """430 MB of zeros in 0.4 MB: as tight as a small lesion in a large scan, and so it is read."""
    write(tmp_path / name, 600)
    code, seconds, megabytes = outcome(tmp_path / name, "header")
    assert (code, seconds < 20) == ("", True)
    assert megabytes < 40


@pytest.mark.slow
def test_the_header_of_a_real_sized_nifti_takes_no_memory(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(zeros(2 * 600**3, nifti_start(600)))
    code, _, megabytes = outcome(path, "header")
    assert (code, megabytes < 40) == ("", True)
    code, _, megabytes = outcome(path, "volume")
    assert (code, megabytes < 500) == ("", True)  # the volume itself is 412 MiB, and nothing beside it


@pytest.mark.slow
def test_the_header_of_a_deflated_dicom_of_zeros_takes_no_memory(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a.dcm", np.zeros((2, 3), np.uint16), "DX", ImagerPixelSpacing=[1, 1])
    data = pydicom.dcmread(path)
    data.Rows = data.Columns = 12_000
    data.PixelData = bytes(2 * 12_000**2)
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    data.save_as(path)
    code, _, megabytes = outcome(path, "header")
    assert (code, megabytes < 100) == ("", True)  # the part in which a header has to end, twice; the picture is 275 MiB


def forged(path, write_dicom):
    """A small file whose header claims far more than it holds."""
    small = np.arange(16, dtype=np.uint16).reshape(4, 4)
    if path.name.startswith("a.nii"):
        content = nifti_start(1000) + bytes(64)
        path.write_bytes(content if path.suffix == ".nii" else gzip.compress(content))
        return
    if path.name == "deflated.dcm":
        start = pydicom.dcmread(write_dicom(path, small, "DX", ImagerPixelSpacing=[1, 1]))
        start.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
        start.save_as(path)
        packed = path.read_bytes()
        meta = 144 + read_file_meta_info(path).FileMetaInformationGroupLength
        plain = zlib.decompress(packed[meta:], -zlib.MAX_WBITS)
        path.write_bytes(packed[:meta] + zeros(1 << 30, plain, wbits=-zlib.MAX_WBITS))
        return
    data = pydicom.dcmread(write_dicom(path, small, "DX", compress="1.2.840.10008.1.2.5", ImagerPixelSpacing=[1, 1]))
    if path.name == "frames.dcm":
        data.NumberOfFrames = 100_000
    else:
        data.Rows = data.Columns = 60_000
    data.save_as(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "rle.dcm", "frames.dcm", "deflated.dcm"])
def test_a_forgery_is_refused_before_it_takes_anything(tmp_path, write_dicom, name):
    forged(tmp_path / name, write_dicom)
    for what in ("header", "volume"):
        code, seconds, megabytes = outcome(tmp_path / name, what)
        assert code in {"TOO_LARGE", "DEFLATE_BOMB"}
        assert seconds < 5
        assert megabytes < 100


@pytest.mark.slow
def test_a_jpeg_of_one_grey_takes_its_pixels_and_no_more(tmp_path):
    """A block of 64 pixels takes a few bits: not enough of a bomb to be told from a dark radiograph."""
    from PIL import Image

    Image.new("L", (13_000, 13_000), 7).save(tmp_path / "a.jpg")
    code, _, megabytes = outcome(tmp_path / "a.jpg", "header")
    assert (code, megabytes < 200) == ("", True)  # 161 MiB of pixels


def test_a_sparse_file_below_the_limit_and_a_dense_one_above_it_pass(monkeypatch, tmp_path):
    from medssl.archive import streams

    values = np.zeros((60, 60, 60), np.int16)
    sparse, dense = tmp_path / "sparse.nii.gz", tmp_path / "dense.nii.gz"
    sparse.write_bytes(gzip.compress(nib.Nifti1Image(values, np.eye(4)).to_bytes()))
    values[:] = np.random.default_rng(0).integers(-1000, 1000, values.shape)
    dense.write_bytes(gzip.compress(nib.Nifti1Image(values, np.eye(4)).to_bytes()))
    assert read_header(sparse).shape == read_header(dense).shape == values.shape
    monkeypatch.setattr(streams.check_claim, "__defaults__", (values.nbytes,))
    assert read_header(dense).shape == values.shape
    with pytest.raises(Refusal, match="TOO_EMPTY"):
        read_header(sparse)


@pytest.mark.parametrize(("columns", "rows"), [(20_000, 3), (16_000, 16_000), (2**31 - 1, 2**31 - 1)])
def test_a_picture_that_claims_too_much_is_refused(tmp_path, columns, rows):
    head = b"IHDR" + struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    data = b"IDAT" + zlib.compress(bytes(100))
    (tmp_path / "a.png").write_bytes(start + struct.pack(">I", len(data) - 4) + data + bytes(4))
    with pytest.raises(Refusal, match="TOO_LARGE"):
        read_header(tmp_path / "a.png")


def test_a_compressed_dicom_that_is_huge_and_empty_is_not_decoded(monkeypatch, tmp_path, write_dicom):
    from medssl.archive import pixels

    path = write_dicom(tmp_path / "a.dcm", np.zeros((400, 400), np.uint16), "DX", compress="1.2.840.10008.1.2.4.80")
    assert pixels.stored(pixels.read_dataset(path), "a.dcm").shape == (400, 400)
    monkeypatch.setattr(pixels, "SPARSE_BYTES", 300_000)
    with pytest.raises(Refusal, match="TOO_EMPTY"):
        pixels.stored(pixels.read_dataset(path), "a.dcm")
