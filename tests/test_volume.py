"""The same voxel keeps the same millimetre, whatever is done to the grid."""

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.volume import AIR_HU, Volume

ORIENTATIONS = ["".join(letters) for order in permutations(("RL", "AP", "SI")) for letters in product(*order)]
SHAPE = (7, 9, 11)
DIRECTIONS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}

quick = settings(max_examples=25, deadline=None)
each = settings(max_examples=6, deadline=None)  # 48 times
spacings = st.tuples(*[st.floats(0.2, 6.0)] * 3)
places = st.tuples(*[st.integers(0, n - 1) for n in SHAPE])
origins = st.tuples(*[st.floats(-300, 300)] * 3)


def affine_of(codes, spacing, origin):
    affine = np.eye(4)
    affine[:3, :3] = np.array([DIRECTIONS[code] for code in codes]).T * spacing
    affine[:3, 3] = origin
    return affine


def turned(degrees, spacing=(1, 1, 1), origin=(0, 0, 0)):
    """An oblique affine: axis-aligned, then turned about x and z."""
    a, b = np.radians(degrees), np.radians(degrees / 2)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x * spacing
    affine[:3, 3] = origin
    return affine


def marked(place, affine, shape=SHAPE, **facts):
    """A volume of zeros with one voxel at 1."""
    voxels = np.zeros((1, *shape), np.float32)
    voxels[0, *place] = 1
    return Volume(voxels, affine, **facts)


def where(volume):
    """The millimetre of the brightest voxel."""
    return volume.world(np.unravel_index(volume.voxels[0].argmax(), volume.shape))


def grid_index(shape):
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("codes", ORIENTATIONS)
@each
@given(place=places, spacing=spacings, origin=origins, to=st.sampled_from(ORIENTATIONS))
def test_reorient_keeps_the_millimetre(codes, place, spacing, origin, to):
    volume = marked(place, affine_of(codes, spacing, origin))
    there = volume.reorient(to)
    assert (volume.orientation, there.orientation) == (codes, to)
    assert np.allclose(where(there), where(volume), atol=1e-9)
    assert sorted(there.spacing) == pytest.approx(sorted(spacing))
    assert there.voxels.sum() == 1
    back = there.reorient(codes)
    assert np.array_equal(back.voxels, volume.voxels)
    assert np.allclose(back.affine, volume.affine, atol=1e-9)


@pytest.mark.parametrize("codes", ORIENTATIONS)
@each
@given(place=places, spacing=spacings, origin=origins, data=st.data())
def test_flip_crop_and_pad_keep_the_millimetre(codes, place, spacing, origin, data):
    volume = marked(place, affine_of(codes, spacing, origin))
    axis = data.draw(st.integers(0, 2))
    start = [data.draw(st.integers(0, p)) for p in place]
    stop = [data.draw(st.integers(p + 1, n)) for p, n in zip(place, SHAPE, strict=True)]
    before, after = (data.draw(st.tuples(*[st.integers(0, 3)] * 3)) for _ in range(2))
    for there in (volume.flip(axis), volume.crop(start, stop), volume.pad(before, after)):
        assert np.allclose(where(there), where(volume), atol=1e-9)
        assert there.spacing == pytest.approx(spacing)
        assert there.voxels.sum() == 1
    assert np.array_equal(volume.flip(axis).flip(axis).voxels, volume.voxels)
    padded = volume.pad(before, after)
    undone = padded.crop(before, [b + n for b, n in zip(before, SHAPE, strict=True)])
    assert np.array_equal(undone.voxels, volume.voxels)
    assert np.allclose(undone.affine, volume.affine, atol=1e-9)


@pytest.mark.parametrize("codes", ORIENTATIONS)
@settings(max_examples=3, deadline=None)
@given(spacing=spacings, new=spacings, origin=origins)
def test_resample_keeps_a_landmark_within_half_a_new_voxel(codes, spacing, new, origin):
    """A ball, several voxels of either grid wide; its centre of mass is found again."""
    affine = affine_of(codes, spacing, origin)
    shape = (24, 22, 20)
    centre = affine @ [11.2, 10.7, 9.6, 1]
    width = 1.5 * max(*spacing, *new)
    distance = np.linalg.norm(Volume(np.empty((1, *shape)), affine).world(grid_index(shape)) - centre[:3], axis=-1)
    volume = Volume(np.exp(-((distance / width) ** 2) / 2)[None].astype(np.float32), affine)
    there = volume.resample(new)
    weight = there.voxels[0].astype(np.float64)
    found = (there.world(grid_index(there.shape)) * weight[..., None]).sum((0, 1, 2)) / weight.sum()
    before = (volume.world(grid_index(shape)) * volume.voxels[0][..., None]).sum((0, 1, 2)) / volume.voxels[0].sum()
    along = (found - before) @ (affine[:3, :3] / spacing)
    assert (np.abs(along) <= np.array(there.spacing) / 2).all()


