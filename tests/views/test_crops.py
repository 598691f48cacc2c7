import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.errors import UserError
from medssl.views.crops import Crops, part_of
from medssl.views.geometry import bounding_box, sample


def ramp(shape, affine):
    """A volume whose three channels are its own world coordinates: whoever reads it back knows where they are."""
    index = np.stack([*np.meshgrid(*map(np.arange, shape), indexing="ij"), np.ones(shape)], -1)
    return np.moveaxis(index @ affine[:3].T, -1, 0)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    spacing=st.tuples(*[st.floats(0.4, 4.0)] * 3),
    size=st.sampled_from([(8, 8, 8), (4, 10, 6)]),
)
def test_a_view_knows_its_millimetres(seed, spacing, size):
    shape, rng = (24, 30, 20), np.random.default_rng(seed)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = rng.normal(size=3) * 20
    place = Crops(size=size, turn=25, zoom=0.2, flips=(0, 2)).draw(shape, affine, rng)
    start, stop = bounding_box(place, size, shape)
    shift = np.eye(4)
    shift[:3, 3] = -start
    box = ramp(shape, affine)[:, *(slice(a, b) for a, b in zip(start, stop, strict=True))]
    seen = sample(box, shift @ place, size).numpy()
    index = np.stack([*np.meshgrid(*map(np.arange, size), indexing="ij"), np.ones(size)], -1)
    inside = (((index @ place[:3].T) >= 0) & (index @ place[:3].T <= np.array(shape) - 1)).all(-1)
    told = np.moveaxis(index @ (affine @ place)[:3].T, -1, 0)
    assert np.abs(seen - told)[:, inside].max() < 1e-3
    assert inside.mean() > 0.3


def test_2d_views_lie_in_the_only_slice():
    place = Crops(size=(16, 16), turn=30).draw((40, 50, 1), np.eye(4), np.random.default_rng(1))
    corners = np.array([[0, 0, 0, 1], [15, 15, 0, 1]]) @ place.T
    assert np.allclose(corners[:, 2], 0)


@pytest.mark.parametrize(
    "laws", [{}, {"overlap": 0.5}, {"inside": True}, {"parts": 1}, {"apart_mm": 4.0}, {"centre": True}], ids=str
)
@pytest.mark.parametrize("slices", [1, 12, 13])
def test_2d_views_lie_on_a_slice_and_on_any_of_them(slices, laws):
    crops, shape = Crops(size=(8, 8), turn=30, **laws), (20, 20, slices)
    drawn = [crops.draw_views(shape, np.eye(4), [np.random.default_rng((n, v)) for v in (0, 1)]) for n in range(200)]
    middles = np.array([[crops.middle(place)[2] for place in places] for places in drawn])
    assert np.abs(middles - middles.round()).max() < 1e-9
    assert {round(n) for n in middles.flat} == set(range(slices))
    assert crops.middle(crops.centred(shape, np.eye(4)))[2] == slices // 2
    if laws == {"parts": 1}:
        assert (middles[:, 0] == middles[:, 1]).all()


def test_crops_in_mm_cover_those_mm():
    crops = Crops(size=(10, 10, 5), mm=(30, 30, 20), turn=0, zoom=0)
    affine = np.diag([1.5, 1.5, 2.0, 1.0])
    to_mm = affine @ crops.draw((40, 40, 20), affine, np.random.default_rng(0))
    assert np.allclose(np.linalg.norm(to_mm[:3, :3], axis=0), [3, 3, 4])


