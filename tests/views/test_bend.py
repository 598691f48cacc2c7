"""Bent views: every voxel's millimetres are known in closed form, both ways."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.interpolate import BSpline

from medssl.errors import UserError
from medssl.methods.local import at, shared_places
from medssl.views import Crops, Intensity, Steps, Views
from medssl.views.bend import CELLS, bent, draw_bend, shift, shift_of_grid, unbent
from medssl.views.geometry import bounding_box, sample

AFFINE = np.array([[0.0, 1.2, 0, -30], [0.8, 0, 0, 12], [0, 0, 2.0, 5], [0, 0, 0, 1]])
GRIDS = {"3D": (12, 10, 8), "2D": (12, 10, 1)}


def slow_shift(bend, place, grid):
    """By scipy's splines, one axis after the other, for one place."""
    values = bend.numpy()
    for axis in (2, 1, 0):
        if grid[axis] == 1:
            values = values[..., 0]
            continue
        knots = np.arange(-3, CELLS + 4, dtype=float)
        t = np.clip(place[axis] / (grid[axis] - 1), 0, 1) * CELLS
        values = BSpline(knots, np.moveaxis(values, -1, 0), 3)(min(t, CELLS * (1 - 1e-16)))
    return values


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_shifts_are_those_of_scipy_s_splines(grid, rng):
    bend = draw_bend(0.5, np.array([1.0, 1.5, 2.0]), grid, rng)
    place = torch.from_numpy(rng.uniform(-2, 13, (40, 3)))
    twin = np.stack([slow_shift(bend, one, grid) for one in place.numpy()])
    assert np.abs(shift(bend, place, grid).numpy() - twin).max() < 1e-12
    every = torch.from_numpy(np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, 3)).double()
    assert torch.allclose(shift_of_grid(bend, grid).flatten(1).T, shift(bend, every, grid), atol=1e-12)
    step_mm = torch.tensor([1.0, 1.5, 2.0])
    moved = shift(bend, every, grid).abs() * step_mm
    assert 0.1 < moved.max() <= 0.5 and (grid[2] > 1 or (moved[:, 2] == 0).all())


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_places_go_both_ways(grid, rng):
    step = np.array([2.0, 2.0, 2.0])
    with pytest.raises(UserError, match=r"bend_mm: 9.0 could fold a view of 24 x 20 x .* mm; give at most"):
        draw_bend(9.0, step, grid, rng)
    most = 0.75 / (2 * sum(CELLS / ((n - 1) * 2.0) for n in grid if n > 1))
    for _ in range(5):
        bend = draw_bend(most * 0.999, step, grid, rng)
        place = torch.from_numpy(rng.uniform(0, 1, (200, 4)) * [*(n - 1 for n in grid), 1])
        there = bent(bend, place, grid)
        assert (there - place).abs().max() > 0.05
        assert (unbent(bend, there, grid) - place).abs().max() < 1e-9
        assert (bent(bend, unbent(bend, place, grid), grid) - place).abs().max() < 1e-9


def ramps(shape):
    index = np.stack([*np.meshgrid(*map(np.arange, shape), indexing="ij"), np.ones(shape)], -1)
    world = np.moveaxis(index @ AFFINE[:3].T, -1, 0)
    return SimpleNamespace(shape=lambda _: shape, affine=lambda _: AFFINE.copy(), read=lambda *_: world)


ROWS = pd.DataFrame({"volume_id": ["a", "b"], "modality": "MR", "patient_pid": ["p", "q"], "scanner": "s"})


