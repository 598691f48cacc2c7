"""Regions of views of one place: which are compared, the paper's golden values, and which views are refused."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from medssl.errors import UserError
from medssl.methods.regions import RegionContrast
from medssl.trunks import build_trunk
from medssl.views import Crops
from medssl.views.select import build_views

GRIDS = {"2D": ((8, 12), ("2", "3")), "3D": ((8, 12, 4), ("2", "3", "1"))}
PLACED = {"size": ["16", "16"], "turn": "0", "zoom": "0", "overlap": "1"}


def term_for(size, **settings):
    term = RegionContrast(build_trunk({"widths": ["4", "8"]}, size), **settings).eval()
    term.head = nn.Identity()
    return term


def bank_of(maps, scans):
    return SimpleNamespace(dense=lambda: maps, all_scans=scans, gathered=lambda x: x)


def six(dims):
    size, grid = GRIDS[dims]
    return size, {"grid": tuple(map(int, grid))}


def told_apart(size, grid, maps):
    """Maps in which each region has a direction of its own."""
    number = torch.arange(math.prod(grid)).reshape(grid)
    for axis, (voxels, many) in enumerate(zip(size, grid, strict=True)):
        number = number.repeat_interleave(voxels // many, axis)
    return torch.movedim(nn.functional.one_hot(number), -1, 0).float().expand(maps, -1, *size)


@pytest.mark.parametrize("dims", GRIDS)
class TestGolden:
    """Six regions: a region has five negatives in each of two maps, as it has in the authors' code."""

    def test_two_alterations_that_look_the_same_all_over(self, dims):
        size, settings = six(dims)
        for scans in (1, 3):
            loss = term_for(size, **settings)(bank_of(torch.ones(2 * scans, 4, *size), scans))
            assert loss.item() == pytest.approx(2.397895, abs=1e-6) == pytest.approx(math.log(11), abs=1e-6)

    def test_two_alterations_whose_regions_are_told_apart(self, dims):
        size, settings = six(dims)
        loss = term_for(size, **settings)(bank_of(told_apart(size, settings["grid"], 2), 1))
        assert loss.item() == pytest.approx(4.538963e-4, rel=1e-4)

    def test_slices_of_one_part_of_three_volumes(self, dims):
        """LD: twelve anchors with three positives each over 24, where ours is the mean of the 36."""
        size, settings = six(dims)
        loss = term_for(size, across=True, **settings)(bank_of(torch.ones(6, 4, *size), 3))
        assert 36 * loss.item() / 24 == pytest.approx(3.596843, abs=1e-5)


