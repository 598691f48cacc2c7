"""The one interpolation against a slow twin: voxel by voxel, neighbour by neighbour."""

import itertools

import numpy as np
import pytest
import torch

from medssl.views.bend import shift
from medssl.views.crops import STRAIGHT
from medssl.views.geometry import joined, sample


def slow(box, matrix, grid, order, bend):
    """Outside each channel's lowest value (nearest: 0); an axis of one voxel has no outside."""
    found = np.zeros((len(box), *grid))
    for at in np.ndindex(*grid):
        place = np.array(at, dtype=float)
        if bend.numel():
            place += shift(bend, torch.from_numpy(place[None]), grid)[0].numpy()
        there = matrix[:3, :3] @ place + matrix[:3, 3]
        there[np.array(box.shape[1:]) == 1] = 0
        for channel, values in enumerate(box.astype(float)):
            fill = values.min() if order == "bilinear" else 0.0

            def value(index, values=values, fill=fill):
                inside = all(0 <= n < size for n, size in zip(index, values.shape, strict=True))
                return values[tuple(index)] if inside else fill

            if order == "nearest":
                found[(channel, *at)] = value(np.rint(there).astype(int))
                continue
            lower = np.floor(there).astype(int)
            for corner in itertools.product((0, 1), repeat=3):
                share = np.prod(np.where(corner, there - lower, 1 - (there - lower)))
                found[(channel, *at)] += share * value(lower + corner)
    return found


def matrix(kind, rng):
    linear = {
        "turned": rng.uniform(-1, 1, (3, 3)),
        "scaled": np.diag(rng.uniform(-1.5, 1.5, 3)),
        "whole": np.diag(rng.choice([-1.0, 1.0], 3)),
    }[kind]
    place = np.eye(4)
    place[:3, :3] = linear
    place[:3, 3] = rng.uniform(-2, 6, 3)
    if kind == "whole":
        place[:3, 3] = np.round(place[:3, 3])
    return place


@pytest.mark.parametrize("kind", ["turned", "scaled", "whole"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_path_is_the_slow_one(kind, dtype):
    rng = np.random.default_rng(["turned", "scaled", "whole"].index(kind))
    for number in range(24):
        shape = tuple(int(n) for n in rng.integers(1, 10, 3))
        grid = tuple(int(n) for n in rng.integers(1, 7, 3))
        box = rng.normal(size=(2, *shape)).astype(dtype)
        place = matrix(kind, rng)
        bend = STRAIGHT
        if number % 3 == 0:
            bend = torch.from_numpy(rng.uniform(-0.5, 0.5, (3, *(6 if n > 1 else 1 for n in grid))))
        found = sample(box, place, grid, bend=bend).numpy()
        assert np.abs(found - slow(box, place, grid, "bilinear", bend)).max() < 1e-4
        if kind == "turned":  # between two voxels, and only there, rounding may choose
            labels = rng.integers(1, 5, (1, *shape)).astype(np.uint8)
            near = sample(labels, place, grid, "nearest", bend).numpy()
            assert (near == slow(labels, place, grid, "nearest", bend)).mean() > 0.99


def test_whole_voxels_are_copied_bit_for_bit(rng):
    box = rng.normal(size=(1, 9, 8, 7)).astype(np.float32)
    place = np.eye(4)
    place[:3, 3] = [2, 6, 1]
    place[1, 1] = -1
    found = sample(box, place, (5, 4, 3))
    assert (found.numpy() == box[:, 2:7, 6:2:-1, 1:4]).all()
    assert (sample(box > 0, place, (5, 4, 3), "nearest").numpy() == (box > 0)[:, 2:7, 6:2:-1, 1:4]).all()
    flat, place[1, 1], place[1, 3], place[2, 3] = box[..., :1], 1, 0, 3.7
    assert (sample(flat, place, (5, 4, 1)).numpy() == flat[:, 2:7, :4]).all(), "an axis of one voxel has no places"
    assert (sample(flat, place, (5, 4, 2)).numpy() == flat[:, 2:7, :4]).all()
    found.zero_()
    assert box[:, 2:7, 6:2:-1, 1:4].all(), "a view is no window on the volume"


def test_an_interpolation_within_the_box_and_one_that_reaches_its_rim_agree(rng):
    box = rng.normal(size=(1, 20, 20, 20)).astype(np.float16)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    turn[:3, 3] = [6.3, 3.2, 5.1]
    wide = np.pad(box, ((0, 0), *[(3, 3)] * 3), constant_values=box.min())
    moved = turn.copy()
    moved[:3, 3] += 3
    within, reaching = sample(box, turn, (8, 8, 8)), sample(wide, moved, (8, 8, 8))
    assert torch.allclose(within, reaching, atol=1e-5)
    turn[:3, 3] -= 8
    moved[:3, 3] -= 8
    assert torch.allclose(sample(box, turn, (8, 8, 8)), sample(wide, moved, (8, 8, 8)), atol=1e-5)


def test_what_is_as_near_to_two_voxels_has_the_value_of_the_one_behind():
    labels, place = np.arange(1, 9, dtype=np.uint8).reshape(1, 2, 2, 2), np.eye(4)
    place[:3, :3], place[:3, 3] = np.eye(3)[[1, 2, 0]] * 0.5, -0.5
    found = sample(labels, place, (4, 4, 4), "nearest")[0].numpy()
    behind = np.array([0, 0, 1, 1])  # of places -.5, 0, .5 and 1
    expected = labels[0].transpose(2, 0, 1)[np.ix_(behind, behind, behind)]
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("spacing", [0.72, 0.82, 0.94, 1.0, 3.3])
def test_whole_voxels_are_told_in_spite_of_rounding(spacing, rng):
    box, place = rng.normal(size=(1, 9, 8, 7)).astype(np.float32), np.eye(4)
    place[:3, :3] = np.diag([1 / spacing] * 3) @ np.diag([spacing] * 3)
    place[:3, 3] = np.array([2, 1, 3]) * spacing / spacing + 1e-15
    assert (sample(box, place, (5, 4, 3)).numpy() == box[:, 2:7, 1:5, 3:6]).all()


def box(start, stop):
    return np.array(start), np.array(stop)


def test_boxes_are_read_as_one_where_no_more_chunks_are_decoded():
    near, inside, far = box((0, 0, 0), (40, 40, 40)), box((2, 3, 4), (6, 6, 6)), box((600, 0, 0), (640, 10, 10))
    reads, which = joined([near, far, inside, box((30, 0, 0), (60, 40, 40))])
    assert which == [0, 1, 0, 0]
    assert np.array_equal(reads[0], box((0, 0, 0), (60, 40, 40))) and np.array_equal(reads[1], far)
    beside = [box((0, 0, 0), (8, 8, 8)), box((20, 20, 20), (31, 31, 31))]
    assert joined(beside)[1] == [0, 0], "both are in one chunk"


def test_every_box_is_in_what_is_read_and_that_is_no_more_than_all_of_them(rng):
    for count in (1, 2, 5, 9) * 10:
        starts = rng.integers(0, 400, (count, 3))
        boxes = list(zip(starts, starts + rng.integers(1, 200, (count, 3)), strict=True))
        reads, which = joined(boxes)
        for (start, stop), number in zip(boxes, which, strict=True):
            assert (reads[number][0] <= start).all() and (reads[number][1] >= stop).all()
        assert chunks(reads) <= chunks(boxes)


def chunks(boxes):
    return sum(
        len(set(itertools.product(*(range(a // 32, (b - 1) // 32 + 1) for a, b in zip(start, stop, strict=True)))))
        for start, stop in boxes
    )
