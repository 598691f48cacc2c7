"""The prepared grid and the label map on it."""

import numpy as np
import pytest

from medssl.store.grids import is_sheared, letterbox, mask_on_grid, put_on_grid, straighten
from medssl.store.reasons import Unusable
from medssl.store.settings import Preparation
from medssl.volume import Volume

SETTINGS = Preparation(
    ct_spacing=(2.0, 2.0, 2.0), mr_spacing=(1.0, 1.0, 1.5), oct_spacing=(0.5, 0.5, 0.1), xray_pixels=64
)


def image(shape=(20, 24, 16), affine=None, **facts):
    rng = np.random.default_rng(0)
    affine = np.diag([1.0, 1.0, 1.0, 1.0]) if affine is None else affine
    return Volume(rng.normal(100, 10, (1, *shape)).astype(np.float32), affine, **{"modality": "MR", **facts})


PICTURES = [((100, 50), (1, 1)), ((50, 100), (0.2, 0.2)), ((64, 64), (1, 2)), ((30, 7), (1, 1))]
"""Pixels and millimetres of radiographs."""


def lps(*spacing):
    return np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])


def code(call):
    with pytest.raises(Unusable) as caught:
        call()
    assert caught.value.code in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize(("modality", "spacing"), [("CT", (2, 2, 2)), ("MR", (1, 1, 1.5))])
def test_ct_and_mr_are_turned_and_resampled(modality, spacing):
    there = put_on_grid(image(affine=lps(0.8, 0.9, 3), modality=modality), SETTINGS)
    assert there.orientation == "RAS"
    assert there.spacing == pytest.approx(spacing)


def test_oct_is_resampled_but_not_turned():
    oct_ = image(affine=lps(0.25, 0.25, 0.05), modality="OPT", oriented=False)
    there = put_on_grid(oct_, SETTINGS)
    assert there.spacing == pytest.approx((0.5, 0.5, 0.1))
    assert np.sign(np.diag(there.affine)[:3]).tolist() == [-1, -1, 1]


def test_a_scan_whose_patient_axes_are_unknown_is_not_turned():
    there = put_on_grid(image(affine=lps(1, 1, 1.5), oriented=False), SETTINGS)
    assert np.diag(there.affine)[0] < 0


@pytest.mark.parametrize(
    ("shape", "spacing"), [((100, 50), (1, 1)), ((50, 100), (0.2, 0.2)), ((64, 64), (1, 2)), ((30, 7), (1, 1))]
)
def test_letterbox_is_a_square_that_keeps_proportions_and_place(shape, spacing):
    picture = image((*shape, 1), lps(*spacing, 1), modality="DX")
    there = letterbox(picture, 64)
    assert there.shape == (64, 64, 1)
    assert there.spacing[0] == pytest.approx(there.spacing[1])
    middle = picture.world((np.array(picture.shape) - 1) / 2)
    assert np.allclose(there.world((31.5, 31.5, 0)), middle)
    extent = np.array(shape) * spacing
    filled = np.ones((64, 64, 1), bool) if there.valid is None else there.valid
    assert abs(filled.any(1).sum() - 64 * extent[0] / extent.max()) <= 1
    assert abs(filled.any(0).sum() - 64 * extent[1] / extent.max()) <= 1


def test_letterbox_of_a_picture_that_fits_is_the_picture():
    picture = image((64, 64, 1), lps(0.3, 0.3, 1), modality="DX")
    there = put_on_grid(picture, SETTINGS)
    assert np.array_equal(there.voxels, picture.voxels)
    assert there.valid is None


def test_letterbox_without_millimetres_counts_pixels():
    there = letterbox(image((40, 20, 1), np.diag([1.0, 3.0, 1.0, 1.0]), modality="DX", spacing_source="unknown"), 64)
    assert there.valid is not None
    assert (there.valid.any((1, 2)).sum(), there.valid.any((0, 2)).sum()) == (64, 32)


def test_a_flat_picture_of_any_modality_is_letterboxed():
    assert put_on_grid(image((30, 20, 1), modality="OPT", spacing_source="unknown"), SETTINGS).shape == (64, 64, 1)


def test_what_has_no_grid_is_refused_by_code():
    assert code(lambda: put_on_grid(image(spacing_source="unknown"), SETTINGS)) == "SPACING_UNKNOWN"
    assert code(lambda: put_on_grid(image(modality="DX"), SETTINGS)) == "NOT_FLAT"
    assert code(lambda: put_on_grid(image(affine=np.diag([1e3, 1e3, 1e3, 1])), SETTINGS)) == "TOO_LARGE"