@quick
@given(
    codes=st.sampled_from(ORIENTATIONS), spacing=spacings, origin=origins, order=st.sampled_from(["linear", "nearest"])
)
def test_resample_to_the_same_spacing_changes_nothing(codes, spacing, origin, order):
    rng = np.random.default_rng(0)
    volume = Volume(rng.integers(-1000, 1000, (2, *SHAPE)).astype(np.int16), affine_of(codes, spacing, origin))
    there = volume.resample(spacing, order)
    assert np.array_equal(there.voxels, volume.voxels)
    assert np.allclose(there.affine, volume.affine, atol=1e-9)
    assert there.valid is None


@quick
@given(
    codes=st.sampled_from(ORIENTATIONS),
    spacing=st.tuples(*[st.floats(0.5, 3)] * 3),
    new=st.tuples(*[st.floats(0.5, 3)] * 3),
    slope=st.tuples(*[st.floats(-1, 1)] * 3),
)
def test_a_ramp_in_the_world_stays_that_ramp(codes, spacing, new, slope):
    affine = affine_of(codes, spacing, (3, -20, 7))
    shape = (20, 22, 24)
    world = Volume(np.empty((1, *shape)), affine).world(grid_index(shape))
    there = Volume((world @ slope)[None], affine).resample(new)
    # Near the edge, smoothing and the outer half voxel see the edge repeated: the ramp is only a ramp inside.
    edge = [4 * max(a, b) for a, b in zip(spacing, new, strict=True)]
    inside = [slice(int(e / n) + 1, -int(e / n) - 1) for e, n in zip(edge, there.spacing, strict=True)]
    expected = there.world(grid_index(there.shape)) @ slope
    assert np.abs(there.voxels[0][*inside] - expected[*inside]).max(initial=0) < 1e-3


@quick
@given(spacing=spacings, new=spacings)
def test_resample_keeps_the_outer_box(spacing, new):
    volume = Volume(np.zeros((1, *SHAPE), np.float32), affine_of("LPS", spacing, (1, 2, 3)))
    there = volume.resample(new)
    assert there.spacing == pytest.approx(new)
    for old_corner, new_corner in ((np.full(3, -0.5),) * 2, (np.array(SHAPE) - 0.5, np.array(there.shape) - 0.5)):
        gap = np.abs(volume.world(old_corner) - there.world(new_corner))
        room = np.where(np.array(there.shape) == 1, np.inf, np.array(new) / 4 + 1e-9)
        assert (gap <= room).all()


@pytest.mark.parametrize("degrees", [0, 12, 45, 80])
@pytest.mark.parametrize("order", ["linear", "nearest"])
def test_resample_to_agrees_with_simpleitk(degrees, order, rng):
    """SimpleITK's own resampler between two images with origin, spacing and direction is the oracle."""
    voxels = rng.normal(size=(1, 14, 12, 10)).astype(np.float32)
    volume = Volume(voxels, turned(degrees, (1.0, 1.5, 2.0), (5, -3, 2)))
    # Finer than the old grid in every direction, so that no smoothing is asked for.
    target, shape = turned(degrees / 3 + 5, (0.45, 0.5, 0.4), (8, 1, 6)), (20, 18, 16)
    there = volume.resample_to(shape, target, order, fill=-7.0)
    image, reference = as_itk(voxels[0], volume.affine), as_itk(np.zeros(shape, np.float32), target)
    method = sitk.sitkLinear if order == "linear" else sitk.sitkNearestNeighbor
    expected = sitk.GetArrayFromImage(sitk.Resample(image, reference, sitk.Transform(), method, -7.0)).T
    index = (there.world(grid_index(shape)) - volume.affine[:3, 3]) @ np.linalg.inv(volume.affine[:3, :3]).T
    inside = ((index > 0) & (index < np.array(volume.shape) - 1)).all(-1)
    assert inside.sum() > 500
    assert np.abs(there.voxels[0][inside] - expected[inside]).max() < 1e-4
    outside = ((index < -0.51) | (index > np.array(volume.shape) - 0.49)).any(-1)
    assert (there.voxels[0][outside] == -7).all()
    assert outside.any() == (there.valid is not None)