@pytest.mark.parametrize("size", [(10, 10), (8, 10, 8)], ids=["2D", "3D"])
def test_corners_of_turned_views_stay_inside_if_asked_to(size):
    shape, affine, out, middles = (22, 26, 20), np.diag([1.0, 1.2, 0.8, 1.0]), 0, []
    grid = (*size, 1)[:3]
    corners = np.array([[*place, 1] for place in np.ndindex(2, 2, 2)]) * [*(n - 1 for n in grid), 1]
    for seed in range(60):
        laws = [Crops(size=size, turn=30, zoom=0.1, flips=(0,), inside=inside) for inside in (True, False)]
        kept, free = (law.draw(shape, affine, np.random.default_rng(seed)) for law in laws)
        found = (corners @ kept.T)[:, :3]
        assert found.min() >= -1e-9 and (found.max(0) <= np.array(shape) - 1 + 1e-9).all()
        reached = (corners @ free.T)[:, :3]
        out += reached.min() < 0 or bool((reached.max(0) > np.array(shape) - 1).any())
        assert np.allclose(kept[:3, :3], free[:3, :3])
        middles.append(laws[0].middle(kept))
        # Without a turn there is nothing to keep inside, and the draw is what it was, bit for bit.
        flat = [Crops(size=size, turn=0, inside=inside) for inside in (True, False)]
        first, second = (law.draw(shape, affine, np.random.default_rng(seed)) for law in flat)
        assert np.array_equal(first, second)
    assert out >= 10 and np.ptp(middles, axis=0).min() > 4


def test_corners_of_turned_slabs_stay_inside_if_asked_to():
    crops = Crops(size=(8, 8, 4), turn=30, zoom=0.1, apart_mm=5, inside=True)
    corners = np.array([[*place, 1] for place in np.ndindex(2, 2, 2)]) * [7, 7, 3, 1]
    for seed in range(30):
        rngs = [np.random.default_rng((seed, view)) for view in range(3)]
        places = crops.draw_views((24, 24, 30), np.eye(4), rngs)
        assert all((corners @ place.T)[:, :3].min() >= -1e-9 for place in places)
        assert all((corners @ place.T)[:, 2].max() <= 29 + 1e-9 for place in places)
        assert np.diff([crops.middle(place)[2] for place in places]) == pytest.approx(5)


def test_a_small_crop_stays_inside_the_volume():
    for seed in range(50):
        place = Crops(size=(8, 8, 8), turn=0, zoom=0).draw((20, 30, 9), np.eye(4), np.random.default_rng(seed))
        corners = np.array([[0, 0, 0, 1], [7, 7, 7, 1]]) @ place.T
        assert corners[:, :3].min() >= 0
        assert (corners[:, :3].max(0) <= [19, 29, 8]).all()


def test_the_centred_view_of_a_volume_of_its_size_is_the_volume(rng):
    box = rng.normal(size=(1, 6, 7, 8)).astype(np.float32)
    place = Crops(size=(6, 7, 8)).centred((6, 7, 8), np.eye(4))
    assert torch.allclose(sample(box, place, (6, 7, 8)), torch.from_numpy(box), atol=1e-6)


def test_outside_the_volume_is_its_lowest_value(rng):
    box = rng.normal(size=(1, 4, 4, 4)).astype(np.float32)
    place = Crops(size=(12, 4, 4)).centred((4, 4, 4), np.eye(4))
    assert sample(box, place, (12, 4, 4))[0, 0, 0, 0].item() == pytest.approx(box.min())


def test_masks_are_not_mixed(rng):
    box = rng.integers(0, 4, (1, 9, 9, 9)).astype(np.uint8)
    place = Crops(size=(8, 8, 8), turn=20).draw((9, 9, 9), np.eye(4), rng)
    assert set(sample(box, place, (8, 8, 8), "nearest").unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": (8,)}, {"size": (8, 8), "mm": (1.0,)}, {"size": (8, 8), "flips": (2,)}, {"size": (8, 8), "p": 1.5},
        {"size": (8, 8), "mm": (-8.0, 8.0)}, {"size": (8, 8), "zoom": 1.5}, {"size": (8, 8), "turn": -1.0},
        {"size": (8, 8), "parts": -2}, {"size": (8, 8, 8), "parts": 2}, {"size": (8, 8), "parts": 2, "along": 1},
    ],
)  # fmt: skip
def test_impossible_crops_are_refused(wrong):
    with pytest.raises(UserError, match=r"views\."):
        Crops(**wrong)


