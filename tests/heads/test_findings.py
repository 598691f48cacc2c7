"""Several labels of a volume, some of them unknown, on the whole way from a card to a report."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from medssl import checkpoint
from medssl.adapt import build_model, finetune, plan
from medssl.answers import whole_view
from medssl.errors import UserError
from medssl.evaluate import evaluate, read_predictions
from medssl.explain import explain
from medssl.learners import MixedSteps
from medssl.manifest import index, read_card
from medssl.predict import load_model, predict
from medssl.recipe import make, read_recipe
from medssl.runs import read_run
from medssl.store import Preparation, open_store, prepare
from medssl.views import Steps
from medssl.views.select import build_views, select

LABELS = ("big", "female", "b")
"""Who big balls have, who is female (of some it is not recorded), and who is of group B."""

HEAD = "head={name: findings, labels: [big, female, b]}"


@pytest.fixture(scope="module")
def several(balls, tmp_path_factory):
    """A store whose volumes have three labels."""
    folder = tmp_path_factory.mktemp("several")
    text = (balls / "archive" / "card.yaml").read_text()
    labels = "labels: {big: column big, female: sex equals F, b: race equals B}"
    (folder / "card.yaml").write_text(text.replace("labels: {big: column big}", labels))
    index(balls / "archive", folder / "cohort", card=read_card(folder / "card.yaml"))
    prepare(folder / "cohort", folder / "store", settings=make(Preparation, {"mr_spacing": ["1", "1", "1.5"]}, ""))
    return folder / "store"


def recipe(balls, *changes):
    return read_recipe(balls / "recipe.yaml", [HEAD, *changes])


@pytest.fixture(scope="module")
def model(balls, several, tmp_path_factory):
    return finetune(recipe(balls), several, tmp_path_factory.mktemp("findings") / "run")


def wanted(store):
    """Volume -> its labels, one lookup after another."""
    told = store.labels.set_index(["volume_id", "name"])["value"]
    return {one: [told.get((one, name), np.nan) for name in LABELS] for one in store.volumes["volume_id"]}


def test_rows_hold_every_label_and_those_without_any_are_left_out(several):
    store = open_store(several)
    truth, rows = wanted(store), store.rows(label=LABELS)
    assert rows["female"].isna().any() and not rows["b"].isna().any()
    for volume_id, *values in rows[["volume_id", *LABELS]].to_numpy():
        assert np.array_equal(np.array(values, float), truth[volume_id], equal_nan=True)
    nobody = truth.keys() - set(store.rows(label=["female"])["volume_id"])
    assert nobody == {one for one, values in truth.items() if np.isnan(values[1])} != set()
    fewer = replace(store, labels=store.labels[store.labels["volume_id"] != rows["volume_id"][0]])
    assert fewer.rows(label=LABELS)["volume_id"].tolist() == rows["volume_id"].tolist()[1:]
    assert list(store.rows(label="big")["big"]) == list(store.rows(label=("big",))["big"])
    with pytest.raises(UserError, match="no label called 'femal'; did you mean 'female'"):
        store.rows(label=("big", "femal"))


def test_targets_follow_their_volumes(several):
    store = open_store(several)
    rows = select(store, {}, split="train", target=LABELS)
    views = build_views({"size": ["16"] * 3}, count=1)
    steps, truth = Steps(store, rows, views, batch=6, seed=0, target=LABELS), wanted(store)
    unknown = 0
    for step in range(4):
        batch = steps[step]
        assert batch.target.shape == (6, 3) and batch.target.dtype == torch.float32
        expected = torch.tensor([truth[steps.ids[row]] for row in steps._rows(step)], dtype=torch.float32)
        assert torch.equal(batch.target.nan_to_num(-1), expected.nan_to_num(-1))
        unknown += int(expected.isnan().sum())
    assert unknown


def test_the_table_has_a_row_for_each_volume_and_label(balls, several, model, tmp_path):
    predict(model, several, tmp_path / "p.parquet")
    table, store = read_predictions(tmp_path / "p.parquet"), open_store(several)
    truth = wanted(store)
    known = store.volumes[store.volumes["split"].isin(["val", "test"])]["volume_id"]
    assert len(table) == 3 * len(known) and set(table["task"]) == set(LABELS)
    network, crops = load_model(model, read_run(model)).eval(), build_views(recipe(balls)["views"]).crops
    for volume_id in known[:4]:
        rows = table[table["sample_id"] == volume_id].set_index("task")
        assert np.array_equal(rows["label"][[*LABELS]].to_numpy(float), truth[volume_id], equal_nan=True)
        with torch.no_grad():
            score = torch.sigmoid(network.answer(whole_view(store, volume_id, crops)))[0]
        assert rows["score"][[*LABELS]].to_numpy() == pytest.approx(score.numpy(), abs=1e-5)
    report = evaluate({"p": table}, by=["scanner"])
    assert [one["name"] for one in report["analyses"]] == ["b", "big", "female"]
    assert report["averages"][0]["names"]
    with pytest.raises(UserError, match="take --by eigen-cam"):
        explain(model, several, tmp_path / "maps", [known.iloc[0]])
    assert len(explain(model, several, tmp_path / "maps", [known.iloc[0]], by="eigen-cam")) == 1


def test_one_label_is_told_as_by_a_classifier(balls, several):
    """What identifies the labels of a run does not change with how many it could have had."""
    one = plan(read_recipe(balls / "recipe.yaml"), open_store(several)).facts["labels"]
    rows = select(open_store(several), {"modality": "MR"}, split="train", target="big")
    told = "\n".join(f"{name} {value:g}" for name, value in zip(rows["volume_id"], rows["big"], strict=True))
    assert one == hashlib.sha256(told.encode()).hexdigest()[:16]
    several_ = plan(recipe(balls), open_store(several)).facts["labels"]
    labels = open_store(several).labels
    turned = labels.assign(value=labels["value"].where(labels["name"] != "b", 1 - labels["value"]))
    other = replace(open_store(several), labels=turned)
    assert len({one, several_, plan(recipe(balls), other).facts["labels"]}) == 3


def test_balance_is_of_the_training_rows_that_are_known_and_stays_with_the_run(balls, several, tmp_path):
    balanced = recipe(balls, "head.balance=true", "finetune.steps=1")
    rows = select(open_store(several), {"modality": "MR"}, split="train", target=LABELS)
    have = rows[[*LABELS]].mean().to_numpy()
    weights = plan(balanced, open_store(several)).model.head.weights.numpy()
    assert weights == pytest.approx(0.5 / np.stack([1 - have, have]))
    run = finetune(balanced, several, tmp_path / "run")
    assert load_model(run, read_run(run)).head.weights.numpy() == pytest.approx(weights)
    assert (build_model(recipe(balls)).head.weights == 1).all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.assign(value=t["value"].where(t["name"] != "b", 1.0)), r"label 'b': all \d+ training volumes"),
        (lambda t: t.assign(value=t["value"].where(t["name"] != "b", 2.0)), "label 'b': 2 is not 0 or 1"),
        (lambda t: t.assign(value=t["value"].where(t["name"] != "b")), "label 'b': not known of any"),
    ],
)
def test_each_label_needs_both_classes(balls, several, spoil, message):
    store = open_store(several)
    store = replace(store, labels=spoil(store.labels))
    with pytest.raises(UserError, match=message):
        plan(recipe(balls), store)


@pytest.mark.parametrize("learner", ["mean_teacher", "pseudo_label"])
def test_learners_of_unlabelled_scans_teach_every_finding(balls, several, tmp_path, learner):
    taught = recipe(
        balls,
        f"learn={{name: {learner}, rise: 0, weight: 1}}",
        "data.labelled=8",
        "finetune.steps=2",
        "finetune.batch=4",
    )
    planned = plan(taught, open_store(several))
    assert isinstance(planned.batches, MixedSteps) and planned.batches[0].labelled.target.shape == (4, 3)
    run = finetune(taught, several, tmp_path / "run")
    assert checkpoint.steps_done(run / checkpoint.NAME) == 2
    assert predict(run, several, tmp_path / "p.csv")["score"].between(0, 1).all()
    assert json.loads((run / "run.json").read_text())["facts"]["patients"] == 8


@pytest.mark.parametrize("learner", ["co_teaching", "pseudo_supervisor"])
def test_learners_that_weigh_scans_are_refused(balls, several, learner):
    with pytest.raises(UserError, match=rf"learn.name: {learner} weighs each scan by one answer, .* mean_teacher or"):
        plan(recipe(balls, f"learn={{name: {learner}}}", "data.labelled=8"), open_store(several))


@pytest.mark.slow
def test_it_learns_each_finding_that_shows(balls, several, tmp_path):
    """Big balls show; groups and sexes do not."""
    run = finetune(
        recipe(balls, "finetune={steps: 150, batch: 8, lr: 5e-3, precision: 32-true}"), several, tmp_path / "r"
    )
    table = predict(run, several, tmp_path / "p.csv", splits=["val", "test"])
    big = table[table["task"] == "big"]
    assert big.loc[big["label"] == 1, "score"].min() > big.loc[big["label"] == 0, "score"].max()
