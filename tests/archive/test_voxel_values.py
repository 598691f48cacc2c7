"""What single files hold: every byte of a gzip counts, wide numbers are kept or told, and SimpleITK is the oracle."""

import gzip

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medssl.archive import Refusal, open_volume
from medssl.archive.headers import read_header

SHAPE = (4, 5, 6)
AFFINE = np.array([[0.0, -1.5, 0, 3], [1, 0, 0, -4], [0, 0, 2.5, 5], [0, 0, 0, 1]])


def code(path):
    with pytest.raises(Refusal) as refusal:
        open_volume(path)
    with pytest.raises(Refusal) as again:
        read_header(path)
    assert again.value.code == refusal.value.code
    return refusal.value.code


@pytest.fixture
def values():
    return np.random.default_rng(5).integers(-1000, 3000, SHAPE).astype(np.int16)


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_nifti_2_is_what_nibabel_wrote(tmp_path, values, ending, endian):
    path = tmp_path / f"a.{ending}"
    nib.save(nib.Nifti2Image(values, AFFINE, nib.Nifti2Header(endianness=endian)), path)
    raw = path.read_bytes() if ending == "nii" else gzip.decompress(path.read_bytes())
    assert int.from_bytes(raw[:4], {"<": "little", ">": "big"}[endian]) == 540
    volume, header = open_volume(path), read_header(path)
    assert np.array_equal(volume.voxels[0], values)
    assert np.allclose(volume.affine, AFFINE)
    assert (header.shape, header.kind) == (SHAPE, "nifti")
    path.write_bytes(path.read_bytes()[:-40])
    assert code(path) == ("FILE_TRUNCATED" if ending == "nii" else "GZIP_DAMAGED")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("dim", [3, 30_000, 30_000, 30_000, 1, 1, 1, 1], "TOO_LARGE"),
        ("dim", [3, 2**62, 2**62, 4, 1, 1, 1, 1], "TOO_LARGE"),
        ("dim", [4, 2, 5, 6, 2, 1, 1, 1], "NDIM"),
        ("magic", b"ni2\0", "PAIRED_HEADER"),
        ("vox_offset", 100, "BAD_GEOMETRY"),
        ("pixdim", [1, 0, 1, 1, 1, 1, 1, 1], "BAD_GEOMETRY"),
    ],
)
def test_a_forged_nifti_2_is_refused_as_a_nifti_1_is(tmp_path, values, name, value, reason):
    image = nib.Nifti2Image(values, AFFINE)
    image.set_sform(None, 0)
    content = bytearray(image.to_bytes())
    kind, place = image.header.structarr.dtype.fields[name][:2]
    forged = np.array(value, kind.base).tobytes()
    content[place : place + len(forged)] = forged
    (tmp_path / "a.nii").write_bytes(content)
    assert code(tmp_path / "a.nii") == reason


def members(content, count):
    """`content` in about `count` gzip members, and the length of the first."""
    size = -(-len(content) // count)
    packed = [gzip.compress(content[at : at + size]) for at in range(0, len(content), size)]
    return b"".join(packed), len(packed[0])


@pytest.mark.parametrize("count", [2, 3, 7])
def test_members_of_a_gzip_are_one_file_and_each_is_verified(tmp_path, values, count):
    path = tmp_path / "a.nii.gz"
    content = nib.Nifti1Image(values, AFFINE).to_bytes()
    packed, first = members(content, count)
    assert gzip.decompress(packed) == content
    path.write_bytes(packed)
    assert np.array_equal(open_volume(path).voxels[0], values)
    damaged = bytearray(packed)
    damaged[first - 8] ^= 1  # in the checksum
    path.write_bytes(damaged)
    assert code(path) == "GZIP_DAMAGED"
    path.write_bytes(packed + bytes(512))  # a tape or disk block is filled up with zeros
    assert np.array_equal(open_volume(path).voxels[0], values)
    for rest in (b"x", bytes(512) + b"not a member", b"\x1f"):
        path.write_bytes(packed + rest)
        assert code(path) == "GZIP_DAMAGED"


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize(
    ("rest", "sound"), [(bytes(1000), True), (bytes(1 << 20), True), (bytes(1 << 22), False), (bytes(9) + b"x", False)]
)
def test_only_a_little_padding_may_follow_the_voxels(tmp_path, values, ending, rest, sound):
    content = nib.Nifti1Image(values, AFFINE).to_bytes() + rest
    path = tmp_path / f"a.{ending}"
    path.write_bytes(content if ending == "nii" else gzip.compress(content))
    if sound:
        assert np.array_equal(open_volume(path).voxels[0], values)
    else:
        assert code(path) == "TRAILING_BYTES"


def test_a_series_that_claims_to_be_one_volume_is_refused(tmp_path, values):
    content = bytearray(nib.Nifti1Image(np.stack([values, values + 1], axis=3), AFFINE).to_bytes())
    content[40:42] = np.array([3], "<i2").tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    assert code(tmp_path / "a.nii") == "TRAILING_BYTES"


WIDE = [
    (np.int64, [-(2**31), 7, 2**31 - 1], np.int32, ""),
    (np.int64, [-(2**31) - 1, 7, 8], None, "VALUES_OUT_OF_RANGE"),
    (np.uint64, [0, 7, 2**31 - 1], np.int32, ""),
    (np.uint64, [0, 7, 2**63], None, "VALUES_OUT_OF_RANGE"),
    (np.float64, [-1e38, 0.1, 3e38], np.float32, ""),
    (np.float64, [-1e39, 0.1, 1.0], None, "VALUES_OUT_OF_RANGE"),
    (np.float64, [np.nan, 0.1, np.inf], np.float32, ""),
    (np.float64, [np.nan, np.nan, np.inf], None, "NOT_FINITE"),
    (np.float32, [np.nan, np.inf, -np.inf], None, "NOT_FINITE"),
    (np.float32, [np.nan, 3.0, -np.inf], np.float32, ""),
    (np.uint32, [0, 7, 2**32 - 1], np.uint32, ""),
]


@pytest.mark.parametrize("ending", ["nii", "nii.gz", "mha", "nrrd", "npz"])
@pytest.mark.parametrize(("kind", "some", "becomes", "reason"), WIDE)
def test_wide_and_missing_numbers_are_kept_or_told(tmp_path, ending, kind, some, becomes, reason):
    path = tmp_path / f"a.{ending}"
    values = np.resize(np.array(some, kind), SHAPE)
    if ending.startswith("nii"):
        nib.save(nib.Nifti1Image(values, AFFINE, dtype=kind), path)
    elif ending == "npz":
        np.savez_compressed(path, oct_bscans=values.transpose(1, 2, 0))
    else:
        sitk.WriteImage(sitk.GetImageFromArray(values.T), str(path), True)
    if reason:
        assert code(path) == reason
    else:
        found = open_volume(path).voxels[0]
        assert found.dtype == becomes
        assert np.array_equal(found, values.astype(becomes), equal_nan=kind in (np.float32, np.float64))


@pytest.mark.parametrize(("slope", "reason"), [(1e38, "VALUES_OUT_OF_RANGE"), (1e30, "")])
def test_a_slope_cannot_push_values_beyond_what_is_kept(tmp_path, values, slope, reason):
    content = bytearray(nib.Nifti1Image(values, AFFINE).to_bytes())
    content[112:120] = np.array([slope, 0], "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    if reason:
        assert code(tmp_path / "a.nii") == reason
    else:
        found = open_volume(tmp_path / "a.nii").voxels[0]
        assert np.allclose(found, np.asarray(nib.load(tmp_path / "a.nii").dataobj), rtol=1e-6)
        assert found.dtype == np.float32


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", ["mha", "nrrd"])
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "f4"])
def test_itk_voxels_are_simpleitks(tmp_path, ending, kind, packed):
    path = tmp_path / f"a.{ending}"
    values = np.frombuffer(np.random.default_rng(1).bytes(120 * np.dtype(kind).itemsize), kind).reshape(SHAPE)
    values = np.nan_to_num(values, nan=1.0)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path), packed)
    oracle = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    found = open_volume(path).voxels[0]
    assert found.dtype == oracle.dtype
    assert np.array_equal(found, oracle.T)


