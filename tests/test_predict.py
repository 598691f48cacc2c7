import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medssl.adapt import finetune
from medssl.answers import Answering
from medssl.errors import UserError
from medssl.evaluate import read_predictions
from medssl.evaluate.detection import lesion_average_precision, lesions_of
from medssl.evaluate.overlap import dice
from medssl.evaluate.predictions import attributes_of
from medssl.evaluate.surfaces import apart
from medssl.manifest.cohort import read_sources
from medssl.predict import ATTRIBUTES, predict
from medssl.recipe import read_recipe
from medssl.store import Preparation, open_store, prepare
from medssl.train import pretrain

SEGMENT = ["head={name: segment, structures: [ball]}"]


@pytest.fixture(scope="module")
def classifier(balls, tmp_path_factory):
    return finetune(read_recipe(balls / "recipe.yaml"), balls / "store", tmp_path_factory.mktemp("c") / "run")


@pytest.fixture(scope="module")
def segmenter(balls, tmp_path_factory):
    recipe = read_recipe(balls / "recipe.yaml", SEGMENT)
    return finetune(recipe, balls / "store", tmp_path_factory.mktemp("s") / "run")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_that_the_judges_accept(balls, classifier, tmp_path, ending):
    table = predict(classifier, balls / "store", tmp_path / f"p.{ending}")
    read = read_predictions(tmp_path / f"p.{ending}")
    store = open_store(balls / "store")
    wanted = pd.concat([store.rows(split=split, label="big") for split in ("val", "test")])
    assert sorted(read["sample_id"]) == sorted(wanted["volume_id"])
    assert read["score"].between(0, 1).all()
    truth = wanted.set_index("volume_id")["big"]
    assert (read.set_index("sample_id")["label"] == truth[read["sample_id"]]).all()
    assert {"sex", "race", "age_band", "scanner"} <= set(read)
    assert np.allclose(read["score"].to_numpy(float), table["score"])


def test_the_same_run_answers_the_same_twice(balls, classifier, tmp_path):
    once, again = (predict(classifier, balls / "store", tmp_path / f"{n}.csv") for n in range(2))
    assert once.equals(again)


def test_measures_are_those_of_the_masks_written(balls, segmenter, tmp_path):
    asked = Answering(maps=tmp_path / "masks", pictures=tmp_path / "pictures", grid="prepared")
    table = predict(segmenter, balls / "store", tmp_path / "p.csv", splits=["test"], answering=asked)
    store = open_store(balls / "store")
    for row in table.itertuples():
        image = nib.load(tmp_path / "masks" / f"{row.sample_id}.nii.gz")
        truth = store.read(row.sample_id, "mask")[0]
        assert image.shape == truth.shape
        assert np.allclose(image.affine, store.affine(row.sample_id), atol=1e-4)
        found = np.asarray(image.dataobj) == 1
        assert row.dice_ball == pytest.approx(dice(truth == 1, found))
        spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
        assert (row.hd95_ball, row.nsd_ball) == pytest.approx(apart(truth == 1, found, spacing, 2.0), abs=1e-3)
        assert row.missed_ball == float(not found.any())
        ml = float(np.prod(spacing)) / 1000
        assert row.volume_ml_ball == pytest.approx((truth == 1).sum() * ml, rel=1e-5)
        assert row.volume_error_ml_ball == pytest.approx((found.sum() - (truth == 1).sum()) * ml, rel=1e-5)
    assert table["label"].isna().all()
    assert (table["tolerance_mm"] == 2.0).all()
    worst = table.sort_values(["dice_mean", "hd95_mean"], ascending=[True, False])["sample_id"].iloc[0]
    assert (tmp_path / "pictures" / f"worst_01_{worst}.png").is_file()
    assert len(list((tmp_path / "pictures").iterdir())) == len(table)
    read = read_predictions(tmp_path / "p.csv")
    assert not read["hd95_mean"].isna().any()
    assert set(attributes_of(read)) <= set(ATTRIBUTES)  # on which grid a map lies makes no group of patients