def test_turns_zooms_and_bends_happen_as_often_as_asked():
    crops = Crops(size=(8, 8, 8), turn=30, zoom=0.3, bend_mm=0.2, p=0.2)
    rng, turned, zoomed, bent = np.random.default_rng(0), 0, 0, 0
    for _ in range(1000):
        linear = crops.draw((30, 30, 30), np.eye(4), rng)[:3, :3]
        turned += np.abs(linear - np.diag(np.diag(linear))).max() > 1e-9
        zoomed += abs(np.linalg.det(linear) - 1) > 1e-9
        bent += bool(crops.draw_bend(np.eye(4), np.eye(4), rng).any())
    for count in (turned, zoomed, bent):
        assert abs(count - 200) < 4 * np.sqrt(1000 * 0.2 * 0.8)


@pytest.mark.parametrize("flips", [(), (0, 2)])
def test_what_is_neither_turned_nor_zoomed_is_the_volume_s_own_voxels(rng, flips):
    box = rng.normal(size=(1, 12, 11, 10)).astype(np.float32)
    crops = Crops(size=(6, 5, 4), turn=0, zoom=0, flips=flips)
    starts = set()
    for _ in range(50):
        place = crops.draw(box.shape[1:], np.eye(4), rng)
        assert set(sample(box, place, crops.grid).flatten().tolist()) <= set(box.flatten().tolist())
        starts.add(tuple(place[:3, 3]))
    assert len(starts) > 20


def rngs(seed, count):
    return [np.random.default_rng((seed, view)) for view in range(count)]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), overlap=st.sampled_from([0.25, 0.5, 0.9]))
def test_further_views_share_what_they_must_with_the_first(seed, overlap):
    crops = Crops(size=(10, 8, 6), turn=0, zoom=0, overlap=overlap)
    first, *others = crops.draw_views((60, 50, 40), np.eye(4), rngs(seed, 4))
    for other in others:
        shared = 1 - np.abs(crops.middle(other) - crops.middle(first)) / crops.size
        assert (shared >= overlap - 1e-9).all()


def test_without_overlap_views_are_drawn_as_if_alone():
    crops = Crops(size=(8, 8, 8))
    together = crops.draw_views((30, 30, 30), np.eye(4), rngs(5, 3))
    alone = [crops.draw((30, 30, 30), np.eye(4), rng) for rng in rngs(5, 3)]
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("count", [4, 7, 30])
def test_each_part_has_its_view_and_every_slice_is_in_one_part(count):
    crops = Crops(size=(8, 8), turn=0, parts=4)
    seen = set()
    for seed in range(200):
        places = crops.draw_views((20, 20, count), np.eye(4), rngs(seed, 8))
        slices = [crops.middle(place)[2] for place in places]
        assert all(number == int(number) for number in slices)
        assert [int(8 * number + 4) // (2 * count) for number in slices] == [0, 1, 2, 3] * 2  # the part of its middle
        assert slices[:4] == slices[4:]
        seen.update(slices)
    assert seen == set(range(count))
    with pytest.raises(UserError, match=r"views\.parts: 4, but a volume has 3 slices"):
        crops.draw_views((20, 20, 3), np.eye(4), rngs(0, 4))


def test_who_draws_parts_and_who_compares_them_mean_the_same_parts():
    """Every depth up to 40 and every number of parts: a view drawn for part p is in part p by the place it tells."""
    for count in range(1, 41):
        for parts in range(1, count + 1):
            crops = Crops(size=(4, 4), turn=0, parts=parts)
            places = crops.draw_views((8, 8, count), np.eye(4), rngs(count, parts))
            told = torch.tensor([(crops.middle(place)[2] + 0.5) / count for place in places], dtype=torch.float64)
            assert part_of(told, parts).tolist() == list(range(parts))
            slow = [(2 * number + 1) * parts // (2 * count) for number in range(count)]  # whole numbers, no rounding
            assert part_of((np.arange(count) + 0.5) / count, parts).tolist() == slow
            assert set(slow) == set(range(parts))


@pytest.mark.parametrize("wrong", [{"overlap": 1.1}, {"overlap": -0.1}, {"along": 3}])
def test_views_that_cannot_be(wrong):
    with pytest.raises(UserError, match=r"views\."):
        Crops(size=(8, 8), **wrong)
