"""Every patient outside of test is judged once, by a model and a pretraining that have not seen them."""

import json

import numpy as np
import pandas as pd
import pytest

from medssl.crossvalidate import crossvalidate
from medssl.errors import UserError
from medssl.recipe import read_recipe
from medssl.store import open_store
from medssl.views.select import folds, select


def test_folds_are_of_equal_size_whole_patients_and_leave_test_alone(balls):
    store = open_store(balls / "store")
    dealt = folds(store, 5)
    sizes = np.bincount(list(dealt.values()), minlength=5)
    assert sizes.max() - sizes.min() <= 1
    held = []
    for fold in range(5):
        section = {"folds": "5", "fold": str(fold)}
        train, val = (select(store, section, split=split) for split in ("train", "val"))
        assert not set(train["patient_pid"]) & set(val["patient_pid"])
        assert len(train) + len(val) == store.volumes["split"].isin(["train", "val"]).sum()
        assert set(val["split"]) == {"val"} and set(train["split"]) == {"train"}
        held += val["volume_id"].tolist()
    assert sorted(held) == sorted(store.volumes.loc[store.volumes["split"].isin(["train", "val"]), "volume_id"])
    test = select(store, {"folds": "5", "fold": "1"}, split="test")
    assert test["volume_id"].tolist() == select(store, {}, split="test")["volume_id"].tolist()


@pytest.mark.parametrize(("count", "fold"), [(1, 0), (5, 5), (0, 1)])
def test_a_fold_that_is_not_there_is_refused(balls, count, fold):
    with pytest.raises(UserError, match=rf"data\.fold: {fold} of {count} folds"):
        select(open_store(balls / "store"), {"folds": str(count), "fold": str(fold)}, split="train")


def test_every_patient_is_judged_once_by_a_model_that_has_not_seen_them(balls, tmp_path):
    recipe = read_recipe(balls / "recipe.yaml", ["pretrain.steps=1", "finetune.steps=1"])
    lines = list(crossvalidate(recipe, balls / "store", tmp_path / "out", folds=3))
    assert len(lines) == 4
    store = open_store(balls / "store")
    table = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    known = store.rows(label="big")
    assert sorted(table["sample_id"]) == sorted(known.loc[known["split"] != "test", "volume_id"])
    assert set(table["split"]) == {"test"} and set(table["model"]) == {"out"}
    for fold in range(3):
        part = pd.read_parquet(tmp_path / "out" / f"fold-{fold}" / "predictions.parquet")
        assert {folds(store, 3)[who] for who in part["patient_id"]} == {fold}
        told = json.loads((tmp_path / "out" / f"fold-{fold}" / "model" / "run.json").read_text())
        assert told["recipe"]["data"]["fold"] == str(fold)
        assert (tmp_path / "out" / f"fold-{fold}" / "trunk" / "run.json").exists() == ("method" in recipe)


def test_one_fold_is_none(balls, tmp_path):
    with pytest.raises(UserError, match="folds: 1; give at least 2"):
        next(crossvalidate({}, balls / "store", tmp_path, folds=1))
