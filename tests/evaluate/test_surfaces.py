"""HD95 and surface Dice against MONAI, closed forms, values of surface-distance and a slow twin."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from monai.metrics.utils import (
    create_table_neighbour_code_to_contour_length,
    create_table_neighbour_code_to_surface_area,
    get_edge_surface_distance,
)
from scipy.ndimage import gaussian_filter

from medssl.evaluate import surfaces
from medssl.evaluate.overlap import dice
from medssl.evaluate.surfaces import apart

# MONAI warns of how its own functions call each other.
pytestmark = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy.*:FutureWarning")

SPACINGS = [(1.0, 1.0, 1.0), (3.0, 0.5, 0.5), (0.7, 1.1, 2.9)]


def blobs(seed, shape=(14, 16, 12), smooth=1.5):
    """Two lumpy masks that are alike."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=shape), smooth)
    other = field + 0.5 * gaussian_filter(rng.normal(size=shape), smooth)
    return field > np.quantile(field, 0.7), other > np.quantile(other, 0.7)


def cube(corner, length, shape=(24, 20, 20)):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(at, at + length) for at in corner)] = True
    return mask


def ball(radius, spacing, side=44.0, centre=(0.0, 0.0, 0.0)):
    shape = [round(side / step) for step in spacing]
    axes = [(np.arange(n) - (n - 1) / 2) * step - at for n, step, at in zip(shape, spacing, centre, strict=True)]
    return sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")) < radius**2


def slow(truth, found, spacing, tolerance):
    """Corner by corner, every pair of corners, areas of another library's table."""
    table, kernel = (
        create_table_neighbour_code_to_surface_area(spacing)
        if truth.ndim == 3
        else create_table_neighbour_code_to_contour_length(spacing)
    )
    kernel, pieces = kernel.numpy().reshape((2,) * truth.ndim), []
    for mask in (truth, found):
        padded, places, areas = np.pad(mask, 1), [], []
        for at in np.ndindex(*(n + 1 for n in mask.shape)):
            code = int((padded[tuple(slice(k, k + 2) for k in at)] * kernel).sum())
            if 0 < code < len(table) - 1:
                places.append(np.array(at) * spacing)
                areas.append(float(table[code]))
        pieces.append((np.array(places), np.array(areas)))
    near, reach = 0.0, []
    for (own, areas), (other, _) in (pieces, pieces[::-1]):
        distances = np.array([np.linalg.norm(other - point, axis=1).min() for point in own])
        near += areas[distances <= tolerance + 1e-4].sum()
        reach.append(min(d for d in distances if areas[distances <= d].sum() >= 0.95 * areas.sum() - 1e-6))
    return max(reach), near / sum(areas.sum() for _, areas in pieces)


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("smooth", [0.5, 1.5], ids=["crumbs", "lumps"])
def test_a_slow_twin_says_the_same(spacing, smooth):
    truth, found = blobs(3, (8, 9, 7), smooth)
    assert apart(truth, found, spacing, 1.0) == pytest.approx(slow(truth, found, spacing, 1.0), abs=1e-5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.3, 2.0)], ids=str)
