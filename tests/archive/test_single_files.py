"""Volumes in files of their own, against the libraries that wrote them; damage is found before memory is taken."""

import contextlib
import gzip
import pickle
import re
import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from skimage.io import imsave

import medssl.archive
from medssl.archive import REASONS, Refusal, open_volume
from medssl.archive.headers import Header, read_header

AFFINES = [
    np.diag([1.0, 2, 3, 1]),
    np.array([[0, -2.0, 0, 5], [1, 0, 0, 6], [0, 0, 3, -7], [0, 0, 0, 1]]),
    np.diag([-1.0, -1, 4, 1]),
]


def code(path, **options):
    with pytest.raises(Refusal) as refusal:
        open_volume(path, **options)
    assert str(refusal.value).startswith(path.name)
    return refusal.value.code


@pytest.fixture
def nifti(tmp_path):
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.arange(120, dtype=np.int16).reshape(4, 5, 6), AFFINES[0]), path)
    return path


@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_nifti_is_what_nibabel_wrote(tmp_path, affine, ending):
    path = tmp_path / f"a.{ending}"
    values = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, affine), path)
    volume = open_volume(path, modality="MR")
    assert np.array_equal(volume.voxels[0], values)
    assert np.allclose(volume.affine, affine)
    assert volume.modality == "MR"


def test_nifti_slopes_units_and_trailing_axes(tmp_path):
    image = nib.Nifti1Image(np.ones((3, 4, 5, 1), np.int16), np.diag([1000.0, 1000, 2000, 1]))
    image.header.set_slope_inter(2.0, 7.0)
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "a.nii")
    volume = open_volume(tmp_path / "a.nii")
    assert volume.shape == (3, 4, 5)
    assert volume.spacing == pytest.approx((1, 1, 2))
    assert np.allclose(volume.voxels, np.asarray(nib.load(tmp_path / "a.nii").dataobj)[None, ..., 0])


def test_nifti_affines_that_disagree_or_are_not_there(tmp_path):
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4))
    image.set_qform(np.diag([2.0, 2, 2, 1]), 1)
    image.set_sform(np.eye(4), 1)
    nib.save(image, tmp_path / "a.nii")
    assert code(tmp_path / "a.nii") == "XFORM_CONFLICT"
    nowhere = nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), None)
    nowhere.header.set_zooms((1, 2, 3))
    nib.save(nowhere, tmp_path / "b.nii")
    volume = open_volume(tmp_path / "b.nii")
    assert not volume.oriented
    assert volume.spacing == (1, 2, 3)


def test_four_dimensions_need_a_decision(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5, 6), np.int16), np.eye(4)), tmp_path / "a.nii.gz")
    assert code(tmp_path / "a.nii.gz") == "NDIM"


@pytest.mark.parametrize("share", [0.2, 0.6, 0.99])
def test_a_short_nifti_is_refused(nifti, tmp_path, share):
    content = nifti.read_bytes()
    nifti.write_bytes(content[: int(share * len(content))])
    assert code(nifti) in {"GZIP_DAMAGED", "UNREADABLE"}
    plain = tmp_path / "b.nii"
    plain.write_bytes(gzip.decompress(content)[: int(share * 592)])
    assert code(plain) in {"FILE_TRUNCATED", "UNREADABLE"}


def test_flipped_bits_in_a_gzip_never_pass(nifti):
    content, truth = nifti.read_bytes(), open_volume(nifti).voxels
    rng = np.random.default_rng(1)
    for _ in range(150):
        place, bit = rng.integers(10, len(content)), rng.integers(8)
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        nifti.write_bytes(bytes(damaged))
        with contextlib.suppress(Refusal):
            assert np.array_equal(open_volume(nifti).voxels, truth)


def test_a_header_that_claims_too_much_is_refused_before_memory_is_taken(tmp_path):
    header = bytearray(nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)).to_bytes()[:352])
    header[42:48] = np.array([30_000, 30_000, 30_000], "<i2").tobytes()
    (tmp_path / "a.nii").write_bytes(bytes(header))
    assert code(tmp_path / "a.nii") == "TOO_LARGE"
    header[42:48] = np.array([-4, 2, 2], "<i2").tobytes()
    (tmp_path / "b.nii").write_bytes(bytes(header))
    assert code(tmp_path / "b.nii") == "BAD_GEOMETRY"