def test_values_that_are_not_numbers_do_not_spread():
    broken = image()
    broken.voxels[0, 3, 4, 5] = np.nan
    there = put_on_grid(broken, SETTINGS)
    assert np.isfinite(there.voxels).all()
    assert there.valid is not None


def test_a_tilted_gantry_is_put_straight():
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[1, 2] = 2 * np.tan(np.radians(14))
    assert is_sheared(affine)
    assert not is_sheared(lps(1, 2, 3))
    grid = np.stack(np.meshgrid(*map(np.arange, (20, 24, 16)), indexing="ij"), -1)
    tilted = Volume(np.empty((1, 20, 24, 16), np.float32), affine, modality="CT")
    tilted = Volume((tilted.world(grid) @ (1, 2, 3))[None].astype(np.float32), affine, modality="CT")
    there = straighten(tilted, (1.0, 1.0, 1.0))
    assert not is_sheared(there.affine)
    assert there.valid is not None
    inner = np.zeros(there.shape, bool)
    inner[2:-2, 14:-14, 3:-3] = True
    assert there.valid[inner].all()
    ramp = there.world(np.stack(np.meshgrid(*map(np.arange, there.shape), indexing="ij"), -1)) @ (1, 2, 3)
    assert np.abs(there.voxels[0] - ramp)[inner].max() < 1e-3
    backwards = straighten(tilted.flip(2).flip(0), (1.0, 1.0, 1.0))
    assert (np.diag(backwards.affine)[:3] * (-1, 1, -1) > 0).all(), "the axes keep their directions"
    turned = put_on_grid(tilted, SETTINGS)
    assert not is_sheared(turned.affine)
    assert turned.spacing == pytest.approx((2, 2, 2))


def ball(shape, affine, centre, radius):
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    inside = np.linalg.norm(Volume(np.empty((1, *shape)), affine).world(grid) - centre, axis=-1) < radius
    return Volume(inside[None].astype(np.uint8), affine, modality="MASK")


def test_a_mask_on_another_grid_lands_in_the_same_place():
    scan = image((30, 30, 30), lps(1, 1, 1))
    grid = put_on_grid(scan, SETTINGS)
    centre = scan.world((14, 16, 12))
    finer = np.diag([0.5, 0.5, 0.5, 1.0])
    finer[:3, 3] = centre - (20, 22, 13)
    there = mask_on_grid(ball((80, 90, 60), finer, centre, 6), image=scan, grid=grid)
    assert there.dtype == np.uint8
    assert there.shape == (1, *grid.shape)
    found = grid.world(np.argwhere(there[0])).mean(0)
    assert np.abs(found - centre).max() < 0.5
    volume_mm3 = there.sum() * np.prod(grid.spacing)
    assert volume_mm3 == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.05)


def test_a_mask_elsewhere_is_refused():
    scan = image((30, 30, 30), lps(1, 1, 1))
    grid = put_on_grid(scan, SETTINGS)
    labels = ball((30, 30, 30), lps(1, 1, 1), scan.world((15, 15, 15)), 5).voxels
    for away_mm in (500, 25):  # at 25 mm the boxes overlap, the label does not
        affine = lps(1, 1, 1)
        affine[0, 3] += away_mm
        moved = Volume(labels, affine, modality="MASK")
        assert code(lambda moved=moved: mask_on_grid(moved, image=scan, grid=grid)) == "MASK_MISPLACED"
    empty = Volume(np.zeros_like(labels), scan.affine, modality="MASK")
    assert not mask_on_grid(empty, image=scan, grid=grid).any(), "an empty label map is an answer: nothing is there"


@pytest.mark.parametrize("value", [0.5, -1, 256, np.nan])
def test_a_mask_of_other_values_is_refused(value):
    scan = image()
    mask = Volume(np.full((1, *scan.shape), value, np.float32), scan.affine, modality="MASK")
    assert code(lambda: mask_on_grid(mask, image=scan, grid=put_on_grid(scan, SETTINGS))) == "MASK_VALUES"


def test_a_mask_of_a_picture_without_millimetres_goes_by_pixel():
    picture = image((40, 20, 1), modality="DX", spacing_source="unknown")
    mask = np.zeros((1, 40, 20, 1), np.float64)
    mask[0, :20] = 2
    far = np.diag([5.0, 5.0, 5.0, 1.0])
    there = mask_on_grid(Volume(mask, far, modality="MASK"), image=picture, grid=put_on_grid(picture, SETTINGS))
    assert set(np.unique(there)) == {0, 2}
    assert (there == 2).sum() == 32 * 32
    wrong = Volume(mask[:, :30], far, modality="MASK")
    assert code(lambda: mask_on_grid(wrong, image=picture, grid=put_on_grid(picture, SETTINGS))) == "MASK_MISPLACED"