def as_itk(voxels, affine):
    """A SimpleITK image of voxels (I, J, K) whose affine goes to RAS."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
    lps = np.diag([-1, -1, 1]) @ affine[:3]
    spacing = np.linalg.norm(lps[:, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:, 3].tolist())
    image.SetDirection((lps[:, :3] / spacing).ravel().tolist())
    return image


def test_nothing_that_was_not_measured_leaks_into_what_was(rng):
    voxels = rng.normal(size=(1, 16, 16, 16)).astype(np.float32)
    valid = np.ones((16, 16, 16), bool)
    valid[:5], valid[9:12, 3:6, 3:6] = False, False
    results = []
    for junk in (0.0, 1e6, -3000.0):
        volume = Volume(np.where(valid, voxels, junk).astype(np.float32), np.eye(4), valid=valid)
        there = volume.resample((1.7, 0.8, 1.3))
        assert there.valid is not None
        assert not there.valid.all()
        results.append(there.voxels[0][there.valid])
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])
    assert np.abs(results[0]).max() <= np.abs(voxels).max()


def test_a_field_that_is_flat_stays_flat_up_to_its_border():
    valid = np.linalg.norm(grid_index((12, 12, 12)) - 5.5, axis=-1) < 5
    volume = Volume(np.where(valid, 40.0, -2000.0)[None], np.eye(4), modality="CT", valid=valid)
    there = volume.resample((2.3, 0.7, 1.9))
    assert np.allclose(there.voxels[0][there.valid], 40)
    assert (there.voxels[0][~there.valid] == AIR_HU).all()


def test_a_coarser_grid_averages_instead_of_picking():
    stripes = np.zeros((1, 40, 8, 8), np.float32)
    stripes[:, ::2] = 1
    there = Volume(stripes, np.eye(4)).resample((4, 1, 1))
    assert np.abs(there.voxels[:, 1:-1] - 0.5).max() < 0.02


def test_a_coarser_turned_grid_averages_too():
    stripes = np.zeros((1, 40, 40, 40), np.float32)
    stripes[:, ::2] = 1
    there = Volume(stripes, np.eye(4)).resample_to((5, 5, 5), turned(45, (2.5, 2.5, 2.5), (20, 15, 15)))
    assert there.valid is None
    assert np.abs(there.voxels - 0.5).max() < 0.05


def test_nearest_makes_no_new_labels_and_keeps_the_type(rng):
    for dtype in (np.uint8, np.int16, np.float16, bool):
        labels = (rng.random((1, *SHAPE)) * 4).astype(dtype)
        there = Volume(labels, np.eye(4), modality="MASK").resample((0.7, 1.6, 0.9), "nearest")
        assert there.voxels.dtype == dtype
        assert set(np.unique(there.voxels)) <= set(np.unique(labels))


def test_a_sheared_grid_is_resampled_through_the_world():
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[1, 2] = 2 * np.tan(np.radians(14))
    shape = (12, 14, 10)
    world = Volume(np.empty((1, *shape)), affine).world(grid_index(shape))
    there = Volume((world @ (0.5, 1, -2))[None], affine).resample_to((8, 6, 8), turned(0, origin=(2, 6, 5)))
    assert there.valid is None
    assert np.allclose(there.voxels[0], there.world(grid_index((8, 6, 8))) @ (0.5, 1, -2), atol=1e-3)


def test_a_flat_picture_goes_through_everything():
    volume = marked((3, 4, 0), affine_of("LPS", (0.2, 0.3, 1.0), (1, 2, 3)), (7, 9, 1))
    for there in (
        volume.flip(2),
        volume.reorient("RAS"),
        volume.pad((1, 1, 0), (0, 2, 0)),
        volume.resample((0.2, 0.3, 1)),
    ):
        assert np.allclose(where(there), where(volume), atol=1e-9)


def test_padding_is_air_in_ct_and_never_valid():
    padded = Volume(np.zeros((1, 2, 2, 2), np.int16), np.eye(4), modality="CT").pad((1, 0, 0), (0, 0, 0))
    assert (padded.voxels[0, 0] == AIR_HU).all()
    assert padded.valid is not None
    assert padded.valid.tolist() == [[[False] * 2] * 2, [[True] * 2] * 2, [[True] * 2] * 2]
    assert padded.reorient("LAS").valid.sum() == padded.flip(0).crop((0, 0, 0), (2, 2, 2)).valid.sum() == 8


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda v: v.crop((0, 0, 0), (8, 1, 1)), "leaves the grid"),
        (lambda v: v.crop((2, 0, 0), (2, 1, 1)), "is empty"),
        (lambda v: v.pad((-1, 0, 0), (0, 0, 0)), "negative"),
        (lambda v: v.resample((1, 0, 1)), "positive"),
        (lambda v: v.resample((1e-4, 1e-4, 1e-4)), "above the limit"),
        (lambda v: v.reorient("RAX"), "not three of"),
        (lambda v: v.reorient("RASX"), "not three of"),
        (lambda v: v.reorient("RLS"), "not three of"),
        (lambda v: Volume(v.voxels[0], v.affine), "add the missing axes"),
        (lambda v: Volume(v.voxels, np.zeros((4, 4))), "invertible"),
        (lambda v: Volume(v.voxels, np.full((4, 4), np.nan)), "invertible"),
        (lambda v: Volume(v.voxels, np.diag([1, 1, 1, 2])), "invertible"),
        (lambda v: Volume(v.voxels, v.affine, valid=np.ones((2, 2, 2), bool)), "must agree"),
        (lambda v: Volume(v.voxels, v.affine, oriented=False).reorient("RAS"), "scanner's"),
    ],
)
def test_mistakes_are_said(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong(Volume(np.zeros((1, *SHAPE)), np.eye(4)))


def test_it_says_what_it_is():
    volume = Volume(np.zeros((1, *SHAPE)), affine_of("LPS", (0.7, 0.7, 1.25), (0, 0, 0)), modality="CT", unit="HU")
    assert repr(volume) == "Volume(CT, HU, 1 x 7x9x11, 0.7x0.7x1.25 mm, LPS)"
    assert Volume(volume.voxels, np.eye(4), oriented=False).orientation == "unknown"