def test_a_slow_twin_of_planes_says_the_same_and_a_volume_of_one_slice_is_a_plane(spacing):
    truth, found = blobs(4, (20, 18))
    told = apart(truth, found, spacing, 0.5)
    assert told == pytest.approx(slow(truth, found, spacing, 0.5), abs=1e-5)
    assert apart(truth[:, :, None], found[:, :, None], (*spacing, 7.0), 0.5) == told
    assert apart(truth[:, None], found[:, None], (spacing[0], 7.0, spacing[1]), 0.5) == told


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
def test_areas_are_those_of_monai_for_every_neighbourhood(spacing):
    """Also for those whose voxels touch by an edge or a corner, of which there are several triangulations."""
    theirs, kernel = create_table_neighbour_code_to_surface_area(spacing)
    ours = surfaces._areas(spacing)
    for block in np.ndindex(*(2,) * 8):
        corners = np.array(block).reshape(2, 2, 2)
        code = int((corners * kernel.numpy().reshape(2, 2, 2)).sum())
        own = int(surfaces._codes(corners.astype(bool))[1, 1, 1])
        assert ours[own] == pytest.approx(float(theirs[code]), abs=1e-5)


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
def test_surface_dice_is_monais_by_subvoxels(spacing):
    """MONAI without them counts boundary voxels, whatever their area: not this definition."""
    truth, found = blobs(5, (16, 18, 14))
    pair = [torch.from_numpy(mask)[None, None].float() for mask in (found, truth)]
    for tolerance in (0.6, 1.0, 2.0):
        theirs = compute_surface_dice(
            *pair, [tolerance], include_background=True, spacing=list(spacing), use_subvoxels=True
        )
        assert apart(truth, found, spacing, tolerance).nsd == pytest.approx(float(theirs), abs=1e-5)


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
def test_hd95_is_that_of_monais_pieces_and_near_its_distance_of_boundary_voxels(spacing):
    truth, found = blobs(6, (16, 18, 14))
    ours = apart(truth, found, spacing, 1.0).hd95
    pair = [torch.from_numpy(mask) for mask in (found, truth)]
    edges, distances, areas = get_edge_surface_distance(
        *pair, spacing=list(spacing), use_subvoxels=True, symmetric=True
    )
    reach = []
    for edge, distance, area in zip(edges, distances, areas, strict=True):
        order = torch.argsort(distance)
        share = torch.cumsum(area[edge][order].double(), 0) / area[edge].double().sum()
        reach.append(float(distance[order][int((share < 0.95).sum())]))
    assert ours == pytest.approx(max(reach), abs=1e-5)
    # MONAI's own HD95 also takes the larger side, but of centres of boundary voxels, each counting alike.
    theirs = compute_hausdorff_distance(
        *(mask[None, None].float() for mask in pair), include_background=True, percentile=95, spacing=list(spacing)
    )
    assert abs(ours - float(theirs)) <= np.linalg.norm(spacing)


def test_values_of_surface_distance():
    """surface-distance 0.1 (Google DeepMind) on the same masks, run once."""
    wanted = {
        (11, (1.0, 1.0, 1.0)): (1.414214, 0.953954),
        (12, (3.0, 0.5, 0.5)): (1.000000, 0.979113),
        (13, (0.7, 1.1, 2.9)): (2.100000, 0.878563),
    }
    for (seed, spacing), value in wanted.items():
        assert apart(*blobs(seed, (16, 18, 14)), spacing, 1.0) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("smooth", [0.5, 1.5], ids=["crumbs", "lumps"])
# surface-distance imports from a part of scipy that is to go.
@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
def test_hd95_and_surface_dice_are_those_of_surface_distance(spacing, smooth):
    """The same conventions: pieces of surface with their areas, the larger of two 95 % distances, both surfaces in one
    share. Not so where a mask is empty: surface-distance has no finite distance there (and 0.1 none at all with numpy 2).
    """
    library = pytest.importorskip("surface_distance")
    for seed in range(3):
        truth, found = blobs(20 + seed, (14, 12, 10), smooth)
        theirs = library.compute_surface_distances(truth, found, spacing)
        for tolerance in (0.6, 1.0, 2.0):
            ours = apart(truth, found, spacing, tolerance)
            assert ours.hd95 == pytest.approx(library.compute_robust_hausdorff(theirs, 95), abs=1e-5)
            wanted = library.compute_surface_dice_at_tolerance(theirs, tolerance)
            assert ours.nsd == pytest.approx(wanted, abs=1e-5)
            assert dice(truth, found) == pytest.approx(library.compute_dice_coefficient(truth, found))


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shifted_cube(spacing, axis):
    """Two faces are as far away as the shift, more than 5 % of the surface; a tolerance below it finds the other four."""
    corner = [4, 4, 4]
    shifted = [at + 3 * (axis == one) for one, at in enumerate(corner)]
    truth, found = cube(corner, 10), cube(shifted, 10)
    shift = 3 * spacing[axis]
    told = apart(truth, found, spacing, shift)
    assert told == (pytest.approx(shift), 1.0)
    sides = [spacing[1] * spacing[2], spacing[0] * spacing[2], spacing[0] * spacing[1]]
    less = apart(truth, found, spacing, 0.4 * min(spacing)).nsd
    # What is within: on the four sides that are not moved, where both cubes are (7 of 10), and edges of half a voxel.
    inside = 0.7 * (sum(sides) - sides[axis]) / sum(sides)
    assert less == pytest.approx(inside, abs=0.08)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0)], ids=str)
