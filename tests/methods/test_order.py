"""Order verification asks about anatomy: it is at chance on noise and right where there is something to see."""

import math

import pytest
import torch

from medssl.methods import build_method
from medssl.methods.method import Bank
from medssl.trunks import build_trunk
from medssl.views import Batch


def slabs(scans, seed, *, content):
    """Three views of each scan at random heights; with content, a stripe lies where the view is. One law of noise."""
    make = torch.Generator().manual_seed(seed)
    where = torch.rand(3, scans, 3, generator=make, dtype=torch.float64)
    x = 0.3 * torch.randn(3, scans, 1, 16, 16, generator=make)
    if content:
        rows = torch.arange(16) / 15
        x = x + 2 * torch.exp(-((rows[:, None] - where[..., 2, None, None, None].float()) ** 2) / 0.02)
    who = torch.arange(scans)
    return Batch(x, torch.eye(4).expand(3, scans, 4, 4), who, who, torch.empty(0), where)


def order():
    torch.manual_seed(0)
    return build_method({"order": {}}, build_trunk({"widths": ["8", "16", "16"]}, (16, 16)))


def trained(*, content, steps=300):
    """The share of right answers about 2000 scans that were not learned from."""
    method = order()
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for step in range(steps):
        torch.manual_seed(step)
        sum(method(slabs(64, step, content=content)).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.manual_seed(9)
    with torch.no_grad():
        logit, ordered = method.eval().terms["order"].asked(Bank(method, slabs(2000, 10**6, content=content)))
    return ((logit > 0) == (ordered > 0.5)).float().mean().item()


def test_it_is_at_chance_on_noise_and_learns_where_things_are():
    assert trained(content=False, steps=40) == pytest.approx(0.5, abs=0.04)
    assert trained(content=True) > 0.8


def test_half_of_what_is_asked_is_in_order_and_only_that():
    method, seen = order(), slabs(4000, 3, content=False)
    term = method.terms["order"]
    told = []
    term.judge.register_forward_hook(lambda _, given, __: told.append(given[0]))
    _, ordered = term.asked(Bank(method, seen))
    assert ordered.mean().item() == pytest.approx(0.5, abs=0.03)
    pooled = Bank(method, seen).features().pooled.unflatten(0, (3, -1))
    place = seen.where[..., 2]
    clear = place.sort(0).values.diff(dim=0).ge(0.05).all(0)
    asked = told[0].unflatten(1, (3, -1))[clear]
    for row, scan in enumerate(clear.nonzero()[:200, 0].tolist()):
        views = [int((pooled[:, scan] - vector).abs().sum(1).argmin()) for vector in asked[row]]
        a, b, c = (place[view, scan].item() for view in views)
        assert sorted(views) == [0, 1, 2]
        assert bool(ordered[row]) == (a < b < c or a > b > c)


def test_nothing_learned_is_ln_2_and_nothing_to_ask_is_0():
    method = order()
    with torch.no_grad():
        for parameter in method.terms["order"].judge[-1].parameters():
            parameter.zero_()
    assert method(slabs(16, 0, content=True))["order"].item() == pytest.approx(math.log(2))
    near = slabs(4, 0, content=True)._replace(where=torch.full((3, 4, 3), 0.5))
    loss = method(near)["order"]
    assert loss.item() == 0
    loss.backward()
