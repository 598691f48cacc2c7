"""Normalisation by group: known values, what unknown means, and that a group reaches training and predictions."""

import numpy as np
import pytest
import torch

from medssl import checkpoint
from medssl.adapt import finetune, plan
from medssl.answers import Ensemble, scores
from medssl.errors import UserError
from medssl.heads.fin import Fin
from medssl.predict import load_model, predict
from medssl.recipe import read_recipe
from medssl.runs import read_run
from medssl.store import open_store
from medssl.views.history import Told
from medssl.views.select import build_views

NAN = float("nan")
FIN = "head={name: classify, label: big, fin: {race: [A, B]}}"


def recipe(balls, *changes):
    return read_recipe(balls / "recipe.yaml", changes)


def numbers(*groups):
    return torch.tensor(groups)[:, None]


def moved(groups=("A", "B", "C"), width=5, seed=0):
    """One whose groups have learned numbers of their own."""
    found = Fin({"race": groups}, width)
    rng = torch.Generator().manual_seed(seed)
    for parameter in found.parameters():
        parameter.data.normal_(generator=rng)
    return found


def test_it_begins_as_a_head_without_it():
    features = torch.randn(6, 5)
    begun = Fin({"race": ("A", "B")}, 5)(features, numbers(0.0, 1.0, NAN, 0.0, 1.0, NAN))
    assert torch.allclose(begun, features, atol=1e-6)
    without = Fin({}, 5)
    assert torch.equal(without(features, torch.empty(0)), features)
    assert not without.state_dict()


def test_known_values_by_hand():
    fin, features = moved(), torch.randn(4, 5)
    found = fin(features, numbers(2.0, 0.0, 2.0, 1.0)).detach().numpy()
    for row, group in enumerate((2, 0, 2, 1)):
        spread = np.log(1 + np.exp(fin.spread[group].detach().numpy() + np.log(np.e - 1)))
        expected = (features[row].numpy() - fin.mean[group].detach().numpy()) / spread
        assert np.allclose(found[row], expected, atol=1e-5)


def test_one_group_is_plain_normalisation_known_or_not():
    one, features = moved(("all",)), torch.randn(8, 5)
    with torch.no_grad():
        known, unknown = (one(features, numbers(*[value] * 8)) for value in (0.0, NAN))
    assert torch.allclose(known, unknown)
    spread = torch.nn.functional.softplus(one.spread + np.log(np.e - 1))[0]
    plain = torch.nn.functional.batch_norm(features, one.mean[0].detach(), spread.detach().square(), eps=0.0)
    assert torch.allclose(known, plain, atol=1e-5)


def test_unknown_is_the_mean_of_groups_by_their_training_scans():
    fin, features = moved(("A", "B")), torch.randn(1, 5)
    fin.learn(numbers(0.0, 0.0, 0.0, 1.0, NAN))
    assert fin.shares.tolist() == [0.75, 0.25]
    spreads = torch.nn.functional.softplus(fin.spread + np.log(np.e - 1))
    pooled = (features - 0.75 * fin.mean[0] - 0.25 * fin.mean[1]) / (0.75 * spreads[0] + 0.25 * spreads[1])
    assert torch.allclose(fin(features, numbers(NAN)), pooled, atol=1e-5)


def test_a_scan_moves_the_numbers_of_its_own_group_only():
    fin = moved()
    fin(torch.randn(3, 5), numbers(1.0, 1.0, 1.0)).sum().backward()
    assert fin.mean.grad[1].abs().min() > 0
    assert fin.mean.grad[[0, 2]].abs().max() == fin.spread.grad[[0, 2]].abs().max() == 0


def test_what_cannot_be_is_said():
    for by, message in (
        ({"race": ("A",), "sex": ("F",)}, "head.fin: race, sex are 2 columns; name one"),
        ({"race": ("A", "A")}, "names a group twice"),
        ({"race": ()}, "names no group"),
    ):
        with pytest.raises(UserError, match=message):
            Fin(by, 3)
    with pytest.raises(UserError, match="race must be told of each scan; predict from a store"):
        moved()(torch.randn(2, 5), torch.empty(0))
    with pytest.raises(UserError, match="no training volume has race 'C'; leave it out"):
        moved().learn(numbers(0.0, 1.0, NAN))


def test_groups_reach_training_and_predictions_and_a_run_resumes_to_the_bit(balls, tmp_path):
    task, store = recipe(balls, FIN), open_store(balls / "store")
    planned = plan(task, store)
    race = store.rows().set_index("volume_id")["race"]
    wanted = [{"A": 0.0, "B": 1.0}[race[one]] for one in planned.batches.ids]
    assert planned.batches.history.told.groups[:, 0].tolist() == wanted
    assert planned.model.head.fin.shares[1] == np.mean(wanted)

    def dies(steps, *_):
        for number in steps:
            if number == 3:
                raise KeyboardInterrupt
            yield number

    whole = finetune(task, balls / "store", tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        finetune(task, balls / "store", tmp_path / "broken", progress=dies)
    broken = finetune(task, balls / "store", tmp_path / "broken")
    once, again = (checkpoint.read(run / checkpoint.NAME) for run in (whole, broken))
    assert once.keys() == again.keys() and all(torch.equal(once[name], again[name]) for name in once)
    assert (once["model.head.fin.mean"] != 0).any()
    # What predict answers is the answer for the group that the store tells of each volume.
    table = predict(whole, balls / "store", tmp_path / "p.csv")
    model = load_model(whole, read_run(whole))
    model.head.fin.mean.data += torch.arange(2)[:, None]  # so that a few steps' difference is seen in any precision
    ensemble = Ensemble(models=(model.eval(),), crops=build_views(task["views"]).crops)
    with torch.inference_mode():
        a, b, unknown = (
            scores(ensemble, store, (table["sample_id"][0],), Told(groups=numbers(group)))[0]
            for group in (0.0, 1.0, NAN)
        )
    assert min(a, b) < unknown < max(a, b)
    model = load_model(whole, read_run(whole)).eval()
    ensemble = Ensemble(models=(model,), crops=build_views(task["views"]).crops)
    for row in table.itertuples():
        with torch.inference_mode():
            told = Told(groups=numbers({"A": 0.0, "B": 1.0}.get(race[row.sample_id], NAN)))
            assert row.score == pytest.approx(scores(ensemble, store, (row.sample_id,), told)[0], abs=1e-6)