@pytest.mark.parametrize("flag", ["True", "T", "1", "False", "0", "nrrd"])
def test_the_byte_order_of_itk_voxels_is_simpleitks(tmp_path, flag):
    """MetaImage looks at the first letter of a flag."""
    values = np.arange(24, dtype=">i2" if flag in ("True", "T", "1", "nrrd") else "<i2").tobytes()
    path = tmp_path / ("a.nrrd" if flag == "nrrd" else "a.mha")
    start = (
        b"NRRD0004\ntype: short\ndimension: 3\nsizes: 2 3 4\nspace: left-posterior-superior\nendian: big\n"
        b"space directions: (1,0,0) (0,1,0) (0,0,1)\nencoding: raw\nspace origin: (0,0,0)\n\n"
        if flag == "nrrd"
        else b"ObjectType = Image\nNDims = 3\nBinaryData = 1\nBinaryDataByteOrderMSB = %s\nDimSize = 2 3 4\n"
        b"ElementType = MET_SHORT\nElementDataFile = LOCAL\n" % flag.encode()
    )
    path.write_bytes(start + values)
    assert np.array_equal(open_volume(path).voxels[0], sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T)
    assert open_volume(path).voxels[0, 1, 2, 3] == 23


@pytest.mark.parametrize("ending", ["mha", "nrrd"])
def test_flipped_bits_among_packed_itk_voxels_never_pass(tmp_path, values, ending):
    """SimpleITK hands them on; the checksum of the stream knows better."""
    path = tmp_path / f"a.{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path), True)
    content = path.read_bytes()
    for place in range(len(content) - 150, len(content) - 8, 7):
        damaged = bytearray(content)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        assert code(path) in {"GZIP_DAMAGED", "FILE_TRUNCATED", "TRAILING_BYTES"}


@pytest.mark.parametrize(
    "line", ["HeaderSize = 7", "BinaryData = False", "HeaderSize = -1"], ids=["offset", "text", "at the end"]
)
def test_an_mha_that_is_written_in_another_way_is_refused(tmp_path, line):
    (tmp_path / "a.mha").write_bytes(b"ObjectType = Image\nNDims = 3\n%s\nDimSize = 2 2 2\nElementType = MET_UCHAR\n"
                                     b"ElementDataFile = LOCAL\n" % line.encode() + bytes(8))  # fmt: skip
    assert code(tmp_path / "a.mha") == "UNREADABLE"


def test_an_itk_image_without_extent_in_space_is_refused(tmp_path):
    start = (b"ObjectType = Image\nNDims = 3\nBinaryData = True\nTransformMatrix = 1 0 0 0 0 0 0 0 1\nDimSize = 2 2 2\n"
             b"ElementType = MET_UCHAR\nElementDataFile = LOCAL\n")  # fmt: skip
    (tmp_path / "a.mha").write_bytes(start + bytes(8))
    assert code(tmp_path / "a.mha") in {"BAD_GEOMETRY", "UNREADABLE"}
