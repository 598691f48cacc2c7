"""Numbers and visits beside a scan reach every learner, the checkpoint, the predictions and the maps."""

import numpy as np
import pandas as pd
import pytest
import torch

from medssl import checkpoint
from medssl.adapt import finetune, plan
from medssl.errors import UserError
from medssl.explain.explain import cases_of, explain
from medssl.learners import LEARNERS
from medssl.predict import load_model, predict
from medssl.recipe import read_recipe
from medssl.rehearsal import rehearse
from medssl.runs import read_run
from medssl.store import open_store
from medssl.views.history import Told

FEW = ["data.labelled=8", "finetune.steps=6"]
WAYS = {"supervised": [], **{name: [*FEW, f"learn.name={name}"] for name in LEARNERS}}
WAYS["pseudo_supervisor"].append("learn.window=2")
WAYS["co_teaching"].append("learn.wrong=0.5")
WAYS["reweighed"].append("learn.by=grows")
CLASSIFY = "head={name: classify, label: grows, covariates: [age_years, pressure]}"


@pytest.mark.parametrize("head", ["forecast", "classify"])
@pytest.mark.parametrize("way", sorted(WAYS))
def test_every_learner_is_told_and_resumes_to_the_bit(visits, tmp_path, way, head):
    recipe = read_recipe(visits / "recipe.yaml", [*WAYS[way], *([CLASSIFY] if head == "classify" else [])])
    whole = finetune(recipe, visits / "store", tmp_path / "whole")
    if head == "forecast":

        def dies(steps, *_):
            for number in steps:
                if number == 3:
                    raise KeyboardInterrupt
                yield number

        with pytest.raises(KeyboardInterrupt):
            finetune(recipe, visits / "store", tmp_path / "broken", progress=dies)
        broken = finetune(recipe, visits / "store", tmp_path / "broken")
        once, again = (checkpoint.read(run / checkpoint.NAME) for run in (whole, broken))
        assert once.keys() == again.keys() and all(torch.equal(once[name], again[name]) for name in once)
    planned = plan(recipe, open_store(visits / "store"))
    steps = planned.batches if way in ("supervised", "co_teaching", "reweighed") else planned.batches.labelled
    kept = load_model(whole, read_run(whole)).head.covariates
    if way == "pseudo_supervisor":
        steps = planned.batches.others["judged"]
        both = torch.cat([steps.history.told.covariates, planned.batches.labelled.history.told.covariates]).numpy()
    else:
        both = steps.history.told.covariates.numpy()
    assert np.allclose(kept.mean, np.nanmean(both.astype(np.float64), 0), rtol=1e-6)
    assert np.allclose(kept.spread, np.nanstd(both.astype(np.float64), 0), rtol=1e-6)
    table = predict(whole, visits / "store", tmp_path / "p.csv")
    assert table["score"].between(0, 1).all() and table["score"].nunique() > 2 and set(table["task"]) == {"grows"}


def test_a_prediction_is_of_the_first_visits_and_needs_no_training_store(visits, tmp_path):
    run = finetune(read_recipe(visits / "recipe.yaml"), visits / "store", tmp_path / "run")
    store = open_store(visits / "store")
    table = predict(run, visits / "store", tmp_path / "p.csv", splits=["test"]).set_index("sample_id")
    eyes = store.volumes.query("split == 'test'").sort_values("days_since_first").groupby(["patient_pid", "laterality"])
    assert set(table.index) == set(eyes["volume_id"].nth(1))
    model = load_model(run, read_run(run)).eval()
    name = table.index[0]
    row = store.volumes.set_index("volume_id").loc[name]
    first = eyes.get_group((row["patient_pid"], row["laterality"]))["volume_id"].iloc[0]
    day = store.volumes.set_index("volume_id")["days_since_first"]
    pressure = store.labels.query("name == 'pressure'").set_index("volume_id")["value"][name]
    x = torch.stack([torch.from_numpy(store.read(one).astype(np.float32)) for one in (first, name)])[None]
    told = Told(
        torch.tensor([[row["age_years"], pressure]]).float(), torch.tensor([[day[name] - day[first], 0.0]]).float()
    )
    with torch.inference_mode():
        assert torch.sigmoid(model.answer(x, told)).item() == pytest.approx(table["score"][name], abs=1e-5)


def test_a_map_is_of_the_last_visit(visits, tmp_path):
    run = finetune(read_recipe(visits / "recipe.yaml"), visits / "store", tmp_path / "run")
    cases = cases_of(run, visits / "store", "test", 2)
    table = explain(run, visits / "store", tmp_path / "maps", cases)
    scores = predict(run, visits / "store", tmp_path / "p.csv", splits=["test"]).set_index("sample_id")["score"]
    assert np.allclose(table["score"], scores[cases], atol=1e-4)
    last = open_store(visits / "store").volumes.sort_values("days_since_first")["volume_id"].iloc[-1]
    with pytest.raises(UserError, match=f"--case {last}: not the last visit of a series"):
        explain(run, visits / "store", tmp_path / "maps", [last])


def test_a_rehearsal_counts_the_volumes_of_all_visits(visits):
    recipe = read_recipe(visits / "recipe.yaml")
    cost = rehearse(recipe, visits / "store", "finetune")
    planned = plan(recipe, open_store(visits / "store"))
    assert cost.volumes == len(planned.batches.ids)
    assert cost.kept == 2 * 12**3 * 2 * len(planned.batches.ids)  # two visits of two bytes a voxel


def test_what_cannot_be_told_is_refused_before_training(visits):
    store = open_store(visits / "store")
    for change, message in (
        ("head.covariates=[age]", "age: the store has no column and no label of that name"),
        ("head.covariates=[grows]", "head.covariates: 'grows' is the label itself"),
        ("head.visits=0", "head.visits: 0 must be at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            plan(read_recipe(visits / "recipe.yaml", [change]), store)


def test_old_runs_and_other_heads_hold_nothing_new(balls, tmp_path):
    run = finetune(read_recipe(balls / "recipe.yaml"), balls / "store", tmp_path / "run")
    assert not [name for name in checkpoint.read(run / checkpoint.NAME) if "covariates" in name]
    assert isinstance(predict(run, balls / "store", tmp_path / "p.csv"), pd.DataFrame)
