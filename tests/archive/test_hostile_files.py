"""Files that lie, are cut short or point elsewhere: each ends in a Refusal with a reason, fast and without memory."""

import contextlib
import gzip
import io
import time
import tracemalloc
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from skimage.io import imsave

from medssl.archive import Refusal, open_volume
from medssl.archive.headers import read_header

SHAPE = (7, 8, 9)


def code(path):
    with pytest.raises(Refusal) as refusal:
        open_volume(path)
    with pytest.raises(Refusal) as again:
        read_header(path)
    assert again.value.code == refusal.value.code
    return refusal.value.code


@pytest.fixture
def values():
    return np.random.default_rng(5).integers(0, 3000, SHAPE).astype(np.int16)


@pytest.fixture
def files(tmp_path, values):
    """One good file of every kind that is read by a reader of its own."""
    folder = tmp_path / "good"
    folder.mkdir()
    for ending in ("nii", "nii.gz"):
        nib.save(nib.Nifti1Image(values, np.eye(4)), folder / f"a.{ending}")
    for ending in ("mha", "nrrd"):
        sitk.WriteImage(sitk.GetImageFromArray(values), str(folder / f"a.{ending}"))
        sitk.WriteImage(sitk.GetImageFromArray(values), str(folder / f"packed.{ending}"), True)
    np.savez_compressed(folder / "a.npz", oct_bscans=values)
    imsave(folder / "a.png", values[0].astype(np.uint16), check_contrast=False)
    imsave(folder / "a.jpg", values[0].astype(np.uint8), check_contrast=False)
    return sorted(folder.iterdir())


def test_every_good_file_is_read(files):
    for path in files:
        header, volume = read_header(path), open_volume(path)
        assert header.shape == volume.shape
        assert np.reshape(header.affine, (4, 4)) == pytest.approx(volume.affine)
        assert np.isfinite(volume.voxels).all()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.95])
def test_every_file_cut_short_is_refused(files, share):
    for path in files:
        if (path.suffix == ".jpg" and share > 0.5) or (path.suffix == ".png" and share > 0.9):
            continue  # a JPEG has no checksum; a PNG that lost only its end mark has all of its picture
        content = path.read_bytes()
        path.write_bytes(content[: max(1, int(share * len(content)))])
        assert code(path) in {"FILE_TRUNCATED", "GZIP_DAMAGED", "UNREADABLE", "NPZ_LAYOUT", "TOO_LARGE"}, path.name


def test_flipped_bits_end_in_a_volume_or_a_refusal_and_nothing_else(files):
    rng = np.random.default_rng(11)
    for path in files:
        content = path.read_bytes()
        for _ in range(60):
            damaged = bytearray(content)
            damaged[int(rng.integers(min(len(content), 400)))] ^= 1 << int(rng.integers(8))
            path.write_bytes(bytes(damaged))
            with contextlib.suppress(Refusal):
                assert open_volume(path).voxels.size > 0


def test_a_flipped_bit_among_compressed_voxels_is_caught(files):
    for path in files:
        if path.name not in {"a.nii.gz", "a.npz"}:
            continue
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 4
        path.write_bytes(bytes(damaged))
        assert code(path) in {"GZIP_DAMAGED", "FILE_TRUNCATED", "NPZ_LAYOUT"}


def forged(values, **fields):
    """A NIfTI file whose header says what it should not."""
    content = bytearray(nib.Nifti1Image(values, np.eye(4)).to_bytes())
    header = nib.Nifti1Header().structarr.dtype
    for name, value in fields.items():
        kind, place = header.fields[name][:2]
        size = np.array(value).size * kind.base.itemsize
        content[place : place + size] = np.array(value, kind.base).tobytes()
    return bytes(content)