@pytest.mark.parametrize("ending", ["mha", "nrrd"])
def test_itk_files_are_what_simpleitk_wrote(tmp_path, ending):
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32))
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((10.0, -20.0, 30.0))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / f"a.{ending}"))
    volume = open_volume(tmp_path / f"a.{ending}")
    for index in [(0, 0, 0), (3, 4, 5), (1, 2, 3)]:
        lps = image.TransformIndexToPhysicalPoint(index)
        assert volume.world(index) == pytest.approx((-lps[0], -lps[1], lps[2]))
        assert volume.voxels[(0, *index)] == image[index]


def test_headers_that_point_to_other_files_are_refused(tmp_path):
    (tmp_path / "a.mha").write_text("ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementDataFile = /etc/passwd\n")
    assert code(tmp_path / "a.mha") == "PAIRED_HEADER"
    (tmp_path / "a.mhd").write_text("ElementDataFile = a.raw\n")
    with pytest.raises(Refusal) as refusal:
        read_header(tmp_path / "a.mhd")
    assert refusal.value.code == "PAIRED_HEADER"


def test_npz_axes_and_assumed_field(tmp_path):
    scans = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)  # (B-scan, depth, A-scan)
    np.savez_compressed(tmp_path / "a.npz", oct_bscans=scans, race=1)
    volume = open_volume(tmp_path / "a.npz")
    assert volume.shape == (6, 4, 5)
    assert volume.voxels[0, 3, 2, 1] == scans[2, 1, 3]
    assert volume.spacing == pytest.approx((1.0, 1.5, 0.4))
    assert (volume.spacing_source, volume.oriented, volume.modality) == ("nominal", False, "OPT")


