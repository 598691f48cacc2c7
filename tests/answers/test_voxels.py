"""Maps of a whole volume out of a store: what is read, what the rim of the volume looks like, and where nothing is lost."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from medssl.answers import Ensemble, detection_maps, label_maps, place_of
from medssl.errors import UserError
from medssl.heads import build_head
from medssl.learners import Supervised
from medssl.trunks import build_trunk
from medssl.views import Crops

SHAPE = (14, 18, 10)
SIZE = (8, 8, 8)


def stored(volume):
    """A store of one volume, its row, and the boxes that were read of it."""
    read, shape = [], volume.shape[1:]

    def box(_, name, start, stop):
        assert name == "image"
        read.append((start, stop))
        return volume[:, *(slice(a, b) for a, b in zip(start, stop, strict=True))]

    turned = np.diag([1.0, -1, 1, 1])
    turned[1, 3] = shape[1] - 1
    row = {"volume_id": "v", "shape": shape, "affine": turned.ravel()}
    row |= {"prepared_shape": shape, "prepared_affine": np.eye(4).ravel()}
    return SimpleNamespace(shape=lambda _: shape, read=box), pd.Series(row), read


def model(head, size=SIZE, channels=1):
    torch.manual_seed(0)
    trunk = build_trunk({"name": "resenc", "widths": ["4", "8"], "channels": str(channels)}, size)
    net = Supervised(trunk, build_head(head, trunk)).eval()
    if head["name"] == "detect":  # sure of a few voxels
        with torch.no_grad():
            net.head.last.weight.mul_(30)
            net.head.last.bias.fill_(-4)
    return net


SEGMENT, DETECT = {"name": "segment", "structures": ["a", "b"]}, {"name": "detect", "by": "dynamic-fast"}


@torch.no_grad()
def test_no_more_is_read_than_a_window_at_a_time():
    store, row, read = stored(np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float16))
    models = Ensemble(models=(model(SEGMENT),), crops=Crops(size=SIZE))
    label_maps(models, store, row, place_of(row))
    assert len(read) == 3 * 4 * 2
    assert all(np.subtract(stop, start).tolist() == list(SIZE) for start, stop in read)


@torch.no_grad()
def test_beyond_a_small_volume_lies_what_trainings_see_there():
    """Each channel's own lowest value: a volume with that rim written around it gives the same map."""
    rng = np.random.default_rng(0)
    small = rng.normal(size=(2, 6, 18, 10)).astype(np.float16) + np.array([5, -3], np.float16).reshape(2, 1, 1, 1)
    small[:, :, ::2, ::2] = small.min((1, 2, 3), keepdims=True)  # the lowest value is in every window
    wide = np.concatenate(
        [np.broadcast_to(small.min((1, 2, 3), keepdims=True), (2, 1, 18, 10)), small, small[:, :1]], 1
    )
    wide[:, -1] = small.min((1, 2, 3), keepdims=True)[:, 0]
    models = Ensemble(models=(model(SEGMENT, channels=2),), crops=Crops(size=SIZE))
    maps = []
    for volume in (small, wide):
        store, row, _ = stored(volume)
        maps.append(label_maps(models, store, row, place_of(row, "prepared_")).prepared)
    assert (maps[0] == maps[1][1:-1]).all() and len(np.unique(maps[0])) > 1


@torch.no_grad()
def test_flat_models_judge_every_slice_of_a_stack():
    store, row, _ = stored(np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float16))
    models = Ensemble(models=(model(SEGMENT, (8, 8)),), crops=Crops(size=(8, 8)))
    found = label_maps(models, store, row, place_of(row, "prepared_")).prepared
    assert found.shape == SHAPE and all(len(np.unique(found[..., k])) > 1 for k in range(SHAPE[2]))


@pytest.mark.parametrize("head", [SEGMENT, DETECT], ids=["segment", "detect"])
@torch.no_grad()
def test_a_mirrored_volume_has_the_mirrored_map(head):
    volume = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float16)
    models = Ensemble(models=(model(head),), crops=Crops(size=SIZE), flips=(0, 2))
    maps = []
    for one in (volume, np.ascontiguousarray(volume[:, ::-1, :, ::-1])):
        store, row, _ = stored(one)
        maps.append((label_maps if head is SEGMENT else detection_maps)(models, store, row, place_of(row)))
    assert np.allclose(maps[0].prepared, maps[1].prepared[::-1, :, ::-1], atol=1e-5)
    assert np.allclose(maps[0].written, maps[1].written[::-1, :, ::-1], atol=1e-5)
    assert len(np.unique(maps[0].prepared)) > 1


@torch.no_grad()
def test_a_map_that_would_lose_a_candidate_stays_on_the_prepared_grid():
    volume = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float16)
    store, row, _ = stored(volume)
    models = Ensemble(models=(model(DETECT),), crops=Crops(size=SIZE))
    turned = detection_maps(models, store, row, place_of(row))
    assert turned.note == "" and turned.place.affine[1, 1] == -1
    assert (turned.written == turned.prepared[:, ::-1]).all() and len(np.unique(turned.written)) > 2
    row["shape"], row["affine"] = (14, 1, 1), np.diag([1.0, 40, 40, 1]).ravel()
    kept = detection_maps(models, store, row, place_of(row))
    assert "candidates would be" in kept.note
    assert kept.place.is_(place_of(row, "prepared_")) and (kept.written == kept.prepared).all()


def test_views_in_mm_are_not_those_of_the_prepared_grid():
    store, row, _ = stored(np.zeros((1, *SHAPE), np.float16))
    models = Ensemble(models=(model(SEGMENT),), crops=Crops(size=SIZE, mm=(9.0, 9.0, 9.0)))
    with pytest.raises(UserError, match=r"views\.mm: voxels are judged on the prepared grid"):
        label_maps(models, store, row, place_of(row))
