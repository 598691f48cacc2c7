"""Stochastic depth: which rows are dropped, how often, and that a trunk with it is the same network."""

import pytest
import torch

from medssl.errors import UserError
from medssl.trunks import build_trunk
from medssl.trunks.drop_path import DropPath, rising
from medssl.weights.spec import describe, differences, same_network

SIZE = (16, 16)
VIT = {"name": "vit", "patch": ["4", "4"], "width": "24", "depth": "3", "heads": "2"}
CSWIN = {"name": "cswin", "widths": ["24", "24"], "depths": ["1", "2"], "strides": [["2", "2"], ["2", "2"]]}


def build(section, drop_path="0"):
    torch.manual_seed(0)
    return build_trunk({**section, "drop_path": drop_path}, SIZE)


def test_a_row_is_dropped_whole_or_made_larger_by_as_much():
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.rand(4000, 3, 2) + 0.5
    found = drop(x)
    gone = (found == 0).all((1, 2))
    assert torch.allclose(found[~gone], x[~gone] / 0.75)
    assert gone.float().mean().item() == pytest.approx(0.25, abs=0.03)  # four standard deviations
    assert found.mean().item() == pytest.approx(x.mean().item(), abs=0.03)
    assert drop.eval()(x) is x and DropPath(0.0).train()(x) is x


@pytest.mark.parametrize(("depth", "wanted"), [(1, [0.0]), (2, [0.0, 0.2]), (5, [0.0, 0.05, 0.1, 0.15, 0.2])])
def test_the_share_rises_with_depth(depth, wanted):
    assert rising(0.2, depth) == pytest.approx(wanted)


@pytest.mark.parametrize("section", [VIT, CSWIN], ids=lambda s: s["name"])
def test_without_all_its_branches_a_block_gives_what_it_is_given(section):
    """At a share of 1 the last block adds nothing, and those before it add what their share leaves."""
    trunk, x = build(section, "1").train(), torch.randn(2, 1, *SIZE)
    block = trunk.blocks[-1] if section is VIT else trunk.stages[-1][-1]
    tokens = torch.randn(2, 16, 24) if section is VIT else torch.randn(2, 4, 4, 24)
    assert torch.equal(block(tokens), tokens)
    assert not torch.equal(block.eval()(tokens), tokens)
    first = trunk.blocks[0] if section is VIT else trunk.stages[0][0]
    assert torch.equal(first(tokens), first.eval()(tokens))
    assert torch.isfinite(trunk(x).pooled).all()


@pytest.mark.parametrize("section", [VIT, CSWIN], ids=lambda s: s["name"])
def test_it_is_the_same_network_with_the_same_weights(section):
    plain, dropping = build(section), build(section, "0.4")
    assert list(plain.state_dict()) == list(dropping.state_dict()) and same_network(plain, dropping)
    dropping.load_state_dict(plain.state_dict())
    x = torch.randn(8, 1, *SIZE)
    assert torch.equal(plain.eval()(x).pooled, dropping.eval()(x).pooled)
    with torch.no_grad():
        assert torch.equal(plain(x).pooled, dropping(x).pooled)  # torch's fast path
    torch.manual_seed(1)
    once = dropping.train()(x).pooled
    assert not torch.equal(once, plain(x).pooled) and not torch.equal(once, dropping(x).pooled)
    torch.manual_seed(1)
    assert torch.equal(once, dropping(x).pooled)
    told = differences(
        *(describe(one, {**section, "drop_path": n}, SIZE) for one, n in ((plain, "0"), (dropping, "0.4")))
    )
    assert told == []


def test_another_network_is_told_from_it():
    assert not same_network(build(VIT), build({**VIT, "heads": "3"}, "0.2"))
    with pytest.raises(UserError, match=r"trunk.drop_path: 1.5 must be"):
        build(VIT, "1.5")
