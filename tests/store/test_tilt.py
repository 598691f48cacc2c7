"""A tilted CT with padding, made straight: every voxel against the object it shows, in closed form."""

import json

import numpy as np
import pytest

from medssl.store import Preparation, open_store, prepare, verify
from medssl.store.grids import is_sheared, put_on_grid, without_padding
from medssl.store.shards import shard_path
from medssl.volume import Volume

TILT = np.radians(14)
SHAPE, SPACING = (64, 64, 24), (1.0, 1.0, 2.0)
BODY, TISSUE, AIR = np.array([26.0, 24.0]), 40.0, -1000.0
"""Semi-axes in mm of an elliptic cylinder along z, and what it and its surroundings have in HU."""

SETTINGS = Preparation(ct_spacing=(1.0, 1.0, 1.0), ct_window=(-1000.0, 1000.0))


def tilted_affine(tilt=TILT):
    """RAS+ of slices tilted about x: each is `spacing` further along z and slides along y."""
    affine = np.diag([*SPACING, 1.0])
    affine[1, 2] = SPACING[2] * np.tan(tilt)
    middle = affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    affine[:3, 3] = -middle
    return affine


def grid_of(volume):
    return volume.world(np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), -1))


def hounsfield(points):
    """Tissue with a gradient in a cylinder, air around it."""
    inside = ((points[..., :2] / BODY) ** 2).sum(-1) < 1
    return np.where(inside, TISSUE + points[..., 2] - 0.5 * points[..., 0], AIR)


def scan(padding, affine=None, radius=31.0):
    """A CT whose round field of view (`radius` in pixels) cuts through the object; `padding` around it."""
    affine = tilted_affine() if affine is None else affine
    blank = Volume(np.empty((1, *SHAPE), np.float32), affine, modality="CT", unit="HU")
    i, j = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in SHAPE[:2]), indexing="ij")
    outside = np.broadcast_to((np.hypot(i, j) > radius)[..., None], SHAPE)
    values = np.where(outside, padding, hounsfield(grid_of(blank))).astype(np.float32)
    return Volume(values[None], affine, modality="CT", unit="HU"), outside


@pytest.mark.parametrize("padding", [-1024.0, -2000.0, -3024.0])
@pytest.mark.parametrize("radius", [31.0, 20.0])
def test_a_tilted_scan_is_straight_and_no_padding_bleeds_into_it(padding, radius):
    """At radius 20 the field of view cuts through tissue, where a mix of tissue and padding would show at once."""
    tilted, outside = scan(padding, radius=radius)
    assert np.array_equal(without_padding(tilted).valid, ~outside)
    there = put_on_grid(tilted, SETTINGS)
    assert not is_sheared(there.affine)
    assert there.spacing == pytest.approx((1, 1, 1))
    points, valid = grid_of(there), there.valid
    body = ((points[..., :2] / BODY) ** 2).sum(-1)
    from_axis = np.hypot(points[..., 0], points[..., 1] - points[..., 2] * np.tan(TILT))
    far = np.abs(points[..., 2]) < SHAPE[2] * SPACING[2] / 2
    assert valid[far & (from_axis < radius - 2)].all()
    assert not valid[from_axis > radius + 1.5].any()
    deep = valid & (body < 0.85)
    # A voxel at the padding's edge takes its real neighbours' mean: within one voxel's change of the gradient.
    assert np.abs(there.voxels[0][deep] - hounsfield(points)[deep]).max() < 2.0
    inner = deep & (from_axis < radius - 2) & (np.abs(points[..., 2]) < SHAPE[2] * SPACING[2] / 2 - 1)
    assert np.abs(there.voxels[0][inner] - hounsfield(points)[inner]).max() < 1e-3, "linear values stay exact inside"
    assert there.voxels[0][valid].min() >= AIR - 1e-3


def test_the_other_way_of_tilting_goes_the_other_way():
    middles = []
    for tilt in (TILT, -TILT):
        tilted, _ = scan(-2000.0, tilted_affine(tilt))
        there = put_on_grid(tilted, SETTINGS)
        top = there.valid & (grid_of(there)[..., 2] > 20)
        middles.append(grid_of(there)[top][:, 1].mean())
    assert middles[0] == pytest.approx(-middles[1], abs=0.5)
    assert middles[0] > 4, "the upper slices lie further to the front"


def test_air_is_not_padding():
    straight = np.diag([*SPACING, 1.0])
    noise = np.random.default_rng(0).normal(0, 15, SHAPE)
    noisy, _ = scan(AIR, straight)
    noisy.voxels[0] += np.clip(noise, -100, 100)
    assert without_padding(noisy) is noisy
    oblong = noisy.crop((0, 0, 0), (64, 40, 24))
    oblong.voxels[:] = AIR
    oblong.voxels[0, 20:40, 10:30] = TISSUE
    assert without_padding(oblong) is oblong, "without a round field of view, air of one value is air"


def test_the_store_keeps_what_was_measured(clinic):
    tilted, _ = scan(-2000.0)
    stored = tilted.voxels[0].astype(np.int16)
    volume_id = clinic.scan("a", modality="CT", voxels=stored, affine=tilted.affine)
    prepare(clinic.write(), clinic.store, settings=SETTINGS)
    store = open_store(clinic.store)
    valid, image = store.read(volume_id, "valid"), store.read(volume_id)
    row = json.loads((clinic.store / "arrays" / volume_id / "row.json").read_text())
    assert store.volumes["has_valid"].tolist() == [True]
    assert row["valid_fraction"] == pytest.approx(valid.mean())
    assert (image[valid == 0] == -1).all()
    assert row["p0_5"] >= AIR - 1, "padding is in no statistic"
    assert row["mean"] == pytest.approx(float(image[valid == 1].astype(np.float64).mean() * 1000), abs=2)
    half = store.read(volume_id, "valid", start=(0, 0, 5), stop=(9, 9, 9))
    assert np.array_equal(half, valid[:, :9, :9, 5:9])
    assert not verify(clinic.store).damage
    path = shard_path(clinic.store / "arrays" / volume_id / "valid")
    content = bytearray(path.read_bytes())
    content[40] ^= 4
    path.write_bytes(content)
    assert [finding.code for finding in verify(clinic.store).damage] == ["ARRAY_DAMAGED"]


def test_a_volume_that_was_measured_throughout_has_no_such_array(clinic):
    volume_id = clinic.scan("a")
    prepare(clinic.write(), clinic.store, settings=SETTINGS)
    assert not (clinic.store / "arrays" / volume_id / "valid").exists()
    assert open_store(clinic.store).volumes["has_valid"].tolist() == [False]
