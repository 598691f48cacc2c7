"""Quarter turns: which there are, that they are asked about fairly, and that only what has an up tells them."""

import math
from collections import Counter

import pytest
import torch

from medssl.errors import UserError
from medssl.methods import build_method
from medssl.methods.method import Bank
from medssl.methods.rotation import turned, turns_of
from medssl.trunks import build_trunk
from medssl.views import Batch
from medssl.views.select import build_views

PLANES = [(1, 2), (2, 3), (1, 3)]
"""Pairs of axes of a view (C, I, J, K)."""


def seen(scans, seed, *, up, size=(12, 12)):
    """One view a scan; with `up`, brighter at one end of the first axis. Nothing else has a direction."""
    make = torch.Generator().manual_seed(seed)
    x = torch.randn(1, scans, 1, *size, generator=make)
    if up:
        x = x + torch.linspace(-1, 1, size[0]).reshape(-1, *[1] * (len(size) - 1))
    who = torch.arange(scans)
    return Batch(x, torch.eye(4).expand(1, scans, 4, 4), who, who, torch.empty(0))


def rotation(size=(12, 12), **settings):
    torch.manual_seed(0)
    return build_method({"rotation": settings}, build_trunk({"widths": ["8", "16"]}, size))


@pytest.mark.parametrize("dims", [2, 3])
def test_turns_about_the_slice_axis_are_those_of_torch(dims):
    x = torch.arange(2.0 * 4**dims).reshape(2, *[4] * dims)
    found = [turned(x, turn) for turn in turns_of(dims, "plane")]
    assert torch.equal(found[0], x)
    for quarters in range(4):
        assert sum(torch.equal(torch.rot90(x, quarters, (1, 2)), y) for y in found) == 1


def test_a_cube_has_24_turns_which_are_all_that_quarter_turns_lead_to():
    x = torch.arange(27.0).reshape(1, 3, 3, 3)
    reached, new = {tuple(x.flatten().tolist())}, [x]
    while new:
        y = new.pop()
        for plane in PLANES:
            z = torch.rot90(y, 1, plane)
            if tuple(z.flatten().tolist()) not in reached:
                reached.add(tuple(z.flatten().tolist()))
                new.append(z)
    found = [turned(x, turn) for turn in turns_of(3, "cube")]
    assert torch.equal(found[0], x)
    assert len(found) == 24 and {tuple(y.flatten().tolist()) for y in found} == reached


@pytest.mark.parametrize(("about", "turns"), [("plane", 4), ("cube", 24)])
def test_nothing_learned_is_the_logarithm_of_the_turns_and_the_loss_is_its_slow_twin(about, turns):
    method = rotation((8, 8, 8), about=about, weight="0.5")
    batch = seen(6, 0, up=True, size=(8, 8, 8))
    term, torch_seed = method.terms["rotation"], 3
    torch.manual_seed(torch_seed)
    logits, told = term.asked(Bank(method, batch))
    twin = [math.log(sum(math.exp(v) for v in row)) - row[n] for row, n in zip(logits.tolist(), told, strict=True)]
    torch.manual_seed(torch_seed)
    assert method(batch)["rotation"].item() == pytest.approx(0.5 * sum(twin) / 6, rel=1e-5)
    with torch.no_grad():
        for parameter in term.judge[-1].parameters():
            parameter.zero_()
    assert method(batch)["rotation"].item() == pytest.approx(0.5 * math.log(turns), rel=1e-6)


def test_every_turn_is_asked_about_as_often_and_of_the_view_that_was_turned():
    method = rotation()
    given = []
    method.trunk.register_forward_hook(lambda _, x, __: given.append(x[0]))
    batch = seen(2000, 1, up=False)
    bank = Bank(method, batch)
    _, told = method.terms["rotation"].asked(bank)
    assert all(440 < count < 560 for count in Counter(told.tolist()).values())
    turns = turns_of(2, "plane")
    assert all(torch.equal(given[0][row], turned(bank.x_RCS[row], turns[told[row]])) for row in range(50))


@pytest.mark.parametrize("up", [False, True])
def test_noise_has_no_up_and_what_is_brighter_at_one_end_has(up):
    """The share of right answers of 1000 scans that were not learned from; 1 in 4 by chance."""
    method = rotation()
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for step in range(60):
        torch.manual_seed(step)
        method(seen(32, step, up=up))["rotation"].backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.manual_seed(9)
    with torch.no_grad():
        logits, told = method.eval().terms["rotation"].asked(Bank(method, seen(1000, 10**6, up=up)))
    right = (logits.argmax(1) == told).float().mean().item()
    assert right > 0.9 if up else 0.2 < right < 0.3


def test_what_cannot_be_turned_says_why():
    with pytest.raises(UserError, match=r"method\.rotation\.about: cube"):
        rotation((8, 8), about="cube")
    method = rotation((8, 16))
    with pytest.raises(UserError, match=r"views\.size: \(8, 16\)"):
        method(seen(16, 0, up=False, size=(8, 16)))


def test_views_that_hide_a_turn_are_refused():
    method = rotation((8, 8))
    method.check(build_views({"size": ["8", "8"], "turn": "10", "flips": ["0"]}), 1)
    with pytest.raises(UserError, match=r"views\.turn: 180, .* e\.g\. 10"):
        method.check(build_views({"size": ["8", "8"], "turn": "180"}), 1)
    with pytest.raises(UserError, match=r"views\.flips: \[0, 1\]"):
        method.check(build_views({"size": ["8", "8"], "flips": ["0", "1"]}), 1)
