"""The same voxel at the same millimetre from file to store, by every reader we can ask."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medssl.archive import open_volume
from medssl.store import Preparation
from medssl.store.case import Case, prepare_case
from medssl.store.shards import read_array
from medssl.volume import Volume

ORIENTATIONS = ["".join(letters) for order in permutations(("RL", "AP", "SI")) for letters in product(*order)]
DIRECTIONS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
SHAPE = (12, 14, 16)
FLOAT32 = 1e-3
"""Millimetres that NIfTI's 32-bit header may move a voxel a few hundred millimetres from the origin."""

spacings = st.tuples(*[st.floats(0.3, 5.0)] * 3)
origins = st.tuples(*[st.floats(-300, 300)] * 3)
each = settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
with_each_orientation = pytest.mark.parametrize("codes", ORIENTATIONS)


def affine_of(codes, spacing, origin):
    affine = np.eye(4)
    affine[:3, :3] = np.array([DIRECTIONS[code] for code in codes]).T * spacing
    affine[:3, 3] = origin
    return affine


def noise():
    return np.random.default_rng(0).integers(1, 1000, SHAPE).astype(np.int16)


def write_nifti(path, voxels, affine):
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nib.save(image, path)
    return path


def to_ras(point):
    return np.array(point) * (-1, -1, 1)


@with_each_orientation
@each
@given(spacing=spacings, origin=origins)
def test_nifti_by_nibabel(tmp_path, codes, spacing, origin):
    path = write_nifti(tmp_path / "scan.nii.gz", noise(), affine_of(codes, spacing, origin))
    volume, oracle = open_volume(path, modality="MR"), nib.load(path)
    assert volume.orientation == codes
    assert np.array_equal(volume.voxels[0], np.asanyarray(oracle.dataobj))
    assert np.allclose(volume.affine, oracle.affine, atol=1e-6)
    turned = volume.reorient("LIP").flip(1).pad((1, 2, 0), (0, 0, 3)).crop((1, 0, 0), (5, 9, 7))
    again = write_nifti(tmp_path / "turned.nii.gz", turned.voxels[0], turned.affine)
    found = nib.load(again)
    values = np.asanyarray(found.dataobj)
    for index in (0, 0, 0), (3, 5, 6), (1, 3, 4):
        place = Volume(values[None], found.affine).world(index)
        there = np.linalg.solve(oracle.affine, [*place, 1])[:3]
        nearest = np.round(there).astype(int)
        assert np.allclose(there, nearest, atol=1e-2)
        if ((nearest >= 0) & (nearest < SHAPE)).all():
            assert values[index] == oracle.dataobj[tuple(nearest)]


@with_each_orientation
@each
@given(spacing=spacings, origin=origins, index=st.tuples(*[st.integers(0, n - 1) for n in SHAPE]))
def test_nifti_by_simpleitk(tmp_path, codes, spacing, origin, index):
    path = write_nifti(tmp_path / "scan.nii", noise(), affine_of(codes, spacing, origin))
    volume, oracle = open_volume(path, modality="MR"), sitk.ReadImage(str(path))
    assert oracle.GetSize() == volume.shape
    assert oracle.GetPixel(*index) == volume.voxels[0][index]
    assert np.allclose(to_ras(oracle.TransformIndexToPhysicalPoint(index)), volume.world(index), atol=FLOAT32)


@pytest.mark.parametrize("ending", ["mha", "nrrd"])
@pytest.mark.parametrize("codes", ORIENTATIONS[::5])
def test_what_simpleitk_writes_is_read_at_its_place(tmp_path, codes, ending):
    affine = affine_of(codes, (0.7, 1.1, 3.0), (-12.5, 40, 220))
    lps = np.diag([-1, -1, 1]) @ affine[:3]
    image = sitk.GetImageFromArray(np.ascontiguousarray(noise().T))
    image.SetSpacing((0.7, 1.1, 3.0))
    image.SetOrigin(lps[:, 3].tolist())
    image.SetDirection((lps[:, :3] / (0.7, 1.1, 3.0)).ravel().tolist())
    path = tmp_path / f"scan.{ending}"
    sitk.WriteImage(image, str(path))
    volume = open_volume(path, modality="MR")
    assert volume.orientation == codes
    for index in (0, 0, 0), (11, 13, 15), (3, 9, 2):
        assert volume.voxels[0][index] == image.GetPixel(*index)
        assert np.allclose(volume.world(index), to_ras(image.TransformIndexToPhysicalPoint(index)), atol=1e-6)


@with_each_orientation
@settings(each, max_examples=1)
@given(spacing=st.tuples(*[st.floats(0.6, 3.0)] * 3), origin=origins, to=st.sampled_from(ORIENTATIONS))
def test_a_landmark_from_file_to_store(tmp_path, codes, spacing, origin, to):
    """A ball in the image and its label map, both through read, reorient, resample, normalise, write and read again."""
    affine = affine_of(codes, spacing, origin)
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    world = Volume(np.empty((1, *SHAPE)), affine).world
    centre = world((5.5, 7.0, 8.3))
    inside = np.linalg.norm(world(grid) - centre, axis=-1) < 2.6 * max(spacing)
    image = write_nifti(tmp_path / "scan.nii.gz", (1000 * inside + noise() // 50).astype(np.int16), affine)
    mask = write_nifti(tmp_path / "mask.nii.gz", inside.astype(np.uint8), affine)
    new = (1.0, 1.3, 0.9)
    case = Case(
        volume_id="v",
        modality="MR",
        shape=SHAPE,
        spacing=spacing,
        sources=(image,),
        checksums=(None,),
        mask=mask,
        settings=Preparation(mr_spacing=new, mr_orientation=to),
        preparation_hash="h",
        folder=tmp_path / "store" / "v",
    )
    row = prepare_case(case)
    assert (row["prepared_status"], row["has_mask"]) == ("ok", True)
    where = Volume(np.empty((1, *row["prepared_shape"])), np.reshape(row["prepared_affine"], (4, 4)))
    assert where.orientation == to
    before = world(np.argwhere(inside)).mean(0)
    bright = read_array(case.folder / "image").astype(np.float32)[0]
    for found in (bright > (bright.min() + bright.max()) / 2, read_array(case.folder / "mask")[0] == 1):
        gap = (where.world(np.argwhere(found)).mean(0) - before) @ (where.affine[:3, :3] / new)
        assert (np.abs(gap) <= np.array(new) / 2).all()
