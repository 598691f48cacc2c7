"""Reweighing: weights by hand, the loss that they make, and runs that resume to the bit."""

import numpy as np
import pandas as pd
import pytest
import torch

from medssl import checkpoint
from medssl.adapt import finetune, plan
from medssl.errors import UserError
from medssl.learners.reweighed import Reweighed
from medssl.predict import predict
from medssl.recipe import read_recipe
from medssl.store import open_store
from medssl.views.draw import classes_of

BY = "learn={name: reweighed, by: race*big}"


def recipe(balls, *changes):
    return read_recipe(balls / "recipe.yaml", changes)


def learner(strength=1.0):
    class Whole(torch.nn.Module):
        trunk, head, added = torch.nn.Identity(), torch.nn.Identity(), None

    return Reweighed(Whole(), by="sex", strength=strength)


def test_weights_by_hand():
    classes = torch.tensor([0] * 6 + [1] * 3 + [-1])
    full = learner()
    full.count(classes)
    each = full.weights[classes + 1]
    assert each.sum() == pytest.approx(10)
    assert [each[classes == one].sum().item() for one in (0, 1, -1)] == pytest.approx([10 / 3] * 3)
    none, half = learner(0.0), learner(0.5)
    for one in (none, half):
        one.count(classes)
    assert none.weights[classes + 1].tolist() == [1.0] * 10
    each = half.weights[classes + 1]
    assert (each[6] / each[0]).item() == pytest.approx(np.sqrt(2))
    assert each.sum() == pytest.approx(10)


def test_a_class_that_nobody_is_of_has_no_weight():
    known = learner()
    known.count(torch.tensor([0, 0, 1]))
    assert known.weights.tolist() == pytest.approx([0.0, 0.75, 1.5])


def test_the_loss_is_the_weighted_mean(balls):
    planned = plan(recipe(balls, BY), open_store(balls / "store"))
    batch = planned.batches[1]
    found = planned.model.eval()(batch)["task"]
    logits = planned.model.whole[0].answer(batch.x[0], batch.told)
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.target, reduction="none")
    weights = planned.model.weights[batch.facts["race*big"] + 1]
    assert found.item() == pytest.approx((weights * each).mean().item())
    rows = [open_store(balls / "store").rows().set_index("volume_id").loc[planned.batches.ids]]
    counts = pd.DataFrame({"race": rows[0]["race"].to_numpy(), "big": planned.batches.labels}).value_counts()
    # What all training scans of a class weigh together is the same for each.
    codes = torch.from_numpy(planned.batches.facts["race*big"])
    together = [planned.model.weights[codes + 1][codes == code].sum().item() for code in codes.unique()]
    assert together == pytest.approx([len(codes) / len(counts)] * len(counts))


def test_strength_0_learns_what_labels_alone_learn(balls, tmp_path):
    plain = finetune(recipe(balls), balls / "store", tmp_path / "plain")
    even = finetune(recipe(balls, "learn={name: reweighed, by: race, strength: 0}"), balls / "store", tmp_path / "even")
    uneven = finetune(recipe(balls, "learn={name: reweighed, by: sex*big}"), balls / "store", tmp_path / "uneven")
    first, second, third = (checkpoint.weights(run / checkpoint.NAME, "") for run in (plain, even, uneven))
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)
    assert not torch.allclose(first["head.last.1.weight"], third["head.last.1.weight"], atol=1e-6)
    assert predict(uneven, balls / "store", tmp_path / "p.csv")["score"].between(0, 1).all()


def test_a_killed_run_ends_in_the_same_bits(balls, tmp_path):
    def dies(steps, *_):
        for number in steps:
            if number == 3:
                raise KeyboardInterrupt
            yield number

    task = recipe(balls, BY)
    whole = finetune(task, balls / "store", tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        finetune(task, balls / "store", tmp_path / "broken", progress=dies)
    broken = finetune(task, balls / "store", tmp_path / "broken")
    assert (whole / checkpoint.NAME).read_bytes() == (broken / checkpoint.NAME).read_bytes()


def test_what_cannot_be_is_said(balls):
    store = open_store(balls / "store")
    with pytest.raises(UserError, match=r"learn\.by: empty; name a column or label"):
        plan(recipe(balls, "learn={name: reweighed, by: ''}"), store)
    with pytest.raises(UserError, match="are of one class of modality; leave learn out"):
        plan(recipe(balls, "learn={name: reweighed, by: modality}"), store)
    with pytest.raises(UserError, match="rase: the store has no column and no label of that name; did you mean 'race'"):
        plan(recipe(balls, "learn={name: reweighed, by: sex*rase}"), store)
    with pytest.raises(UserError, match=r"learn\.name: reweighed .*leave learn out"):
        plan(recipe(balls, BY, "head={name: segment, structures: [ball]}"), store)


def test_balance_shows_every_class_of_a_crossing_equally_often(balls, tmp_path):
    store = open_store(balls / "store")
    task = recipe(balls, "finetune.balance=race*big", "finetune.batch=4", "finetune.steps=2")
    planned = plan(task, store)
    race = store.rows().set_index("volume_id")["race"]
    rows = [planned.batches._rows(step) for step in range(40)]
    for drawn in rows:
        shown = sorted((race[planned.batches.ids[row]], planned.batches.labels[row]) for row in drawn)
        assert shown == [("A", 0.0), ("A", 1.0), ("B", 0.0), ("B", 1.0)]
    assert set(np.concatenate(rows).tolist()) == set(range(len(planned.batches.ids)))
    alone = plan(recipe(balls, "finetune.batch=4"), store)
    apart = [
        len({(race[alone.batches.ids[row]], alone.batches.labels[row]) for row in alone.batches._rows(step)})
        for step in range(10)
    ]
    assert min(apart) < 4
    run = finetune(task, balls / "store", tmp_path / "run")
    assert predict(run, balls / "store", tmp_path / "p.csv")["score"].between(0, 1).all()


def test_unknown_is_a_value_of_a_crossing_and_all_unknown_is_unknown():
    rows = pd.DataFrame({"sex": ["F", "unknown", "F", "", "M"], "site": ["n", "n", "unknown", "unknown", "n"]})
    assert classes_of(None, rows, "sex*site").tolist() == [0, 1, 2, -1, 3]
    assert classes_of(None, rows, "sex").tolist() == [0, -1, 0, -1, 1]
    assert classes_of(None, rows.assign(**{"a*b": list("xyxyx")}), "a*b").tolist() == [0, 1, 0, 1, 0]
