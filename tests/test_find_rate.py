"""The range test of learning rates: what it says of curves whose answer is known, and that nothing of it stays."""

import csv
import tempfile
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

from medssl import checkpoint
from medssl.cli import main
from medssl.errors import UserError
from medssl.find_rate import BLUR, HIGHEST, LOWEST, STEPS, Curve, answer, blurred, find_rate, write_curve
from medssl.methods.rebuild import Rebuild
from medssl.recipe import read_recipe
from medssl.train import pretrain

RATES = np.geomspace(LOWEST, HIGHEST, STEPS)


def curve(fall=1e-3, rise=1e-1, noise=0.0, seed=0, steps=STEPS, at=2.0):
    """Batches whose loss falls from its own height by half, fastest at one rate, and rises from another rate on."""
    x, rng = np.log10(RATES), np.random.default_rng(seed)
    untrained = at * np.exp(rng.standard_normal(STEPS))
    falling = 0.5 / (1 + np.exp(-6 * (x - np.log10(fall))))
    rising = 10 * np.exp(np.minimum(8 * (x - np.log10(rise)), 5))
    losses = untrained * (1 - falling + rising + noise * rng.standard_normal(STEPS) * (fall / 30 < RATES))
    return Curve(RATES[:steps], losses[:steps], untrained[:steps])


def test_the_blur_is_the_mean_under_a_bell():
    losses = np.random.default_rng(0).standard_normal(40)
    for place in (0, 7, 39):
        weights = [np.exp(-((n - place) ** 2) / (2 * BLUR**2)) for n in range(40)]
        expected = sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)
        assert blurred(losses)[place] == pytest.approx(expected)
    line = np.arange(60.0)
    assert np.allclose(blurred(line)[20:40], line[20:40])  # nothing lags behind


def test_a_change_is_a_part_of_the_batchs_own_loss():
    found = Curve(np.ones(5), np.array([3.0, 2.0, 6.0, 0.5, -1.0]), np.array([4.0, 4.0, 8.0, 1.0, 0.0]))
    assert found.change.tolist() == [-0.25, -0.5, -0.25, -0.5, -2.5]  # 4 is the median


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("fall", [1e-4, 1e-3, 3e-3])
def test_the_rate_is_where_the_loss_falls_fastest_if_that_is_below_a_tenth_of_where_it_is_lowest(fall, noise):
    for seed in range(20):
        found = answer(curve(fall, noise=noise, seed=seed))
        assert abs(np.log10(RATES[found.curve.steepest] / fall)) < (0.2 if noise == 0 else 0.5)
        assert found.lr == min(RATES[found.curve.steepest], RATES[found.curve.lowest] / 10)
        assert str(found).startswith(f"lr: {found.lr:.2g} (the smaller of ")


def test_a_tenth_of_the_lowest_where_the_fall_goes_on_until_it_breaks():
    found = answer(curve(fall=3e-2, rise=2e-1))
    assert found.lr == pytest.approx(RATES[found.curve.lowest] / 10)
    assert found.lr < RATES[found.curve.steepest]


@pytest.mark.parametrize("quiet", [0, 30, 60])
def test_noise_has_no_answer(quiet):
    """Also where small rates change nothing at all, and only what comes after them scatters."""
    for seed in range(300):
        rng = np.random.default_rng(seed)
        untrained = 3 + rng.random(STEPS)
        noise = np.where(np.arange(STEPS) < quiet, 0, rng.standard_normal(STEPS))
        assert answer(Curve(RATES, untrained + noise, untrained)).lr is None
    found = answer(Curve(RATES, untrained + noise + 10 * np.maximum(np.log10(RATES) + 1, 0), untrained))
    assert "never fell by more than its noise" in str(found)
    assert "raise batch or accumulate" in str(found)


def test_the_error_is_that_of_a_blurred_value():
    """Over many curves of noise around a slope, the lowest blurred value scatters by the error that each of them tells."""
    values, errors = [], []
    for seed in range(400):
        change = np.linspace(0, -20, STEPS) + 0.1 * np.random.default_rng(seed).standard_normal(STEPS)
        found = Curve(RATES, 1 + change, np.ones(STEPS))
        assert found.lowest == STEPS - 1
        values.append(found.smooth[-1])
        errors.append(found.error**2)
    assert np.mean(errors) == pytest.approx(np.var(values), rel=0.2)


def test_what_differs_between_batches_is_no_noise():
    """Losses of batches differ by a factor of e; the fall is by a tenth."""
    whole = curve()
    small = Curve(RATES, whole.untrained * (1 + 0.2 * whole.change), whole.untrained)
    assert answer(small).lr == pytest.approx(answer(whole).lr)


