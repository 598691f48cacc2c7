"""Which hidden cell is it: against plain loops, joined with rebuilding, and answered on heads but not on noise."""

import itertools
import math

import numpy as np
import pytest
import torch

from medssl.methods import build_method
from medssl.methods.method import Bank
from medssl.methods.which import cells
from medssl.phantom.head import t1w
from medssl.trunks import build_trunk
from medssl.views import Batch

SIZES = {"2D": (8, 12), "3D": (4, 8, 12)}
TRUNKS = {
    "resenc": {"widths": ["8", "16", "16"], "norms": ["group"] * 3},
    "vit": {"name": "vit", "width": "32", "depth": "2", "heads": "4", "hide": "token"},
}


def seen(x):
    who = torch.arange(len(x))
    return Batch(x[None], torch.eye(4).expand(1, len(x), 4, 4), who, who, torch.empty(0))


def built(trunk, size, ratio, **more):
    torch.manual_seed(0)
    patch = {"patch": ["4"] * len(size)} if trunk == "vit" else {}
    section = {"which": {}, "mask": {"ratio": str(ratio)}, **more}
    return build_method(section, build_trunk({**TRUNKS[trunk], **patch}, size))


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_cells_are_the_boxes_that_the_mask_counts(size):
    x, cell = torch.randn(2, 3, *size), (2, 4, 4)[: len(size)]
    found, grid = cells(x, cell), [n // c for n, c in zip(size, cell, strict=True)]
    assert found.shape == (2, math.prod(grid), 3 * math.prod(cell))
    for number, place in enumerate(itertools.product(*map(range, grid))):
        box = [slice(p * c, (p + 1) * c) for p, c in zip(place, cell, strict=True)]
        assert torch.equal(found[:, number], x[(slice(None), slice(None), *box)].flatten(1))


@pytest.mark.parametrize("size", [(16, 16), (8, 8, 8)], ids=["2D", "3D"])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_loss_is_its_slow_twin_and_the_joint_task_is_a_sum(trunk, size):
    method, batch = built(trunk, size, 0.5, rebuild={"weight": "10"}), seen(torch.randn(3, 1, *size))
    term, method = method.terms["which"], method.eval()
    torch.manual_seed(4)
    bank = Bank(method, batch)
    vectors, truth = bank.dense(masked=True), batch.x[0]
    code, guess = (method.terms[name].head(vectors).detach() for name in ("which", "rebuild"))
    nce, errors = [], []
    for row in range(3):
        boxes = []
        for place in bank.mask[row].nonzero().tolist():
            box = [slice(p * c, (p + 1) * c) for p, c in zip(place, term.cell, strict=True)]
            boxes.append((row, slice(None), *box))
        for mine in boxes:
            scores = [float((code[mine] * truth[other]).sum()) for other in boxes]
            nce.append(math.log(sum(math.exp(s) for s in scores)) - float((code[mine] * truth[mine]).sum()))
            errors += ((guess[mine] - truth[mine]) ** 2).flatten().tolist()
    torch.manual_seed(4)
    losses = method(batch)
    assert losses["which"].item() == pytest.approx(np.mean(nce), rel=1e-4)
    assert losses["rebuild"].item() == pytest.approx(10 * np.mean(errors), rel=1e-4)


@pytest.mark.parametrize("size", [(16, 16), (32, 32, 32)], ids=["2D", "3D"])
def test_untrained_it_begins_near_the_logarithm_of_the_hidden_cells(size):
    """However many voxels a cell has."""
    method = built("resenc", size, 0.5)
    hidden = math.prod(size) // math.prod(method.trunk.cell) // 2
    assert method(seen(torch.randn(2, 1, *size)))["which"].item() == pytest.approx(math.log(hidden), abs=1)


def heads(first, last, dims):
    """Heads of invented people, of noise alone outside of them, as volumes (N, 1, 24, 24, 24) or slices."""
    affine = np.diag([7.5, 8.5, 7.5, 1.0])
    affine[:3, 3] = -affine.diagonal()[:3] * 11.5
    x = np.stack([t1w(np.random.default_rng(n), affine, (24, 24, 24), "Delta MR") for n in range(first, last)])
    x = torch.from_numpy((x - x.mean()) / x.std()).float()[:, None]
    return x if dims == 3 else torch.cat([x[..., k] for k in (8, 11, 14)])


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_hidden_parts_of_other_heads_are_found_and_those_of_noise_are_not(trunk, dims):
    """The share of hidden cells that are found, over that by chance: more than 5 in heads that were not learned from."""
    right = {}
    for name in ("heads", "noise"):
        make = torch.Generator().manual_seed(7)
        train, test = (heads(*people, dims) for people in ((0, 16), (16, 22)))
        if name == "noise":
            many = torch.cat([test] * 8)  # of few, some are found by luck
            train, test = (torch.randn(x.shape, generator=make) for x in (train, many))
        method = built(trunk, (24,) * dims, 0.5)
        optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
        for step in range(80 if dims == 2 else 20):
            torch.manual_seed(step)
            method(seen(train[torch.randperm(len(train))[: 16 // dims]]))["which"].backward()
            optimizer.step()
            optimizer.zero_grad()
        torch.manual_seed(1)
        with torch.no_grad():
            scores, number = method.eval().terms["which"].asked(Bank(method, seen(test)))
        right[name] = (scores.argmax(1) == number).float().mean().item() * scores.shape[1]
    assert right["heads"] > 5
    assert right["noise"] < 1.6
