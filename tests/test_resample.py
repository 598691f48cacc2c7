"""Parallel grids are resampled axis by axis; SimpleITK, which resamples all others, is the oracle."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from medssl import resample
from medssl.volume import Volume

TURNS = [np.eye(3)[:, order] * signs for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]
CLOSE = 2e-5
"""Share of the values' range by which single precision may differ between two orders of summation."""


def by_simpleitk(monkeypatch, volume, *grid):
    with monkeypatch.context() as patch:
        patch.setattr(resample, "_lines", lambda shape, to_old: None)
        return volume.resample_to(*grid)


def noise(shape, seed=0, dtype=np.float32, order="C", hole=False):
    rng = np.random.default_rng(seed)
    voxels = np.asarray(rng.normal(500, 200, (1, *shape)), dtype=dtype, order=order)
    valid = rng.random(shape) > 0.2 if hole else None
    return Volume(voxels, np.diag([-0.8, -1.1, 2.0, 1.0]), valid=valid)


def halfway(volume, shape, affine):
    """Whether any new centre is as near to one old voxel as to the next, so that rounding decides between them."""
    to_old = np.linalg.inv(volume.affine) @ affine
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ to_old[:3, :3].T + to_old[:3, 3]
    return bool((np.abs(places - np.floor(places) - 0.5) < 1e-6).any())


def same(a, b):
    """Whether two results agree where they are real, and agree on where that is."""
    va, vb = (np.ones(v.shape, bool) if v.valid is None else v.valid for v in (a, b))
    assert np.array_equal(va, vb)
    assert np.abs(a.voxels - b.voxels).max() <= CLOSE * max(1.0, float(np.abs(b.voxels).max()))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    turn=st.sampled_from(TURNS),
    spacing=st.tuples(*[st.floats(0.3, 6.0)] * 3),
    shift=st.tuples(*[st.floats(-6, 6)] * 3),
    order=st.sampled_from(["C", "F"]),
    hole=st.booleans(),
    dtype=st.sampled_from([np.float32, np.int16, np.uint8]),
)
def test_any_parallel_grid_as_by_simpleitk(monkeypatch, turn, spacing, shift, order, hole, dtype):
    volume = noise((9, 12, 7), dtype=dtype, order=order, hole=hole)
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    middle = volume.world((np.array(volume.shape) - 1) / 2)
    affine[:3, 3] = middle - affine[:3, :3] @ [4, 3, 5] + shift
    grid = (9, 7, 11), affine
    assume(not halfway(volume, *grid))
    same(volume.resample_to(*grid), by_simpleitk(monkeypatch, volume, *grid))
    nearest, oracle = volume.resample_to(*grid, "nearest", 0), by_simpleitk(monkeypatch, volume, *grid, "nearest", 0)
    assert np.array_equal(nearest.voxels, oracle.voxels)
    assert nearest.voxels.dtype == dtype


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_centres_halfway_between_voxels_as_by_simpleitk(monkeypatch, factor):
    volume = noise((8, 12, 6))
    spacing = np.array(volume.spacing) * factor
    there = volume.resample(spacing, "nearest")
    assert np.array_equal(there.voxels, by_simpleitk(monkeypatch, volume, there.shape, there.affine, "nearest").voxels)
    same(volume.resample(spacing), by_simpleitk(monkeypatch, volume, there.shape, there.affine))


@pytest.mark.parametrize("flipped", [False, True])
def test_arrays_that_are_views_as_by_simpleitk(monkeypatch, flipped):
    """What reorienting leaves: reversed and permuted strides, and axes of one voxel."""
    volume = noise((10, 1, 8)).reorient("SPR") if flipped else noise((1, 1, 5))
    there = volume.resample((1.5, 0.7, 1.0))
    same(there, by_simpleitk(monkeypatch, volume, there.shape, there.affine))
    assert there.voxels.flags.c_contiguous


def test_the_same_grid_gives_the_same_values():
    volume = noise((9, 12, 7), hole=True)
    there = volume.resample_to(volume.shape, volume.affine)
    assert np.array_equal(there.voxels[:, volume.valid], volume.voxels[:, volume.valid])
    assert np.array_equal(there.valid, volume.valid)


def test_what_is_not_real_has_no_weight():
    """Padding of -2000 between voxels of 40: every real neighbour's mean is 40, on either path."""
    volume = noise((12, 12, 12), hole=True)
    volume.voxels[:] = np.where(volume.valid, 40, -2000)
    turn = np.eye(4)
    turn[:2, :2] = np.array([[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]])
    for affine in (volume.affine, volume.affine @ turn):
        there = volume.resample_to((12, 12, 12), affine @ np.diag([1.3, 0.7, 1.1, 1.0]))
        assert there.voxels[:, there.valid] == pytest.approx(40, abs=1e-2)
        assert there.valid.sum() > 100


def test_a_turned_grid_is_not_taken_for_a_parallel_one(monkeypatch):
    volume = noise((9, 12, 7))
    turn = np.eye(4)
    turn[:2, :2] = np.array([[np.cos(0.01), -np.sin(0.01)], [np.sin(0.01), np.cos(0.01)]])
    grid = (9, 12, 7), volume.affine @ turn
    assert np.array_equal(volume.resample_to(*grid).voxels, by_simpleitk(monkeypatch, volume, *grid).voxels)


@pytest.mark.parametrize(
    "spacing", [(1.6, 2.2, 2.5), (0.5, 2.2, 3.0), (1.6, 0.7, 0.9), (0.8, 2.0, 2.0), (2.0, 1.1, 4.0)]
)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("hole", [False, True])
def test_planes_one_by_one_are_the_whole_array_bit_for_bit(spacing, order, hole):
    """Prepared voxels are named by their settings: a faster way to the same numbers may not change a bit of them."""
    volume = noise((40, 37, 21), dtype=np.int16, order=order, hole=hole)
    shape = tuple(int(n) for n in np.round(np.multiply(volume.shape, volume.spacing) / spacing))
    affine = volume.affine @ np.diag([*np.divide(spacing, volume.spacing), 1.0])
    to_old = np.linalg.inv(volume.affine) @ affine
    lines, blur = resample._lines(shape, to_old), resample._blur(to_old)
    there = np.where(volume.valid, volume.voxels[0], 0) if hole else volume.voxels[0]
    axes = [2, 1, 0] if order == "F" else [0, 1, 2]  # slowest in memory first
    whole, growth = there.astype(np.float32), np.divide(shape, volume.shape)
    for axis in [*(axes[1::-1] if growth[axes[1]] < growth[axes[0]] else axes[:2]), axes[2]]:
        matrix = resample._matrix(lines[axis], volume.shape[axis], blur[axis])
        if matrix is not None:
            flat = np.moveaxis(whole, axis, 0)
            done = matrix @ np.ascontiguousarray(flat).reshape(len(flat), -1)
            whole = np.moveaxis(done.reshape(-1, *flat.shape[1:]), 0, axis)
    assert np.array_equal(resample._by_axes(volume.voxels[0], lines, blur, volume.valid), whole)