def test_a_loss_that_still_falls_at_the_highest_rate_has_no_answer():
    found = answer(curve(fall=3e-1, rise=1e3))
    assert found.lr is None
    assert "still falls at the highest rate, 1;" in str(found)


def test_a_training_that_breaks_off_has_an_answer_if_it_learned_before():
    assert answer(curve(fall=1e-3, rise=1e3, steps=80)).lr == pytest.approx(1e-3, rel=0.4)
    early = answer(curve(steps=5))
    assert early.lr is None
    assert "after 5 steps the loss was no longer finite" in str(early)


def test_the_curve_is_that_of_a_training_with_these_rates(balls, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr("medssl.find_rate.STEPS", 12)
    recipe = read_recipe(balls / "recipe.yaml", ["pretrain.steps=3"])
    before = pretrain(recipe, balls / "store", tmp_path / "before")
    found = find_rate(recipe, balls / "store", "pretrain")
    after = pretrain(recipe, balls / "store", tmp_path / "after")
    first, second = (checkpoint.read(run / checkpoint.NAME) for run in (before, after))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not list((tmp_path / "temporary").iterdir())
    assert np.allclose(found.curve.rates, np.geomspace(1e-6, 1, 12))
    # The first batch meets weights that have not moved, whatever the rate is: its loss is the training's own.
    with (before / "log.csv").open() as file:
        row = next(csv.DictReader(file))
    assert found.curve.losses[0] == found.curve.untrained[0] == float(row["rebuild"]) + float(row["contrast"])
    assert len(found.curve.losses) == 12
    assert found.curve.losses[-1] != found.curve.untrained[-1]


def test_untrained_weights_do_not_move(balls, tmp_path, monkeypatch):
    """With a rate of zero every step of the loop finds the weights as they were."""
    monkeypatch.setattr("medssl.find_rate.STEPS", 4)
    norms, forward = [], Rebuild.forward
    monkeypatch.setattr(
        Rebuild, "forward", lambda self, bank: (norms.append(self.head.weight.sum().item()), forward(self, bank))[1]
    )
    find_rate(read_recipe(balls / "recipe.yaml"), balls / "store", "pretrain")
    assert len(norms) == 8
    assert norms[:4] == [norms[4]] * 4
    assert norms[7] != norms[4]


def test_a_loss_that_is_not_finite_ends_the_curve_and_any_other_mistake_is_raised(balls, monkeypatch):
    forward, calls = Rebuild.forward, []

    def breaks(self, bank):
        calls.append(1)
        return forward(self, bank) * (float("nan") if len(calls) == 20 + 15 else 1)

    monkeypatch.setattr(Rebuild, "forward", breaks)
    monkeypatch.setattr("medssl.find_rate.STEPS", 20)
    found = find_rate(read_recipe(balls / "recipe.yaml"), balls / "store", "pretrain")
    assert len(found.curve.losses) == len(found.curve.rates) == len(found.curve.untrained) == 14

    def refuses(self, bank):
        raise UserError("method.rebuild: mend this")

    monkeypatch.setattr(Rebuild, "forward", refuses)
    with pytest.raises(UserError, match="mend this"):
        find_rate(read_recipe(balls / "recipe.yaml"), balls / "store", "pretrain")


@pytest.mark.parametrize("made", [curve(noise=0.1), curve(fall=1e3)], ids=["answer", "none"])
def test_table_and_picture_hold_the_curve(tmp_path, made):
    found = answer(made)
    picture = write_curve(found, tmp_path / "rates")
    with (tmp_path / "rates" / "rates.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert np.allclose([float(row["lr"]) for row in rows], RATES, rtol=1e-5)
    for name in ("untrained", "change", "smooth"):
        assert np.allclose([float(row[name]) for row in rows], getattr(made, name), rtol=1e-5)
    assert np.allclose([float(row["loss"]) for row in rows], made.losses, rtol=1e-5)
    told = " ".join(ET.parse(picture).getroot().itertext())
    assert "learning rate" in told
    assert ("suggested" in told) == (found.lr is not None)
    before = picture.read_bytes()
    assert write_curve(found, tmp_path / "rates").read_bytes() == before


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_the_command_line_writes_the_curve_and_no_run(command, balls, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("medssl.find_rate.STEPS", 3)
    arguments = [command, str(balls / "recipe.yaml"), "--store", str(balls / "store"), "--find-lr", "--run", "run"]
    with pytest.raises(SystemExit) as left:
        main([*arguments, "-o", "rates"])
    assert not left.value.code
    assert "curve in rates/rates.svg" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["rates", "rates.csv", "rates.svg"]


def test_several_processes_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("torch.distributed.is_torchelastic_launched", lambda: True)
    with pytest.raises(UserError, match="--find-lr: 2 processes, but it measures one"):
        find_rate({}, tmp_path, "pretrain")
