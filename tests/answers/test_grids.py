"""Maps on another grid: drawn slab by slab as they would be at once, in their place, and no candidate lost unsaid."""

import numpy as np
import pytest
import torch

from medssl.answers import grids
from medssl.answers.grids import Drawing, Place, candidates_on, change
from medssl.answers.windows import Slab
from medssl.volume import Volume

SLABS = Place((40, 24, 20), np.array([[2.0, 0, 0, -30], [0, 2, 0, 10], [0, 0, 3, 5], [0, 0, 0, 1]]))


def affine(*columns, origin):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.array(columns).T, origin
    return matrix


PLACES = {
    "finer": Place((70, 60, 61), affine([1.1, 0, 0], [0, 0.9, 0], [0, 0, 1.0], origin=(-30, 10, 5))),
    "coarser": Place((9, 8, 60), affine([9, 0, 0], [0, 7.0, 0], [0, 0, 1.0], origin=(-28, 12, 5))),
    "much coarser": Place((3, 40, 40), affine([30, 0, 0], [0, 1.5, 0], [0, 0, 1.5], origin=(-28, 12, 5))),
    "turned": Place((50, 90, 40), affine([0, 0, -1.3], [-1, 0, 0], [0, 1.4, 0], origin=(50, 10, 62))),
    "sheared": Place((60, 40, 50), affine([1.3, 0, 0], [0, 1.2, 0], [0.1, 0.5, 1.2], origin=(-30, 10, 5))),
    "oblique": Place((50, 50, 50), affine([1.2, 0.9, 0], [-0.9, 1.2, 0], [0, 0, 1.5], origin=(-20, 0, 5))),
    "one slice": Place((60, 60, 1), affine([1.3, 0, 0], [0, 1.2, 0], [0, 0, 3], origin=(-30, 10, 20))),
    "partly beyond": Place((90, 90, 90), affine([1.3, 0, 0], [0, 1.2, 0], [0, 0, 1.5], origin=(-90, -9, -30))),
}


def probabilities():
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(3, *SLABS.shape))
    return torch.softmax(torch.from_numpy(3 * raw).float(), 0)


def drawn(values, place, axis, planes):
    drawing, held = Drawing(place, SLABS, axis), []
    for first in range(0, values.shape[axis + 1], planes):
        some = values.narrow(axis + 1, first, min(planes, values.shape[axis + 1] - first))
        drawing.add(Slab(axis, first, some))
        held.append(drawing.held.shape[axis + 1])
    return drawing.labels, max(held)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("name", PLACES)
def test_slab_by_slab_is_all_at_once(name, axis):
    place, values = PLACES[name], probabilities()
    whole = Volume(values.numpy(), SLABS.affine).resample_to(place.shape, place.affine, "linear", 0).voxels
    wanted = whole.argmax(0)
    found, _ = drawn(values, place, axis, 7)
    gap = np.sort(whole, 0)
    close = gap[-1] - gap[-2] < 1e-5  # of two likeliest classes either is right
    assert ((found == wanted) | (close & (whole.sum(0) > 0))).all()
    assert len(np.unique(wanted)) == 3


def test_no_more_slabs_are_kept_than_later_planes_need(monkeypatch):
    monkeypatch.setattr(grids, "PLANES", 4)
    _, most = drawn(probabilities(), PLACES["finer"], 0, 2)
    assert most < 14
    _, most = drawn(probabilities(), PLACES["turned"], 2, 2)
    assert most < 14


def test_the_same_grid_has_the_same_map():
    values = probabilities()
    assert (drawn(values, SLABS, 1, 5)[0] == values.argmax(0).numpy()).all()


def test_a_ball_is_where_it_was_in_mm():
    mm = np.array([2.0, 30, 34])

    def ball(place, radius=11):
        index = np.stack(np.meshgrid(*map(np.arange, place.shape), indexing="ij"), -1)
        return np.linalg.norm(index @ place.affine[:3, :3].T + place.affine[:3, 3] - mm, axis=-1) - radius

    inside = torch.sigmoid(torch.from_numpy(-ball(SLABS) / 2)).float()
    values = torch.stack([1 - inside, inside])
    for name in ("finer", "turned", "sheared", "oblique"):
        found, _ = drawn(values, PLACES[name], 0, 5)
        distance = ball(PLACES[name])
        assert found[distance < -0.5].all() and not found[distance > 0.5].any(), name


def spots(*boxes):
    found = np.zeros(SLABS.shape, np.float32)
    for number, box in enumerate(boxes, 1):
        found[box] = number / 10
    return found


def test_candidates_keep_their_confidences_on_a_finer_grid():
    found = spots(np.s_[4:9, 4:9, 4:9], np.s_[20:24, 10:15, 6:9])
    there, lost = candidates_on(PLACES["finer"], found, SLABS)
    assert not lost and set(np.unique(there)) == {np.float32(0), np.float32(0.1), np.float32(0.2)}
    voxel = abs(np.linalg.det(PLACES["finer"].affine[:3, :3]) / np.linalg.det(SLABS.affine[:3, :3]))
    for value in (0.1, 0.2):
        before, after = ((one == np.float32(value)).sum() for one in (found, there))
        assert after * voxel == pytest.approx(before, rel=0.15)


@pytest.mark.parametrize(
    "boxes",
    [
        [np.s_[4:9, 4:9, 4:9], np.s_[30:33, 22:23, 4:9]],  # the second has no plane of its own
        [np.s_[4:9, 4:9, 4:9], np.s_[10:14, 4:9, 4:9]],  # one voxel apart
    ],
    ids=["lost", "merged"],
)
def test_candidates_that_a_coarse_grid_loses_or_merges_are_told(boxes):
    coarse = Place((20, 4, 20), affine([4, 0, 0], [0, 12.0, 0], [0, 0, 3.0], origin=(-30, 10, 5)))
    _, lost = candidates_on(coarse, spots(*boxes), SLABS)
    assert "2 candidates would be 1 regions" in lost


def test_as_many_regions_of_other_candidates_are_told():
    """One candidate is lost and another one parted: two before, two after."""
    thin = np.zeros(SLABS.shape, np.float32)
    thin[4:20, 4, 4:9] = 0.1
    thin[4:20, 5, 4:9] = 0.1
    thin[9:13, 4, 4:9] = 0  # joined only in a plane that the coarse grid skips
    thin[30:34, 9:10, 4:9] = 0.2
    coarse = Place((40, 4, 20), affine([2, 0, 0], [0, 8.0, 0], [0, 0, 3.0], origin=(-30, 10, 5)))
    there, lost = candidates_on(coarse, thin, SLABS)
    assert 0.2 not in there and lost == "2 candidates would be 2 regions on the source's grid, not one for each"


def test_nothing_found_stays_nothing():
    there, lost = candidates_on(PLACES["finer"], spots(), SLABS)
    assert not there.any() and not lost
    empty = np.zeros(SLABS.shape, np.uint8)
    assert change(empty, SLABS, empty, SLABS, ["a"]) == ""


def test_what_changed_is_told_by_structure():
    before, after = np.zeros((4, 4, 4), np.uint8), np.zeros((8, 4, 4), np.uint8)
    before[0, :2], after[:1, :2], after[7, 0, 0] = 1, 1, 1
    after[3, 3, 3] = 3
    place = Place((4, 4, 4), np.eye(4))
    finer = Place((8, 4, 4), np.diag([0.5, 1, 1, 1]))
    told = change(before, place, after, finer, ["gland", "nothing", "new"])
    assert told == "gland: regions 1 to 2, volume -43.8 %; new: regions 0 to 1, volume new"
