"""Batches drawn from a store: every voxel of every view is where its matrix says."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from medssl.views import Crops, Intensity, Steps, Views
from medssl.views.select import build_views

OFF = Intensity(gain=0.0, offset=0.0, gamma=0.0, noise=0.0)
AFFINE = np.array([[0.0, 1.2, 0, -30], [0.8, 0, 0, 12], [0, 0, 2.0, 5], [0, 0, 0, 1]])


def ramps(shape):
    """A store of two volumes whose voxels hold their own world coordinates (three channels)."""
    index = np.stack([*np.meshgrid(*map(np.arange, shape), indexing="ij"), np.ones(shape)], -1)
    world = np.moveaxis(index @ AFFINE[:3].T, -1, 0).astype(np.float32)
    return SimpleNamespace(shape=lambda _: shape, affine=lambda _: AFFINE.copy(), read=lambda *_: world)


ROWS = pd.DataFrame(
    {"volume_id": ["a", "b"], "modality": "MR", "patient_pid": ["p", "q"], "scanner": ["s", "t"], "sick": [0.0, 1.0]}
)


@pytest.mark.parametrize(("shape", "size"), [((40, 36, 30), (8, 10, 6)), ((40, 36, 1), (8, 10))], ids=["3D", "2D"])
def test_every_voxel_is_where_its_matrix_says(shape, size):
    views = Views(crops=Crops(size=size, turn=15, zoom=0.2, flips=(1,)), count=2, intensity=OFF)
    batch = Steps(ramps(shape), ROWS, views, batch=2, seed=3)[5]
    assert batch.x.shape == (2, 2, 3, *size)
    index = np.stack(np.meshgrid(*map(np.arange, (*size, 1)[:3]), indexing="ij"), -1).reshape(-1, 3)
    for view in range(2):
        for row in range(2):
            told = np.c_[index, np.ones(len(index))] @ batch.to_mm[view, row].numpy()[:3].T
            seen = batch.x[view, row].flatten(1).T.numpy()
            assert np.abs(seen - told).max() < 0.02  # float32 over a hundred millimetres, and OFF's rounding


def test_a_step_is_the_same_whoever_draws_it_and_steps_differ():
    views = Views(crops=Crops(size=(8, 8, 8)), count=1)
    one, other = (Steps(ramps((20, 20, 20)), ROWS, views, batch=2, seed=0) for _ in range(2))
    other[3]
    assert torch.equal(one[7].x, other[7].x)
    assert not torch.equal(one[7].x, one[8].x)


def test_labels_patients_and_scanners_travel_with_their_rows():
    views = Views(crops=Crops(size=(8, 8, 8)), count=1, alter=False)
    batch = Steps(ramps((20, 20, 20)), ROWS, views, batch=2, seed=0, target="sick")[0]
    assert (batch.target == batch.patient).all()
    assert (batch.scanner == batch.patient).all()


@pytest.mark.parametrize(("shape", "size"), [((40, 36, 30), (16, 12, 10)), ((40, 36, 1), (16, 12))], ids=["3D", "2D"])
def test_small_views_lie_within_the_whole_ones(shape, size):
    section = {"size": [str(n) for n in size], "turn": "0", "zoom": "0", "intensity": {}, "small": {
        "size": [str(n // 2) for n in size], "turn": "0", "zoom": "0", "count": "5"}}  # fmt: skip
    views = build_views(section)
    steps = Steps(ramps(shape), ROWS, dataclasses.replace(views, intensity=OFF), batch=2, seed=1)
    for step in range(6):
        batch = steps[step]
        assert batch.small.shape == (5, 2, 3, *(n // 2 for n in size))
        for row in range(2):
            for n in range(5):
                whole = batch.x[n % 2, row].flatten(1)
                small = batch.small[n, row].flatten(1)
                assert (small.amin(1) >= whole.amin(1) - 0.02).all() and (small.amax(1) <= whole.amax(1) + 0.02).all()
    assert build_views(section, count=1).small_count == 0


def test_views_say_where_in_their_volume_they_are():
    shape = (40, 36, 30)
    batch = Steps(ramps(shape), ROWS, Views(crops=Crops(size=(8, 8, 8)), intensity=OFF), batch=2, seed=4)[2]
    middle = torch.cat([torch.full((3,), 3.5, dtype=torch.float64), torch.ones(1, dtype=torch.float64)])
    voxel = torch.linalg.inv(torch.from_numpy(AFFINE)) @ batch.to_mm @ middle
    assert torch.allclose(batch.where, (voxel[..., :3] + 0.5) / torch.tensor(shape), atol=1e-9)
    assert torch.allclose((batch.to_share @ middle)[..., :3], batch.where, atol=1e-9)


def test_a_large_volume_is_read_by_the_box_and_gives_the_same_views(monkeypatch):
    index = ramps((40, 36, 30)).read()
    boxes = []

    def read(_, __, start=None, stop=None):
        boxes.append((start, stop))
        return index if start is None else index[:, *(slice(a, b) for a, b in zip(start, stop, strict=True))]

    store = ramps((40, 36, 30))
    store.read = read
    views = Views(crops=Crops(size=(8, 8, 8), overlap=0.5), small=Crops(size=(4, 4, 4)), small_count=3)
    kept = Steps(store, ROWS, views, batch=2, seed=0)[3]
    assert boxes == [(None, None)] * 2
    monkeypatch.setattr("medssl.views.draw.CACHE_BYTES", 1 << 10)
    boxes.clear()
    read_by_box = Steps(store, ROWS, views, batch=2, seed=0)[3]
    assert len(boxes) == 2 and all(start is not None and max(np.subtract(stop, start)) < 30 for start, stop in boxes)
    assert torch.allclose(kept.x, read_by_box.x, atol=1e-4) and torch.allclose(kept.small, read_by_box.small, atol=1e-4)


@pytest.mark.parametrize("target", ["", "mask"])
def test_views_far_apart_are_read_by_themselves_and_are_the_same(monkeypatch, target):
    index = ramps((200, 12, 12)).read()
    boxes = []

    def read(_, __, start=None, stop=None):
        boxes.append((start, stop))
        return index if start is None else index[:, *(slice(a, b) for a, b in zip(start, stop, strict=True))]

    store = ramps((200, 12, 12))
    store.read = read
    views = Views(crops=Crops(size=(8, 8, 8)), small=Crops(size=(4, 4, 4)), count=3, small_count=6)

    def batches():
        return [Steps(store, ROWS[:1], views, batch=1, seed=2, target=target)[step] for step in range(8)]

    kept = batches()
    monkeypatch.setattr("medssl.views.draw.CACHE_BYTES", 1 << 10)
    boxes.clear()
    for one, other in zip(kept, batches(), strict=True):
        assert torch.equal(one.x, other.x) and torch.equal(one.small, other.small)
        assert torch.equal(one.target, other.target)
    assert 8 < len(boxes) <= (32 if target else 24)
    assert max(stop[0] - start[0] for start, stop in boxes) < 80


def test_volumes_are_kept_while_there_is_room_and_then_read_by_the_box(monkeypatch):
    index = ramps((40, 36, 30)).read()
    whole = []

    def read(volume_id, _, start=None, stop=None):
        whole.append((volume_id, start is None))
        return index if start is None else index[:, *(slice(a, b) for a, b in zip(start, stop, strict=True))]

    store = ramps((40, 36, 30))
    store.read = read
    monkeypatch.setattr("medssl.views.draw.CACHE_BYTES", index.nbytes + 1000)
    monkeypatch.setattr("medssl.views.draw.KEPT", 1)
    steps = Steps(store, ROWS, Views(crops=Crops(size=(8, 8, 8)), count=1), batch=2, seed=0)
    for step in range(5):
        steps[step]
    first, second = ([one for name, one in whole if name == volume] for volume in "ab")
    if len(first) > 1:
        first, second = second, first
    assert first == [True] and second == [False] * 5
