"""Where a NIfTI volume is: nibabel is the oracle for every way in which its header can say so."""

from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.archive import Refusal, open_volume
from medssl.archive.finding import find_files
from medssl.archive.headers import read_header
from medssl.archive.series import assemble
from medssl.errors import UserError
from medssl.volume import Volume

SHAPE = (4, 5, 6)


def turned(degrees, spacing=(0.7, 1.3, 2.1), mirror=1):
    """An oblique affine, rotated about two axes."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    affine = np.eye(4)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine[:3, :3] = rotation @ np.diag(spacing) @ np.diag([mirror, 1, 1])
    affine[:3, 3] = 12, -340, 56
    return affine


def code(path):
    with pytest.raises(Refusal) as refusal:
        open_volume(path)
    return refusal.value.code


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (1, 1), (2, 4)])
@pytest.mark.parametrize("affine", [turned(0), turned(20), turned(179.9), turned(-75, mirror=-1)])
def test_sform_qform_or_both(tmp_path, codes, affine):
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), affine)
    image.set_sform(affine, codes[0])
    image.set_qform(affine, codes[1])
    nib.save(image, tmp_path / "a.nii")
    volume = open_volume(tmp_path / "a.nii")
    assert np.allclose(volume.affine, nib.load(tmp_path / "a.nii").affine)
    assert np.allclose(volume.affine, affine, atol=1e-2)
    assert volume.oriented


@pytest.mark.parametrize("far", [0.0, -400.0])
def test_a_small_difference_of_spacing_is_a_conflict_however_far_the_origin(tmp_path, far):
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4))
    sform, qform = np.diag([0.5, 0.5, 0.5, 1]), np.diag([0.6, 0.5, 0.5, 1])
    sform[:3, 3] = qform[:3, 3] = far
    image.set_sform(sform, 1)
    image.set_qform(qform, 1)
    nib.save(image, tmp_path / "a.nii")
    assert code(tmp_path / "a.nii") == "XFORM_CONFLICT"


def test_big_endian_and_flat_files(tmp_path):
    values = np.arange(120, dtype=">i2").reshape(SHAPE)
    image = nib.Nifti1Image(values, turned(20), header=nib.Nifti1Header(endianness=">"))
    nib.save(image, tmp_path / "a.nii.gz")
    assert nib.load(tmp_path / "a.nii.gz").header.endianness == ">"
    volume = open_volume(tmp_path / "a.nii.gz")
    assert np.array_equal(volume.voxels[0], values)
    assert np.allclose(volume.affine, turned(20))
    nib.save(nib.Nifti1Image(np.ones((4, 5), np.uint8), np.eye(4)), tmp_path / "flat.nii")
    flat = open_volume(tmp_path / "flat.nii")
    assert (flat.shape, flat.oriented) == ((4, 5, 1), False)


@pytest.mark.parametrize(("unit", "factor"), [("unknown", 1), ("meter", 1000), ("mm", 1), ("micron", 0.001)])
@pytest.mark.parametrize("code_", [0, 1])
def test_units_of_length(tmp_path, unit, factor, code_):
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), None if code_ == 0 else np.diag([2.0, 3, 4, 1]))
    image.header.set_zooms((2, 3, 4))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    volume = open_volume(tmp_path / "a.nii")
    assert volume.spacing == pytest.approx((2 * factor, 3 * factor, 4 * factor))
    assert volume.oriented is bool(code_)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=7))
def test_any_number_of_axes_is_a_volume_or_ndim(tmp_path_factory, shape):
    path = tmp_path_factory.mktemp("n") / "a.nii"
    nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), path)
    real = len(nib.load(path).shape)
    while real > 3 and nib.load(path).shape[real - 1] == 1:
        real -= 1
    if real in (2, 3):
        assert open_volume(path).shape == (*shape, 1, 1)[:3]
    else:
        assert code(path) == "NDIM"


def library_files():
    pydicom, nibabel = (Path(find_spec(name).origin).parent for name in ("pydicom", "nibabel"))
    folders = pydicom / "data" / "test_files", nibabel / "tests" / "data", nibabel / "nicom" / "tests" / "data"
    return [path for folder in folders for path in find_files(folder).files]


@pytest.mark.slow
def test_every_file_of_the_libraries_opens_or_is_refused():
    ends = {"volume": 0, "refused": 0}
    for path in library_files():
        try:
            assert isinstance(open_volume(path), Volume)
            ends["volume"] += 1
        except (Refusal, UserError):
            ends["refused"] += 1
    assert min(ends.values()) > 3


def test_a_twin_beside_it_is_never_read_instead(tmp_path):
    """Some readers open x.nii when they are asked for x.nii.gz."""
    for name, value in ("x.nii", 1), ("x.nii.gz", 99):
        nib.save(nib.Nifti1Image(np.full((4, 5, 6), value, np.int16), np.eye(4)), tmp_path / name)
    assert (open_volume(tmp_path / "x.nii").voxels == 1).all()
    assert (open_volume(tmp_path / "x.nii.gz").voxels == 99).all()


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.5, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("intercept", [0.0, 5.0, -1024.0])
def test_scaling_is_nibabels(tmp_path, slope, intercept):
    """A slope of 0 or none means no scaling, and the intercept then counts for nothing."""
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    content = bytearray(image.to_bytes())
    content[112:120] = np.array([slope, intercept], "<f4").tobytes()
    (tmp_path / "x.nii").write_bytes(content)
    plain = np.arange(24).reshape(2, 3, 4)
    expected = plain if slope == 0 or not np.isfinite(slope) else plain * slope + intercept
    assert np.array_equal(open_volume(tmp_path / "x.nii").voxels[0], expected)


def test_a_volume_that_is_nowhere_is_kept_with_a_warning(tmp_path):

    header = nib.Nifti1Header()
    header.set_data_shape((4, 5, 6))
    header.set_zooms((1.0, 2.0, 3.0))
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.int16), None, header), tmp_path / "x.nii")
    (stack,) = assemble([read_header(tmp_path / "x.nii")])
    assert (stack.status, stack.reason, stack.oriented) == ("warn", "XFORM_UNKNOWN", False)
    assert open_volume(tmp_path / "x.nii").spacing == pytest.approx((1, 2, 3))


@pytest.mark.parametrize("edge", [0.0, -2.0, float("nan"), float("inf")])
def test_voxel_edges_that_cannot_be_are_not_mended(tmp_path, edge):
    content = bytearray(nib.Nifti1Image(np.ones((4, 5, 6), np.int16), None).to_bytes())
    content[252:256] = bytes(4)
    content[84:88] = np.array([edge], "<f4").tobytes()
    (tmp_path / "x.nii").write_bytes(content)
    with pytest.raises(Refusal, match="BAD_GEOMETRY"):
        open_volume(tmp_path / "x.nii")


@pytest.mark.parametrize(("edge", "sound"), [(0.01, False), (0.05, True), (20.0, True), (500.0, False)])
def test_a_unit_that_is_not_named_is_millimetres_within_reason(tmp_path, edge, sound):
    header = nib.Nifti1Header()
    header.set_xyzt_units("unknown")
    image = nib.Nifti1Image(np.ones((4, 5, 6), np.int16), np.diag([edge, 1, 1, 1]), header)
    image.header.set_xyzt_units("unknown")
    nib.save(image, tmp_path / "x.nii")
    if sound:
        assert open_volume(tmp_path / "x.nii").spacing[0] == pytest.approx(edge)
    else:
        with pytest.raises(Refusal, match="BAD_GEOMETRY"):
            open_volume(tmp_path / "x.nii")


def test_a_pattern_stays_below_the_folder(tmp_path):
    for name in ("in/a.nii", "out/b.nii"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
    assert [path.name for path in find_files(tmp_path / "in", "*/*.nii").files] == []
    assert [path.name for path in find_files(tmp_path / "in", "**/*.nii").files] == ["a.nii"]
    with pytest.raises(UserError, match="leaves the folder"):
        find_files(tmp_path / "in", "../out/*.nii")
