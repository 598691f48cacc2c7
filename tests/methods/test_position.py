"""Positions along a body: who attracts and who repels, and the losses that the paper's sets come to."""

import math

import numpy as np
import pytest
import torch

from medssl.errors import UserError
from medssl.methods.position import PositionContrast
from medssl.methods.relations import pairwise_nce
from medssl.trunks import build_trunk
from medssl.views import Crops

PARTS = 4


def term(**settings):
    return PositionContrast(build_trunk({"widths": ["4", "8"]}, (8, 8)), **settings)


def rows(volumes, versions):
    """Scan and place of the rows of a batch: `versions` of one slice in each of four parts of each volume."""
    place = torch.tensor([(part + 0.5) / PARTS for part in range(PARTS)], dtype=torch.float64)
    scan = torch.arange(volumes).repeat(versions * PARTS)
    return scan, place.repeat_interleave(volumes).repeat(versions)


def test_negatives_are_of_other_parts_and_positives_of_one_slice():
    """GD-: three volumes of four parts in three versions, so 27 of 36 rows are negatives of each row and two positives."""
    scan, place = rows(3, 3)
    positive, ignore = term(parts=PARTS, across=False).relation(scan, place)
    part = (place * PARTS).long()
    for i in range(36):
        for j in range(36):
            assert bool(positive[i, j]) == (i != j and scan[i] == scan[j] and part[i] == part[j])
            negative = not positive[i, j] and not ignore[i, j]
            assert negative == (part[i] != part[j])
    assert positive.sum() == 72 and (~positive & ~ignore).sum(1).eq(27).all()


def test_views_of_a_volume_that_does_not_divide_attract_those_of_their_part():
    """17 slices in four parts: the views drawn for a part, and no others, are each other's positives."""
    crops, scan, place = Crops(size=(4, 4), turn=0, parts=PARTS), [], []
    for volume in range(60):
        drawn = crops.draw_views((8, 8, 17), np.eye(4), [np.random.default_rng((volume, v)) for v in range(PARTS)])
        scan += [volume] * PARTS
        place += [(crops.middle(one)[2] + 0.5) / 17 for one in drawn]
    part = torch.arange(PARTS).repeat(60)
    positive, ignore = term(parts=PARTS).relation(torch.tensor(scan), torch.tensor(place, dtype=torch.float64))
    expected = (part[:, None] == part[None]) & ~torch.eye(len(part), dtype=torch.bool)
    assert torch.equal(positive, expected)
    assert torch.equal(~positive & ~ignore, part[:, None] != part[None])


def test_equal_embeddings_cost_what_the_paper_s_sums_say():
    """72 terms over 36 in GD-: 2 ln 28; GD of 48 rows has 36 negatives: 4 pairs in both directions over 2: 4 ln 37."""
    one = torch.ones(36, 5)
    found = pairwise_nce(one, *term(parts=PARTS, across=False).relation(*rows(3, 3)), 0.1)
    assert 72 * found.item() / 36 == pytest.approx(6.664409, abs=1e-5) == pytest.approx(2 * math.log(28), abs=1e-5)
    found = pairwise_nce(torch.ones(48, 5), *term(parts=PARTS).relation(*rows(6, 2)), 0.1)
    assert 4 * found.item() == pytest.approx(14.443672, abs=1e-5)


def test_distances_replace_parts():
    scan = torch.tensor([0, 0, 1, 1])
    place = torch.tensor([0.10, 0.20, 0.13, 0.80])
    positive, ignore = term(near=0.05, apart=0.15).relation(scan, place)
    assert positive.int().tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert (~positive & ~ignore).int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1], [1, 1, 1, 0]]
    own, _ = term(near=0.15, apart=0.2, across=False).relation(scan, place)
    assert own.nonzero().tolist() == [[0, 1], [1, 0]]


def test_pairs_equal_a_slow_twin_and_nothing_is_zero():
    torch.manual_seed(0)
    z = torch.randn(7, 3, dtype=torch.float64)
    positive, ignore = term(near=0.2, apart=0.4).relation(torch.arange(7), torch.rand(7))
    unit, terms = torch.nn.functional.normalize(z, dim=1), []
    for i in range(7):
        others = [math.exp(float(unit[i] @ unit[j]) / 0.3) for j in range(7) if not positive[i, j] and not ignore[i, j]]
        for j in range(7):
            if positive[i, j]:
                mine = math.exp(float(unit[i] @ unit[j]) / 0.3)
                terms.append(-math.log(mine / (mine + sum(others))))
    assert terms
    assert pairwise_nce(z, positive, ignore, 0.3).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    assert pairwise_nce(z, torch.zeros_like(positive), ignore, 0.3).item() == 0


@pytest.mark.parametrize("wrong", [{"near": 0.0}, {"near": 0.3, "apart": 0.2}, {"apart": 1.0}])
def test_positions_that_cannot_be(wrong):
    with pytest.raises(UserError, match=r"method\.position"):
        term(**wrong)
