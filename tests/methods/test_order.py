"""Order verification asks about anatomy: it is at chance on noise and right where there is something to see."""

import math

import pytest
import torch

from medssl.errors import UserError
from medssl.methods import build_method
from medssl.methods.method import Bank
from medssl.recipe import read_recipe
from medssl.store import open_store
from medssl.train import plan
from medssl.trunks import build_trunk
from medssl.views import Batch
from medssl.views.select import build_views


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


def grown(scans, seed, size, *, content):
    """Two visits of each patient, in any order: with content, a ball that has grown since. One law of noise."""
    make = torch.Generator().manual_seed(seed)
    days = torch.stack([torch.randperm(3, generator=make)[:2] for _ in range(scans)], 1) * 365.0
    middle = torch.stack(torch.meshgrid(*[torch.arange(n) - (n - 1) / 2 for n in size], indexing="ij")).norm(dim=0)
    start = 0.15 * size[0] * (1 + torch.rand(scans, generator=make))
    radius = (start + days / 365 * 0.1 * size[0]).view(2, scans, 1, *[1] * len(size))
    x = 0.3 * torch.randn(2, scans, 1, *size, generator=make) + content * 2.0 * (middle < radius)
    who = torch.arange(scans)
    return Batch(x, torch.eye(4).expand(2, scans, 4, 4), who, who, torch.empty(0), days=days)


def order_of_visits(size):
    torch.manual_seed(0)
    return build_method({"order": {"by": "visit"}}, build_trunk({"widths": ["8", "16", "16"]}, size))


@pytest.mark.parametrize(("size", "steps"), [((16, 16), 80), ((8, 8, 8), 40)], ids=["2D", "3D"])
def test_what_grows_is_put_in_order_of_time_and_noise_is_not(size, steps):
    """Of patients that were not learned from. Their first sizes overlap: one visit alone does not tell which it is."""
    for content, least, most in ((True, 0.8, 1), (False, 0.45, 0.55)):
        method = order_of_visits(size)
        optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
        for step in range(steps):
            torch.manual_seed(step)
            sum(method(grown(32, step, size, content=content)).values()).backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            logit, ordered = method.eval().terms["order"].asked(Bank(method, grown(1000, 10**6, size, content=content)))
        assert least <= ((logit > 0) == (ordered > 0.5)).float().mean().item() <= most


@pytest.mark.parametrize("size", [(16, 16), (8, 8, 8)], ids=["2D", "3D"])
def test_half_of_the_visits_shown_are_in_order_and_the_first_is_the_earlier_one(size):
    method, seen = order_of_visits(size), grown(600, 3, size, content=True)
    term, told = method.terms["order"], []
    term.judge.register_forward_hook(lambda _, given, __: told.append(given[0]))
    _, ordered = term.asked(Bank(method, seen))
    assert len(ordered) == 600 and ordered.mean().item() == pytest.approx(0.5, abs=0.06)
    pooled = Bank(method, seen).features().pooled.unflatten(0, (2, -1))
    for scan, (first, second) in enumerate(told[0].unflatten(1, (2, -1))):
        days = [seen.days[(pooled[:, scan] - view).abs().sum(1).argmin(), scan] for view in (first, second)]
        assert bool(ordered[scan]) == (days[0] < days[1]) and days[0] != days[1]


@pytest.mark.parametrize("size", [(16, 16), (8, 8, 8)], ids=["2D", "3D"])
def test_patients_without_two_dated_visits_are_left_out(size):
    """Their views get no gradient; where there are no others the loss is 0."""
    method, seen = order_of_visits(size), grown(4, 0, size, content=True)
    nan = math.nan
    x = seen.x.requires_grad_()
    seen = seen._replace(x=x, days=torch.tensor([[0, 0, nan, nan], [365, 0, 365, nan]]))
    with torch.no_grad():
        for parameter in method.terms["order"].judge[-1].parameters():
            parameter += 0.1
    method(seen)["order"].backward()
    moved = x.grad.abs().flatten(2).sum(2)
    assert (moved[:, 0] > 0).all() and (moved[:, 1:] == 0).all()
    loss = method(seen._replace(days=torch.zeros(2, 4)))["order"]
    assert loss.item() == 0
    loss.backward()


def test_order_by_visit_asks_for_follow_ups():
    method = order_of_visits((16, 16))
    method.check(build_views({"size": ["16", "16"], "partner": "follow_up"}), 1)
    for partner in ("none", "visit", "eye"):
        with pytest.raises(UserError, match=f"by: visit, but views.partner: {partner}; set views.partner to follow_up"):
            method.check(build_views({"size": ["16", "16"], "partner": partner}), 1)


def test_a_store_without_days_has_no_visits_to_ask_about(balls):
    changes = ["method={order: {by: visit}}", "views.partner=follow_up"]
    with pytest.raises(UserError, match=r"no patient has visits on two known days \(study_date in the data card\)"):
        plan(read_recipe(balls / "recipe.yaml", changes), open_store(balls / "store"))


@pytest.mark.parametrize("name", ["order", "position"])
def test_places_of_two_volumes_or_of_no_extent_are_refused(name):
    trunk = build_trunk({"widths": ["4", "8"]}, (16, 16))
    flat = {"size": ["16", "16"], "count": "3"}
    across, down = (build_method({name: {"along": along}}, trunk) for along in "20")
    across.check(build_views(flat), 2)
    down.check(build_views(flat), 1)
    with pytest.raises(UserError, match=rf"method\.{name}\.along: 2, but the volumes have one slice.* use 0 or 1"):
        across.check(build_views(flat), 1)
    for partner in ("visit", "follow_up", "eye"):
        with pytest.raises(UserError, match=rf"views\.partner: {partner}.* none"):
            down.check(build_views({**flat, "partner": partner}), 40)