def test_balls_in_each_other_and_side_by_side(spacing):
    step = max(spacing)
    inner, outer = ball(12, spacing), ball(16, spacing)
    assert apart(inner, outer, spacing, 1.0).hd95 == pytest.approx(4, abs=0.75 * step)
    assert apart(inner, outer, spacing, 4 - step).nsd < 0.2
    assert apart(inner, outer, spacing, 4 + step).nsd == 1
    # A ball moved by s: a zone of a sphere has the area of its height (Archimedes), so t / s of the surface lies within t.
    told = apart(ball(14, spacing), ball(14, spacing, centre=(0, 0, 6.0)), spacing, 2.6)
    assert told.hd95 == pytest.approx(0.95 * 6, abs=0.75 * step)
    assert told.nsd == pytest.approx(2.6 / 6, abs=0.1 * step)


def test_the_larger_side_counts_and_not_both_together():
    """A whole surface found, and as much again far from it: truth's pieces are all near, half of those found are not."""
    truth = cube((2, 2, 2), 6, (40, 10, 10))
    found = truth | cube((20, 2, 2), 6, (40, 10, 10))
    assert apart(truth, truth, (1, 1, 1), 1.0) == (0, 1)
    assert apart(truth, found, (1, 1, 1), 1.0).hd95 == apart(found, truth, (1, 1, 1), 1.0).hd95 > 15


def test_nothing_there_and_nothing_found_is_blank_and_a_failure_keeps_its_weight():
    something, nothing = cube((4, 4, 4), 5), np.zeros((24, 20, 20), bool)
    assert all(math.isnan(value) for value in apart(nothing, nothing, (1, 1, 1), 2.0))
    diagonal = math.hypot(24 * 3.0, 20 * 0.5, 20 * 0.5)
    for pair in ((something, nothing), (nothing, something)):
        assert apart(*pair, (3.0, 0.5, 0.5), 2.0) == (pytest.approx(diagonal), 0.0)
    assert apart(something[:, :, :1] | True, nothing[:, :, :1], (3, 4, 99), 2.0).hd95 == pytest.approx(
        math.hypot(72, 80)
    )
    one = np.zeros((1, 1, 1), bool)
    assert apart(~one, ~one, (1, 1, 1), 2.0) == (0, 1)


def test_a_whole_volume_has_its_rim_for_a_surface():
    everything = np.ones((6, 6, 6), bool)
    assert apart(everything, cube((1, 1, 1), 4, (6, 6, 6)), (1, 1, 1), 2.0).hd95 == pytest.approx(math.sqrt(2), abs=0.4)


def test_a_spacing_that_is_one_but_for_rounding_is_one():
    truth, found = cube((4, 4, 4), 8), cube((6, 4, 4), 8)
    assert apart(truth, found, (1.0000001,) * 3, 2.0).nsd == 1.0


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), spacing=st.sampled_from(SPACINGS))
def test_laws(seed, spacing):
    """Symmetric, moved by nothing but its own size, and the same by either search."""
    truth, found = blobs(seed, (9, 10, 8))
    told = apart(truth, found, spacing, 1.0)
    assert apart(found, truth, spacing, 1.0) == pytest.approx(told, abs=1e-9)
    turned = apart(truth.transpose(2, 0, 1), found.transpose(2, 0, 1), [spacing[k] for k in (2, 0, 1)], 1.0)
    assert turned == pytest.approx(told, abs=1e-5)
    padded = [np.pad(mask, 5) for mask in (truth, found)]
    assert apart(*padded, spacing, 1.0) == pytest.approx(told)
    doubled = apart(truth, found, [2 * step for step in spacing], 2.0)
    assert doubled == pytest.approx((2 * told.hd95, told.nsd), abs=1e-5)
    more = apart(truth, found, spacing, 1.5)
    assert more.nsd >= told.nsd
    for sparse in (0, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(surfaces, "SPARSE", sparse)
            assert apart(truth, found, spacing, 1.0) == pytest.approx(told, abs=1e-9)
