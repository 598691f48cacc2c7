"""The clinic that sees its eyes three times: what is planted is in the files, and the shipped recipe forecasts from them."""

import numpy as np
import pandas as pd
import pytest

from medssl.adapt import finetune
from medssl.errors import UserError
from medssl.manifest import index, read_card
from medssl.phantom import write_follow_up
from medssl.predict import predict, predict_raw
from medssl.recipe import make, read_recipe
from medssl.store import Preparation, open_store, prepare
from tests.conftest import REPOSITORY

PATIENTS = 12


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("follow-up")
    assert write_follow_up(folder / "archive", PATIENTS) == 6 * PATIENTS == len(list((folder / "archive").iterdir()))
    index(
        folder / "archive", folder / "cohort", card=read_card(REPOSITORY / "data_manifests" / "phantom_follow_up.yaml")
    )
    recipe = read_recipe(REPOSITORY / "pipelines" / "phantom_rnfl_progression.yaml")
    prepare(folder / "cohort", folder / "store", settings=make(Preparation, recipe["prepare"], "prepare"))
    return folder


def test_equal_arguments_give_equal_bytes_and_nothing_is_written_over(clinic, tmp_path):
    write_follow_up(tmp_path / "again", 2)
    for path in (tmp_path / "again").iterdir():
        assert path.read_bytes() == (clinic / "archive" / path.name).read_bytes()
    with pytest.raises(UserError, match="exists already"):
        write_follow_up(tmp_path / "again", 2)


def test_eyes_that_progress_thin_and_the_others_do_not(clinic):
    change, label = [], []
    for path in sorted((clinic / "archive").glob("*_0.npz")):
        with np.load(path) as first, np.load(str(path).replace("_0.npz", "_1.npz")) as second:
            both = (first["rnflt"] > 0) & (second["rnflt"] > 0)
            change.append(np.log(second["rnflt"][both] / first["rnflt"][both]).mean())
            label.append(int(first["progression"]))
            assert first["progression"] == second["progression"] and 0.7 < second["age"] - first["age"] < 1.3
    change, label = np.array(change), np.array(label)
    assert 0.2 < label.mean() < 0.8
    assert change[label == 1].mean() < -0.08 and abs(change[label == 0].mean()) < 0.02


def test_the_shipped_recipe_takes_its_steps_on_the_first_two_visits(clinic, tmp_path):
    small = ["finetune={steps: 2, batch: 4, precision: 32-true}", "trunk.widths=[4, 4, 8]"]
    recipe = read_recipe(REPOSITORY / "pipelines" / "phantom_rnfl_progression.yaml", small)
    run = finetune(recipe, clinic / "store", tmp_path / "run")
    table = predict(run, clinic / "store", tmp_path / "p.csv", splits=["train", "test"])
    volumes = open_store(clinic / "store").volumes.set_index("volume_id")
    days = volumes.loc[table["sample_id"], "days_since_first"]
    assert days.between(290, 440).all()  # the second visit, never the third
    eyes = volumes.loc[table["sample_id"], ["patient_pid", "laterality"]]
    assert not eyes.duplicated().any() and set(eyes["laterality"]) == {"L", "R"}


def test_raw_files_of_one_eye_are_answered_once_and_the_other_visits_are_told(clinic, tmp_path):
    small = ["finetune={steps: 2, batch: 4, precision: 32-true}", "trunk.widths=[4, 4, 8]"]
    run = finetune(
        read_recipe(REPOSITORY / "pipelines" / "phantom_rnfl_progression.yaml", small),
        clinic / "store",
        tmp_path / "run",
    )
    card = read_card(REPOSITORY / "data_manifests" / "phantom_follow_up.yaml")
    table = predict_raw(run, clinic / "archive", tmp_path / "out" / "p.csv", card=card)
    stored = predict(run, clinic / "store", tmp_path / "q.csv", splits=["train", "val", "test"])
    both = table.merge(stored, on="sample_id", suffixes=("", "_stored"))
    assert len(table) == len(stored) == len(both) == 2 * PATIENTS
    np.testing.assert_allclose(both["score"], both["score_stored"])
    told = pd.read_csv(tmp_path / "out" / "p_refused.csv", dtype=str)
    assert told["reason"].eq("OTHER_VISIT").all() and len(told) == 4 * PATIENTS
