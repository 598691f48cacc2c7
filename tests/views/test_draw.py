"""Batches drawn from a store: every voxel of every view is where its matrix says."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from medssl.views import Crops, Intensity, Steps, Views

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
