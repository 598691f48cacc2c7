"""Covariates and trends: standardised as numpy does, fitted as numpy does, nothing learned from what is not there."""

import numpy as np
import pytest
import torch

from medssl.errors import UserError
from medssl.heads import build_head
from medssl.heads.covariates import Covariates
from medssl.heads.forecast import DAYS_A_YEAR, slope
from medssl.learners import Supervised
from medssl.trunks import build_trunk
from medssl.views.history import Told

NAN = float("nan")
VALUES = torch.tensor([[60.0, NAN], [70.0, 1e6], [NAN, 3e6], [80.0, 1e6]])


def build(name="classify", **settings):
    torch.manual_seed(0)
    trunk = build_trunk({"widths": ["4", "8"]}, (8, 8))
    return Supervised(trunk, build_head({"name": name, "label": "x", **settings}, trunk))


def test_numbers_are_standardised_as_numpy_does_by_what_was_learned_from():
    part = Covariates(["age", "cells"])
    part.learn(VALUES)
    known = VALUES.double().numpy()
    wanted = (known - np.nanmean(known, 0)) / np.nanstd(known, 0)
    found = part(VALUES, 4).numpy()
    assert np.allclose(found[:, :2], np.nan_to_num(wanted), atol=1e-6)
    assert np.array_equal(found[:, 2:], np.isfinite(known))
    again = Covariates(["age", "cells"])
    again.load_state_dict(part.state_dict())
    assert np.array_equal(again(VALUES, 4).numpy(), found)
    other = torch.tensor([[NAN, NAN], [90.0, 1e6]])
    assert part(other, 2)[0].tolist() == [0, 0, 0, 0] and part(other, 2)[1, 0] > 2  # by those learned from, not its own


def test_a_head_without_covariates_has_the_weights_it_always_had():
    assert set(build().head.state_dict()) == {"norm.weight", "norm.bias", "last.1.weight", "last.1.bias"}
    assert "covariates.mean" in build(covariates=["age"]).head.state_dict()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[NAN, 1.0], [NAN, 2.0]], "head.covariates: age is known of none of all 2 training volumes"),
        ([[1.0, 7.0], [2.0, 7.0]], "head.covariates: cells has the one value 7 for all 2 training volumes"),
    ],
)
def test_what_tells_nothing_is_refused(values, message):
    with pytest.raises(UserError, match=message):
        Covariates(["age", "cells"]).learn(torch.tensor(values))


def test_numbers_that_nobody_told_are_not_taken_for_unknown_ones():
    model = build(covariates=["age"])
    with pytest.raises(UserError, match=r"head\.covariates: age must be told of each scan"):
        model.answer(torch.zeros(2, 1, 8, 8))
    with pytest.raises(UserError, match=r"head\.covariates: 'age' is named twice"):
        build(covariates=["age", "age"])


def test_a_label_that_depends_on_a_covariate_only_is_learned():
    model = build(covariates=["age"])
    age = torch.linspace(40, 90, 32)[:, None]
    model.head.covariates.learn(age)
    told, target = Told(age), (age[:, 0] > 65).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)
    for _ in range(60):
        loss = model.head.loss(model.answer(torch.randn(32, 1, 8, 8), told), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    found = model.answer(torch.randn(32, 1, 8, 8), told) > 0
    assert (found == (target > 0)).float().mean() > 0.9


def test_a_missing_number_is_the_mean_and_the_mask():
    model = build(covariates=["age"]).eval()
    model.head.covariates.learn(torch.tensor([[50.0], [70.0]]))
    x = torch.randn(1, 1, 8, 8)
    line = model.head.last[1]
    missing, mean = model.answer(x, Told(torch.tensor([[NAN]]))), model.answer(x, Told(torch.tensor([[60.0]])))
    assert torch.allclose(mean - missing, line.weight[0, -1], atol=1e-6)  # the mask's weight, and nothing else


def test_the_slope_is_polyfits():
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.normal(size=(4, 5, 6)))
    days = torch.from_numpy(np.sort(rng.uniform(1, 2000, (4, 5)))[:, ::-1].copy())
    days[:, -1] = 0
    days[1, :2] = days[2, :3] = days[3, :4] = torch.nan
    found = slope(values, days).numpy()
    for number, there in enumerate(np.isfinite(days.numpy())):
        if there.sum() == 1:
            assert not found[number].any()
            continue
        years = -days[number].numpy()[there] / DAYS_A_YEAR
        assert np.allclose(found[number], np.polyfit(years, values[number].numpy()[there], 1)[0], atol=1e-10)
    assert not slope(values, torch.zeros(4, 5, dtype=torch.float64)).any()


def test_visits_pass_the_same_trunk_and_what_is_not_there_is_not_seen():
    model = build("forecast", visits="3").eval()
    x = torch.randn(2, 3, 1, 8, 8)
    days = torch.tensor([[NAN, 400.0, 0.0], [700.0, 300.0, 0.0]])
    told = model.answer(x, Told(days=days))
    other = x.clone()
    other[0, 0] = 1e3
    assert torch.equal(model.answer(other, Told(days=days)), told)
    other[1, 0] = -other[1, 0]
    assert model.answer(other, Told(days=days))[1] != told[1]
    alone = Told(days=torch.tensor([[NAN, NAN, 0.0]] * 2))
    assert torch.allclose(model.answer(x, alone), model.answer(x[:, -1]), atol=1e-6)
    model.head.last[1].weight.data[:, : model.head.norm.normalized_shape[0]] = (
        0  # the level, of which only the trend is left
    )
    assert torch.equal(model.answer(x, alone), model.head.last[1].bias.expand(2))
    later = Told(days=days.nan_to_num(nan=torch.nan) * 2)  # the same change in twice the time is half the trend
    bias = model.head.last[1].bias
    half = model.answer(x, Told(days=days)) - bias
    assert torch.allclose(model.answer(x, later) - bias, half / 2, atol=1e-5)


def test_a_trend_is_learned_that_no_single_visit_shows():
    model = build("forecast", drop="0.0")
    rng = torch.Generator().manual_seed(0)
    start = torch.rand(48, generator=rng)
    grows = torch.arange(48) % 2
    brightness = torch.stack([start, start + grows - 0.5], 1)
    shape = torch.linspace(-1, 1, 8)[:, None].expand(8, 8)
    x = (brightness[:, :, None, None] * shape)[:, :, None] + 0.05 * torch.randn(48, 2, 1, 8, 8, generator=rng)
    told = Told(days=torch.tensor([[365.25, 0.0]]).expand(48, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = model.head.loss(model.answer(x[:32], Told(days=told.days[:32])), grows[:32].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    found = model.answer(x[32:], Told(days=told.days[32:])) > 0
    assert (found == (grows[32:] > 0)).float().mean() > 0.9