@pytest.mark.parametrize(
    "fields",
    [
        {"dim": [3, 7, 8, 0]},
        {"dim": [0]},
        {"dim": [9]},
        {"bitpix": 0},
        {"datatype": 999},
        {"datatype": 64},
        {"vox_offset": -5.0},
        {"vox_offset": np.nan},
        {"vox_offset": 1e30},
        {"pixdim": [1, np.nan, 1, 1]},
        {"srow_x": [np.inf, 0, 0, 0]},
        {"srow_x": [0, 0, 0, 0], "qform_code": 0},
        {"qform_code": 1, "quatern_b": 5.0},
        {"qform_code": 1, "quatern_b": np.nan},
        {"qform_code": 1, "sform_code": 0, "quatern_b": 5.0},
        {"sizeof_hdr": 540},
        {"sizeof_hdr": 12},
        {"magic": b"xxxx"},
    ],
    ids=lambda fields: "+".join(f"{name}={np.ravel(value).tolist()}" for name, value in fields.items()),
)
def test_a_forged_nifti_is_refused(tmp_path, values, fields):
    content = forged(values, **fields)
    (tmp_path / "a.nii").write_bytes(content)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content))
    for name in ("a.nii", "a.nii.gz"):
        assert code(tmp_path / name)


def test_a_paired_nifti_header_is_refused(tmp_path, values):
    nib.save(nib.Nifti1Pair(values, np.eye(4)), tmp_path / "a.hdr")
    for name in ("a.hdr", "a.img"):
        with pytest.raises(Refusal) as refusal:
            read_header(tmp_path / name)
        assert refusal.value.code == "PAIRED_HEADER"
    (tmp_path / "a.nii").write_bytes((tmp_path / "a.hdr").read_bytes())
    assert code(tmp_path / "a.nii") == "PAIRED_HEADER"


def bomb(path, kind):
    """A small file that claims, or unpacks to, far more than it holds."""
    if kind == "nii.gz":
        content = bytearray(forged(np.zeros((2, 2, 2), np.int16), dim=[3, 30_000, 30_000, 30_000]))
        path.write_bytes(gzip.compress(bytes(content)))
    elif kind == "nii.gz longer":
        path.write_bytes(gzip.compress(forged(np.zeros((2, 2, 2), np.int16)) + bytes(200_000_000)))
    elif kind == "npz":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as members:
            start = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                start, {"descr": "|u1", "fortran_order": False, "shape": (9_000_000, 9_000_000, 1)}
            )
            members.writestr("oct_bscans.npy", start.getvalue() + bytes(100))
    elif kind == "mha":
        path.write_bytes(b"ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 90000 90000 90000\n"
                         b"ElementType = MET_UCHAR\nElementDataFile = LOCAL\n" + bytes(64))  # fmt: skip
    else:
        path.write_bytes(b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 90000 90000 90000\nspace: left-posterior-superior\n"
                         b"space directions: (1,0,0) (0,1,0) (0,0,1)\nkinds: domain domain domain\nencoding: raw\n"
                         b"space origin: (0,0,0)\n\n" + bytes(64))  # fmt: skip


@pytest.mark.parametrize("kind", ["nii.gz", "nii.gz longer", "npz", "mha", "nrrd"])
def test_a_bomb_costs_no_memory_and_no_time(tmp_path, kind):
    path = tmp_path / f"a.{kind.split()[0]}"
    bomb(path, kind)
    read = {"mha": sitk.ImageFileReader, "nrrd": sitk.ImageFileReader}.get(kind)
    assert path.stat().st_size < 500_000
    assert read is None or read()  # SimpleITK is loaded before the clock starts
    tracemalloc.start()
    start = time.perf_counter()
    found = code(path)
    taken, most = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found in {"TOO_LARGE", "TRAILING_BYTES", "NPZ_LAYOUT"}
    assert taken < 5
    assert most < 50e6 or kind == "npz"  # numpy asks for the claimed size, which is counted though never given