@pytest.mark.parametrize(("shape", "size"), [((40, 36, 30), (12, 10, 8)), ((40, 36, 1), (12, 10))], ids=["3D", "2D"])
def test_every_voxel_of_a_bent_view_is_where_it_says(shape, size):
    """What the volume holds at the place told, by float64 and by hand: 1e-5 mm; the picture, by float32: 0.02 mm."""
    crops = Crops(size=size, mm=tuple(1.2 * n for n in size), turn=15, zoom=0.2, flips=(1,), bend_mm=0.25)
    off = Intensity(gain=0.0, offset=0.0, gamma=0.0, noise=0.0)
    small = Crops(size=tuple(n // 2 for n in size))
    views = Views(crops=crops, count=2, intensity=off, small=small, small_count=1)
    steps = Steps(ramps(shape), ROWS, views, batch=2, seed=3)
    batch = steps[5]
    assert batch.bend.shape[:3] == (2, 2, 3)
    index = np.stack(np.meshgrid(*map(np.arange, crops.grid), indexing="ij"), -1).reshape(-1, 3)
    for view, row in itertools.product(range(2), range(2)):
        bend, to_mm = batch.bend[view, row], batch.to_mm[view, row]
        twin = np.stack([(to_mm.numpy() @ [*(one + slow_shift(bend, one, crops.grid)), 1])[:3] for one in index])
        places = torch.from_numpy(np.c_[index, np.ones(len(index))]).double()
        told = (bent(bend, places, crops.grid) @ to_mm.T)[:, :3].numpy()
        assert np.abs(told - twin).max() < 1e-5
        straight = (places @ to_mm.T)[:, :3].numpy()
        assert np.abs(told - straight).max() > 0.1
        voxel = (np.c_[twin, np.ones(len(twin))] @ np.linalg.inv(AFFINE).T)[:, :3]
        inside = ((voxel >= 0) & (voxel <= np.array(shape) - 1 + 1e-9)).all(1)
        assert inside.mean() > 0.8
        assert np.abs(batch.x[view, row].flatten(1).T.numpy() - twin)[inside].max() < 0.02
        middle = torch.tensor([[*((n - 1) / 2 for n in crops.grid), 1]], dtype=torch.float64)
        voxel = np.linalg.inv(AFFINE) @ (bent(bend, middle, crops.grid)[0] @ to_mm.T).numpy()
        assert np.abs(batch.where[view, row].numpy() - (voxel[:3] + 0.5) / shape).max() < 1e-9


def test_the_box_of_a_bent_view_holds_all_it_needs(rng):
    grid, shape = (10, 10, 10), (60, 60, 60)
    for _ in range(20):
        place = Crops(size=grid, turn=30, zoom=0.2).draw((30, 30, 30), np.eye(4), rng)
        place[:3, 3] += 15  # far from the rim, beyond which each box has its own lowest value
        bend = draw_bend(0.3, np.ones(3), grid, rng)
        start, stop = bounding_box(place, grid, shape, bend)
        volume = rng.normal(size=(1, *shape))
        shifted = np.eye(4)
        shifted[:3, 3] = -start
        part = volume[:, *(slice(a, b) for a, b in zip(start, stop, strict=True))]
        whole, cut = sample(volume, place, grid, bend=bend), sample(part, shifted @ place, grid, bend=bend)
        inside = (whole - cut).abs() < 1e-3
        assert inside.all()


def test_labels_bend_with_their_picture():
    shape = (30, 30, 30)
    box = np.random.default_rng(0).integers(0, 3, (1, *shape)).astype(np.uint8)
    store = SimpleNamespace(shape=lambda _: shape, affine=lambda _: np.eye(4), read=lambda *_: box)
    crops = Crops(size=(12, 12, 12), turn=0, zoom=0, bend_mm=0.25)
    steps = Steps(store, ROWS, Views(crops=crops, count=1), batch=1, seed=0, target="mask")
    batch = steps[0]
    places = torch.from_numpy(np.stack(np.meshgrid(*[np.arange(12)] * 3, indexing="ij"), -1).reshape(-1, 3)).double()
    voxel = (
        bent(batch.bend[0, 0], torch.cat([places, torch.ones(len(places), 1)], 1), (12, 12, 12)) @ batch.to_mm[0, 0].T
    )
    i, j, k = voxel[:, :3].round().long().T
    clear = (voxel[:, :3] - voxel[:, :3].round()).abs().amax(1) < 0.49  # not where two voxels are as near
    assert (torch.from_numpy(box)[0, i, j, k] == batch.target[0].flatten())[clear].all()


@pytest.mark.parametrize("size", [(16, 16), (12, 12, 12)], ids=["2D", "3D"])
def test_the_same_place_is_the_same_place_in_bent_views(size):
    shape = (30, 30, 1) if len(size) == 2 else (24, 24, 24)
    crops = Crops(size=size, turn=10, bend_mm=0.25, overlap=0.8)
    off = Intensity(gain=0.0, offset=0.0, gamma=0.0, noise=0.0)
    batch = Steps(ramps(shape), ROWS, Views(crops=crops, count=2, intensity=off), batch=1, seed=4)[1]
    bend, to_mm = batch.bend[:, 0], batch.to_mm[:, 0]
    here, there = shared_places(to_mm, size, 64, bend)
    assert len(here) > 16
    first, second = (bent(b, p, crops.grid) @ m.T for b, p, m in zip(bend, (here, there), to_mm, strict=True))
    assert (first - second).abs().max() < 1e-5
    # Read back from the pictures, whose values are the millimetres: between voxels a bend is not quite straight, and
    # beyond the volume there are none.
    off = (at(batch.x[0, 0], here) - at(batch.x[1, 0], there)).abs().amax(1)
    assert off.median() < 0.05
    plain, _ = shared_places(to_mm, size, 64)
    assert len(plain) > 16


def test_a_bend_of_nothing_is_no_bend():
    views = Views(crops=Crops(size=(8, 8, 8)), count=2)
    batch = Steps(ramps((20, 20, 20)), ROWS, views, batch=2, seed=0)[0]
    assert not batch.bend.numel()
    with pytest.raises(UserError, match=r"views\.bend_mm: -1"):
        Crops(size=(8, 8), bend_mm=-1)