@pytest.mark.parametrize(("parts", "views"), [(1, 2), (1, 3), (2, 4), (4, 8)])
@pytest.mark.parametrize("across", [False, True])
def test_maps_are_compared_within_a_slice_and_across_volumes_within_a_part(parts, views, across):
    scans, found = 3, []
    first, second = term_for((8, 8), parts=parts, across=across).compared(views * scans, scans, torch.device("cpu"))
    for a, b in itertools.combinations(range(views * scans), 2):
        if a // scans % parts == b // scans % parts and (across or a % scans == b % scans):
            found.append((a, b))
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == found


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("dims", GRIDS)
def test_the_loss_is_that_of_a_slow_twin(dims, across):
    size, settings = six(dims)
    torch.manual_seed(0)
    parts = 2 if dims == "2D" else 1
    scans, views = 2, 2 * parts
    maps = torch.randn(views * scans, 5, *size)
    term = term_for(size, parts=parts, across=across, temperature=0.3, **settings)
    grid, mean = settings["grid"], []
    for one in maps.double().numpy():
        edges = [np.array_split(np.arange(n), many) for n, many in zip(size, grid, strict=True)]
        boxes = [one[(slice(None), *np.ix_(*box))] for box in itertools.product(*edges)]
        mean.append([v / np.linalg.norm(v) for v in (box.reshape(5, -1).mean(1) for box in boxes)])
    losses = []
    for a, b in itertools.permutations(range(len(maps)), 2):
        if a // scans % parts != b // scans % parts or not (across or a % scans == b % scans):
            continue
        for k in range(6):
            mate = math.exp(mean[a][k] @ mean[b][k] / 0.3)
            others = [math.exp(mean[a][k] @ mean[m][n] / 0.3) for m in (a, b) for n in range(6) if n != k]
            losses.append(-math.log(mate / (mate + sum(others))))
    assert term(bank_of(maps, scans)).item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_views_of_one_place_are_taken_and_others_refused():
    term, stack = term_for((16, 16)), {**PLACED, "parts": "1"}
    term.check(build_views(PLACED), 1)
    term.check(build_views(stack), 40)
    term_for((16, 8, 16)).check(build_views({**PLACED, "size": ["16", "8", "16"]}), 40)
    for change, message in [
        ({"turn": "5"}, r"views\.turn: 5\.0, .* set it to 0"),
        ({"zoom": "0.1"}, r"views\.zoom: 0\.1, .* set it to 0"),
        ({"flips": ["0"]}, r"views\.flips: \[0\], .* set it to \[\]"),
        ({"bend_mm": "2"}, r"views\.bend_mm: 2\.0, .* set it to 0"),
        ({"overlap": "0.9"}, r"views\.overlap: 0\.9, .* set it to 1, or views\.centre to true"),
        ({"partner": "visit"}, r"views\.partner: visit, .* set it to none"),
        ({"parts": "0"}, r"views\.parts: 0, but method\.regions\.parts: 1; set both"),
        ({"parts": "4"}, r"views\.parts: 4, but method\.regions\.parts: 1; set both"),
        ({"size": ["2", "16"]}, r"method\.regions\.grid: \[3, 3\] regions of views of \[2, 16\] voxels"),
    ]:
        with pytest.raises(UserError, match=message):
            term.check(build_views({**stack, **change}), 40)
    with pytest.raises(UserError, match=r"method\.regions\.parts: 4, but views are of no slices"):
        term_for((16, 16), parts=4).check(build_views(PLACED), 1)


def test_across_volumes_views_lie_in_the_middle_of_each():
    term = term_for((16, 16), across=True)
    with pytest.raises(UserError, match=r"views\.centre: False, but regions\.across .* set it to true"):
        term.check(build_views(PLACED), 1)
    term.check(build_views({**PLACED, "centre": "true"}), 1)


@pytest.mark.parametrize("laws", [{"overlap": 1.0}, {"centre": True}], ids=str)
@pytest.mark.parametrize(("size", "parts"), [((8, 8), 1), ((8, 8), 3), ((8, 8, 4), 0)], ids=str)
def test_what_is_asked_of_views_cuts_them_at_one_place(size, parts, laws):
    """In every volume, whatever its shape: alterations lie at one place, and with `centre` that is its middle."""
    crops = Crops(size=size, turn=0, zoom=0, parts=parts, **laws)
    for seed, shape in enumerate([(20, 24, 9), (8, 8, 7), (11, 6, 8)] * 5):
        count = 2 * max(parts, 1)
        places = crops.draw_views(shape, np.eye(4), [np.random.default_rng((seed, v)) for v in range(count)])
        for one, other in zip(places, places[max(parts, 1) :], strict=False):
            assert np.allclose(one, other, atol=1e-9)
        if crops.centre:
            off = np.abs(crops.middle(places[0]) - (np.array(shape) - 1) / 2)[: len(size)]
            assert (off <= 0.5).all()  # whole voxels are not moved by half of one


@pytest.mark.parametrize("grid", [(1,), (3, 3, 3), (1, 1)])
def test_grids_that_are_none(grid):
    with pytest.raises(UserError, match=r"method\.regions\.grid: .* 2D views"):
        term_for((8, 8), grid=grid)