def test_what_cannot_be_predicted_with_is_said(balls, classifier, tmp_path):
    with pytest.raises(UserError, match="no run here"):
        predict(tmp_path, balls / "store", tmp_path / "p.csv")
    with pytest.raises(UserError, match="draws no outlines; of what it looks at, medssl explain"):
        predict(classifier, balls / "store", tmp_path / "p.csv", answering=Answering(pictures=tmp_path))
    with pytest.raises(UserError, match=r"is \.parquet or \.csv"):
        predict(classifier, balls / "store", tmp_path / "p.txt")
    with pytest.raises(
        UserError, match="split 'never': there is none of that name; there are: external, test, train, val"
    ):
        predict(classifier, balls / "store", tmp_path / "p.csv", splits=["never"])
    trunk = pretrain(read_recipe(balls / "recipe.yaml", ["pretrain.steps=1"]), balls / "store", tmp_path / "trunk")
    with pytest.raises(UserError, match="has no head"):
        predict(trunk, balls / "store", tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()


def test_an_unfinished_run_is_not_predicted_with(balls, classifier, tmp_path):
    import shutil

    half = tmp_path / "half"
    shutil.copytree(classifier, half)
    text = (half / "run.json").read_text().replace('"steps": "6"', '"steps": "60"')
    (half / "run.json").write_text(text)
    with pytest.raises(UserError, match="stopped after 6 of 60 steps"):
        predict(half, balls / "store", tmp_path / "p.csv")


@pytest.fixture(scope="module")
def detector(balls, tmp_path_factory):
    changes = ["head={name: detect, loss: dice}", "finetune={steps: 60, batch: 4, lr: 1e-2, precision: 32-true}"]
    return finetune(read_recipe(balls / "recipe.yaml", changes), balls / "store", tmp_path_factory.mktemp("d") / "run")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_lesions_have_a_table_of_their_own_that_fits_the_maps(balls, detector, tmp_path, ending):
    table = predict(
        detector,
        balls / "store",
        tmp_path / f"p.{ending}",
        splits=["test"],
        answering=Answering(maps=tmp_path / "maps"),
    )
    read = pd.read_csv if ending == "csv" else pd.read_parquet
    lesions, store = read(tmp_path / f"p_lesions.{ending}"), open_store(balls / "store")
    assert read_predictions(tmp_path / f"p.{ending}")["label"].eq(1).all()
    assert set(lesions["sample_id"]) == set(table["sample_id"]) and {"patient_id", "split", "sex"} <= set(lesions)
    found = 0
    for row in table.itertuples():
        detected = np.asarray(nib.load(tmp_path / "maps" / f"{row.sample_id}.nii.gz").dataobj)
        assert row.score == pytest.approx(detected.max())
        told = lesions[lesions["sample_id"] == row.sample_id]
        wanted = sorted(lesions_of(detected, store.read(row.sample_id, "mask")[0]))
        mine = sorted(zip(told["truth"], told["score"], told["overlap"], strict=True))
        assert np.allclose(mine, [(e.truth, e.score, e.overlap) for e in wanted], atol=1e-6)
        found += told[told["truth"] == 1]["overlap"].gt(0.1).sum()
    assert found >= 0.7 * len(table)
    assert lesion_average_precision(truth=lesions["truth"].to_numpy(), score=lesions["score"].to_numpy()) > 0.5


def test_lesions_of_another_model_do_not_stay_beside_new_predictions(balls, classifier, tmp_path):
    (tmp_path / "p_lesions.csv").write_text("old\n")
    predict(classifier, balls / "store", tmp_path / "p.csv")
    assert not (tmp_path / "p_lesions.csv").exists()


@pytest.fixture(scope="module")
def other_grid(balls, tmp_path_factory):
    """The same volumes on another grid than they were read on."""
    store = tmp_path_factory.mktemp("other") / "store"
    prepare(balls / "cohort", store, settings=Preparation(mr_spacing=(1.3, 0.8, 1.2)))
    return store


def source(balls, row):
    """The image that a volume of the store was read from."""
    paths = read_sources(balls / "cohort").set_index("volume_id")["path"]
    return nib.load(balls / "archive" / paths[row.sample_id])


@pytest.mark.parametrize("kind", ["segmenter", "detector"])
def test_maps_lie_on_the_source_s_grid_where_the_prepared_ones_lie(balls, other_grid, kind, request, tmp_path):
    run, store, tables = request.getfixturevalue(kind), open_store(other_grid), []
    for grid in ("source", "prepared"):
        asked = Answering(grid=grid, maps=tmp_path / grid)
        tables.append(predict(run, other_grid, tmp_path / "p.csv", splits=["test"], answering=asked))
    assert tables[1]["map_grid"].eq("prepared").all() and tables[1]["map_note"].eq("").all()
    answers = [table.drop(columns=["map_grid", "map_note"]) for table in tables]
    assert answers[0].equals(answers[1])  # what is judged does not depend on where maps are written
    for row in tables[0].itertuples():
        read = source(balls, row)
        there, before = (nib.load(tmp_path / grid / f"{row.sample_id}.nii.gz") for grid in ("source", "prepared"))
        assert np.allclose(before.affine, store.affine(row.sample_id), atol=1e-4)
        if row.map_grid == "prepared":
            assert "candidates would be" in row.map_note and there.shape == before.shape
            continue
        assert there.shape == read.shape and np.allclose(there.affine, read.affine, atol=1e-4)
        found, wanted = np.asarray(there.dataobj), np.asarray(before.dataobj)
        if kind == "segmenter":
            assert row.map_note.startswith("ball: regions ") or not wanted.any()
        assert set(np.unique(found)) == set(np.unique(wanted))
        index = np.stack([*np.meshgrid(*map(np.arange, found.shape), indexing="ij"), np.ones(found.shape)], -1)
        at = (index @ (np.linalg.inv(before.affine) @ there.affine).T)[..., :3]
        nearest = wanted[
            tuple(np.floor(at + 0.5).astype(int).clip(0, np.array(wanted.shape) - 1).transpose(3, 0, 1, 2))
        ]
        between = (np.abs(at % 1 - 0.5) < 1e-5).any(-1)
        if kind == "detector":
            assert (found == nearest)[~between].all()
        elif wanted.any() and not wanted.all():
            moved = [(found == np.roll(nearest, by, axis)).mean() for axis in range(3) for by in (-1, 1)]
            assert (found == nearest).mean() > max(0.9, *moved)
    assert "source" in set(tables[0]["map_grid"])


def test_runs_answer_together_and_the_table_names_all(balls, classifier, tmp_path):
    twin = tmp_path / "twin"
    recipe = read_recipe(balls / "recipe.yaml", ["finetune.seed=5"])
    finetune(recipe, balls / "store", twin)
    alone = [predict(run, balls / "store", tmp_path / "p.csv")["score"] for run in (classifier, twin)]
    both = predict(classifier, balls / "store", tmp_path / "p.csv", answering=Answering(runs=(twin,)))
    assert both["model"].eq("run + twin").all()
    assert np.allclose(both["score"], np.mean(alone, 0), atol=1e-6)
    assert not np.allclose(*alone, atol=1e-4)


def test_runs_of_another_head_do_not_answer_together(balls, classifier, segmenter, tmp_path):
    with pytest.raises(UserError, match=r"head\.name is segment, that of .* is classify"):
        predict(classifier, balls / "store", tmp_path / "p.csv", answering=Answering(runs=(segmenter,)))


def test_a_run_that_answers_with_itself_is_refused(balls, classifier, tmp_path):
    with pytest.raises(UserError, match="named twice"):
        predict(classifier, balls / "store", tmp_path / "p.csv", answering=Answering(runs=(classifier,)))