def test_npz_that_could_run_code_or_holds_something_else(tmp_path):
    np.savez(tmp_path / "a.npz", oct_bscans=np.array([{"a": 1}], dtype=object))
    assert code(tmp_path / "a.npz") == "NPZ_PICKLE"
    np.savez(tmp_path / "b.npz", other=np.zeros((2, 2, 2)))
    assert code(tmp_path / "b.npz") == "NPZ_LAYOUT"
    np.savez(tmp_path / "c.npz", oct_bscans=np.zeros((0, 2, 2)))
    assert code(tmp_path / "c.npz") == "NPZ_LAYOUT"
    (tmp_path / "b.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:100])
    assert code(tmp_path / "b.npz") == "FILE_TRUNCATED"


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_pictures_keep_their_depth(tmp_path, kind):
    picture = np.linspace(0, np.iinfo(kind).max, 20).reshape(4, 5).astype(kind)
    imsave(tmp_path / "a.png", picture, check_contrast=False)
    volume = open_volume(tmp_path / "a.png", modality="DX")
    assert np.array_equal(volume.voxels[0, :, :, 0].T, picture)
    assert (volume.modality, volume.spacing_source) == ("DX", "unknown")


def test_grey_in_three_channels_is_grey_and_colour_is_refused(tmp_path):
    grey = np.repeat(np.arange(20, dtype=np.uint8).reshape(4, 5, 1), 3, axis=2)
    imsave(tmp_path / "a.png", grey, check_contrast=False)
    assert open_volume(tmp_path / "a.png").shape == (5, 4, 1)
    grey[0, 0, 0] = 200
    imsave(tmp_path / "b.png", grey, check_contrast=False)
    assert code(tmp_path / "b.png") == "COLOR_IMAGE"
    assert code(tmp_path / "b.png", modality="DX") == "COLOR_IMAGE"
    (tmp_path / "c.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    assert code(tmp_path / "c.jpg") == "UNREADABLE"


def test_a_fundus_photograph_keeps_its_colours(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    imsave(tmp_path / "a.png", colours, check_contrast=False)
    volume = open_volume(tmp_path / "a.png", modality="OP")
    assert (volume.modality, volume.unit, volume.shape) == ("OP", "red, green, blue", (5, 4, 1))
    assert np.array_equal(volume.voxels[..., 0].transpose(2, 1, 0), colours)
    imsave(tmp_path / "grey.png", colours[..., 0], check_contrast=False)
    grey = open_volume(tmp_path / "grey.png", modality="OP")
    assert all(np.array_equal(channel[..., 0].T, colours[..., 0]) for channel in grey.voxels) and grey.channels == 3


def test_every_code_that_is_raised_is_explained_and_refusals_travel():
    used = set()
    for path in Path(medssl.archive.__file__).parent.glob("*.py"):
        used |= set(re.findall(r'(?:Refusal\(|_left_out\([^"\n]*|reason=)"([A-Z_]+)"', path.read_text()))
    assert used <= set(REASONS)
    assert len(used) > 20
    refusal = pickle.loads(pickle.dumps(Refusal("NDIM", "a.nii", "3x4x5x6")))
    assert str(refusal) == f"a.nii: NDIM (3x4x5x6). {REASONS['NDIM']}"


def test_prostate_roles():
    from medssl.archive.bpmri import role_of

    def role(**facts):
        axial = (1.0, 0, 0, 0, 1, 0)
        return role_of([Header(path=Path("x"), size=1, kind="dicom", modality="MR", orientation=axial, **facts)])

    slow = {"echo_time": 100.0, "repetition_time": 4000.0}
    assert role(**slow) == "t2w"
    assert role(**slow, image_type=("DERIVED", "PRIMARY", "DIFFUSION", "ADC"), b_value=800.0) == "adc"
    assert role(**slow, image_type=("ORIGINAL", "PRIMARY", "DIFFUSION", "TRACEW", "ND", "ADC"), b_value=100.0) == "adc"
    assert role(**slow, image_type=("ORIGINAL", "PRIMARY", "DIFFUSION"), b_value=1400.0) == "hbv"
    assert role(**slow, image_type=("ORIGINAL", "PRIMARY", "DIFFUSION"), b_value=50.0) == ""
    assert role(**slow, image_type=("DERIVED", "PRIMARY", "CALC_BVAL")) == "hbv"
    assert role(rescale_type="mm2/s") == "adc"
    assert role(**slow, body_part="BRAIN") == ""
    assert role(echo_time=10.0, repetition_time=500.0) == ""


def test_palettes_and_transparency_are_colour(tmp_path):
    from PIL import Image

    grey = np.array([[200, 10], [90, 0]], np.uint8)
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    clear = np.dstack([grey] * 3 + [np.full_like(grey, 255)])
    Image.fromarray(clear).save(tmp_path / "opaque.png")
    clear[0, 0, 3] = 7
    Image.fromarray(clear).save(tmp_path / "clear.png")
    assert np.array_equal(open_volume(tmp_path / "opaque.png").voxels[0, :, :, 0], grey.T)
    for name in ("palette.png", "clear.png"):
        with pytest.raises(Refusal, match="COLOR_IMAGE"):
            open_volume(tmp_path / name)


@pytest.mark.parametrize(("colours", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_channels_of_16_bits_are_not_read_with_8(tmp_path, colours, channels):
    """Pillow gives such a picture back with the upper half of each value, and says nothing."""
    rows = b"".join(b"\0" + np.full(5 * channels, 1000 + n, ">u2").tobytes() for n in range(4))
    parts = b"IHDR" + struct.pack(">IIBBBBB", 5, 4, 16, colours, 0, 0, 0), b"IDAT" + zlib.compress(rows), b"IEND"
    chunks = [struct.pack(">I", len(p) - 4) + p + struct.pack(">I", zlib.crc32(p)) for p in parts]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    assert code(tmp_path / "a.png") == "COLOR_IMAGE"


def test_a_nrrd_that_names_no_space_is_nowhere(tmp_path):
    image = sitk.GetImageFromArray(np.ones((4, 5, 6), np.int16))
    sitk.WriteImage(image, str(tmp_path / "x.nrrd"))
    assert open_volume(tmp_path / "x.nrrd").oriented
    content = (tmp_path / "x.nrrd").read_bytes()
    (tmp_path / "x.nrrd").write_bytes(content.replace(b"space: left-posterior-superior", b"space dimension: 3"))
    assert not open_volume(tmp_path / "x.nrrd").oriented


def test_an_array_is_looked_at_before_it_is_loaded(tmp_path):
    import tracemalloc

    np.savez_compressed(tmp_path / "x.npz", oct_bscans=np.zeros(50_000_000, np.uint8))
    tracemalloc.start()
    with pytest.raises(Refusal, match="NPZ_LAYOUT"):
        open_volume(tmp_path / "x.npz")
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_itk_bytes_count_not_voxels(tmp_path):
    """Doubles that claim more than the file could unpack to."""
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 9, (30, 30, 30)).astype(np.float64))
    sitk.WriteImage(image, str(tmp_path / "x.nrrd"), True)
    content = (tmp_path / "x.nrrd").read_bytes()
    n = int((len(content) * 1100 / 4) ** (1 / 3))
    (tmp_path / "x.nrrd").write_bytes(content.replace(b"sizes: 30 30 30", b"sizes: %d %d %d" % (n, n, n)))
    with pytest.raises(Refusal, match="TOO_LARGE"):
        open_volume(tmp_path / "x.nrrd")