@pytest.mark.parametrize(
    ("name", "start"),
    [
        (
            "a.mha",
            "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = secret.raw\n",
        ),
        (
            "b.mha",
            "ObjectType = Image\nNDims = 3\nComment = ElementDataFile = LOCAL\nDimSize = 2 2 2\n"
            "ElementType = MET_UCHAR\nElementDataFile = secret.raw\n",
        ),
        (
            "c.mha",
            f"ObjectType = Image\nNDims = 3\nComment = {'x' * 20_000}\nDimSize = 2 2 2\n"
            "ElementType = MET_UCHAR\nElementDataFile = secret.raw\n",
        ),
        ("d.nrrd", "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nencoding: raw\ndata file: secret.raw\n\n"),
        (
            "e.nrrd",
            "NRRD0004\r\ntype: uchar\r\ndimension: 3\r\nsizes: 2 2 2\r\nencoding: raw\r\ndatafile:secret.raw\r\n\r\n",
        ),
        (
            "f.nrrd",
            f"NRRD0004\n# {'x' * 20_000}\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n"
            "data file: secret.raw\n\n",
        ),
    ],
    ids=["mha", "mha comment", "mha far", "nrrd", "nrrd crlf", "nrrd far"],
)
def test_a_header_cannot_reach_another_file(tmp_path, name, start):
    (tmp_path / "secret.raw").write_bytes(bytes(range(8)))
    (tmp_path / name).write_bytes(start.encode())
    assert code(tmp_path / name) in {"PAIRED_HEADER", "UNREADABLE"}


def test_local_data_may_be_written_without_spaces(tmp_path):
    (tmp_path / "a.mha").write_bytes(b"ObjectType=Image\nNDims=3\nBinaryData=True\nDimSize=2 2 2\n"
                                     b"ElementType=MET_UCHAR\nElementDataFile=LOCAL\n" + bytes(range(8)))  # fmt: skip
    assert open_volume(tmp_path / "a.mha").voxels[0, 1, 1, 1] == 7


def test_an_npz_that_is_locked_or_packed_strangely_is_refused(tmp_path, values):
    np.savez_compressed(tmp_path / "a.npz", oct_bscans=values)
    content = (tmp_path / "a.npz").read_bytes()
    for field in ("encrypted", "method"):
        damaged = bytearray(content)
        for start, shift in (damaged.find(b"PK\1\2"), 8), (0, 6):
            place = start + shift + (2 if field == "method" else 0)
            damaged[place] = damaged[place] | 1 if field == "encrypted" else 97
        (tmp_path / "a.npz").write_bytes(bytes(damaged))
        assert code(tmp_path / "a.npz") in {"NPZ_LAYOUT", "UNREADABLE"}


def test_other_shapes_in_itk_files_are_refused(tmp_path):
    sitk.WriteImage(sitk.Image(4, 5, sitk.sitkUInt8), str(tmp_path / "flat.mha"))
    sitk.WriteImage(sitk.Image([3, 4, 5], sitk.sitkVectorUInt8, 3), str(tmp_path / "vector.nrrd"))
    for name in ("flat.mha", "vector.nrrd"):
        assert code(tmp_path / name) == "NDIM"


@pytest.mark.parametrize("dtype", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]], ids=["complex", "rgb"])
def test_a_nifti_of_other_than_plain_numbers_is_refused(tmp_path, dtype):
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, dtype), np.eye(4)), tmp_path / "a.nii.gz")
    assert code(tmp_path / "a.nii.gz") == "COLOR_IMAGE"


def test_a_broken_picture_is_closed(files):
    """Also when its decoder fails half-way: open files of a million pictures would end the run."""
    import gc

    gc.collect()
    for path in files:
        if path.suffix in {".png", ".jpg"}:
            path.write_bytes(path.read_bytes()[:60])
            before = len(list(Path("/proc/self/fd").iterdir()))
            assert code(path) == "UNREADABLE"
            assert len(list(Path("/proc/self/fd").iterdir())) == before
