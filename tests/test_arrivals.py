"""Raw files in one command: each is answered as a prepared one, or refused with a reason; what looks unlike is told."""

import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medssl.adapt import finetune
from medssl.answers import Answering
from medssl.domain import BOUND, density, ranges
from medssl.errors import UserError
from medssl.evaluate import read_predictions
from medssl.evaluate.detection import lesions_of
from medssl.manifest import Card, index, read_card
from medssl.phantom import head, prostate
from medssl.predict import predict, predict_raw
from medssl.recipe import make, read_recipe
from medssl.store import Preparation, open_store, prepare
from medssl.train import pretrain
from tests.test_cli import run as command

MR = Card(name="new", modality="MR")
SEGMENT = ["head={name: segment, structures: [ball]}"]
DETECT = ["head={name: detect, loss: dice}", "finetune={steps: 60, batch: 4, lr: 1e-2, precision: 32-true}"]
HEADS = {"classify": [], "segment": SEGMENT, "detect": DETECT}


@pytest.fixture(scope="module")
def models(balls, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        name: finetune(read_recipe(balls / "recipe.yaml", changes), balls / "store", folder / name)
        for name, changes in HEADS.items()
    }


@pytest.fixture
def new(balls, tmp_path):
    """A folder with some scans of the archive, none of which was trained on."""
    volumes = open_store(balls / "store").volumes
    sources = pd.read_parquet(balls / "cohort" / "phi" / "sources.parquet").set_index("volume_id")["path"]
    folder = tmp_path / "new"
    folder.mkdir()
    for volume_id in volumes["volume_id"][volumes["split"] == "test"]:
        shutil.copy(balls / "archive" / sources[volume_id], folder)
    return folder


def spoil(folder):
    """Nothing; the folder also holds a text, a damaged file, thick slices, a copy of them, and a thin slab, as named."""
    noise = np.random.default_rng(0).normal(50, 5, (20, 24, 16)).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, np.diag([1.0, 1, 4, 1])), folder / "thick.nii.gz")
    nib.save(nib.Nifti1Image(noise[..., :4], np.diag([1.0, 1, 1.5, 1])), folder / "slab.nii.gz")
    shutil.copy(folder / "thick.nii.gz", folder / "thick_again.nii.gz")
    (folder / "notes.txt").write_text("not an image")
    (folder / "damaged.nii.gz").write_bytes(b"not one either")


def refused_of(output):
    return pd.read_csv(output.with_name(f"{output.stem}_refused.csv"), dtype=str, keep_default_na=False)


class Heard:
    """A progress that remembers how much there was to do, and how much was done before."""

    def __init__(self):
        self.told = {}

    def __call__(self, items, description, total, done=0):
        self.told[description] = (total, done)
        return iter(items)


@pytest.mark.parametrize("kind", list(HEADS))
def test_raw_files_are_answered_as_the_same_volumes_of_a_store(balls, models, new, tmp_path, kind):
    wanted = predict(
        models[kind], balls / "store", tmp_path / "s.csv", splits=["test"], answering=Answering(maps=tmp_path / "s")
    )
    table = predict_raw(models[kind], new, tmp_path / "r.csv", card=MR, answering=Answering(maps=tmp_path / "r"))
    assert table["sample_id"].tolist() == wanted["sample_id"].tolist()
    assert table["score"].equals(wanted["score"])
    assert table["unlike"].equals(wanted["unlike"])
    assert set(table["split"]) == {"external"}
    read = read_predictions(tmp_path / "r.csv")
    assert read["label"].isna().all()
    assert refused_of(tmp_path / "r.csv").empty
    if kind == "classify":
        return
    for name in table["sample_id"]:
        maps = [np.asarray(nib.load(tmp_path / place / f"{name}.nii.gz").dataobj) for place in "sr"]
        assert np.array_equal(*maps)
    if kind == "segment":
        assert read[["dice_ball", "dice_mean"]].isna().all(axis=None)
        return
    lesions = pd.read_csv(tmp_path / "r_lesions.csv")
    assert lesions[["truth", "overlap"]].isna().all(axis=None)
    for name in table["sample_id"]:
        found = np.asarray(nib.load(tmp_path / "r" / f"{name}.nii.gz").dataobj)
        candidates = [one.score for one in lesions_of(found, np.zeros_like(found))]
        assert sorted(lesions["score"][lesions["sample_id"] == name]) == pytest.approx(sorted(candidates))


def test_with_a_card_labels_and_label_maps_are_known(balls, models, tmp_path):
    card = read_card(balls / "archive" / "card.yaml")
    store = open_store(balls / "store")
    trained = set(store.volumes["patient_pid"][store.volumes["split"] == "train"])
    told = {row.volume_id: row.patient_pid in trained for row in store.volumes.itertuples()}
    for kind, column in ("classify", "label"), ("segment", "dice_ball"):
        splits = ["train", "val", "test"]
        wanted = predict(models[kind], balls / "store", tmp_path / "s.csv", splits=splits).set_index("sample_id")
        table = predict_raw(models[kind], balls / "archive", tmp_path / "r.csv", card=card).set_index("sample_id")
        assert table[column].to_dict() == wanted[column].to_dict()
        assert table[column].notna().all()
        # Whoever was learned from is not judged on, whatever folder the files are in.
        assert {name: split == "train" for name, split in table["split"].items()} == told
        read_predictions(tmp_path / "r.csv")


def test_nobody_is_external_of_whom_the_pretraining_has_learned(balls, tmp_path):
    task = read_recipe(balls / "recipe.yaml", ["pretrain.steps=1", "finetune.steps=1", "data.labelled=4"])
    everyone = read_recipe(balls / "recipe.yaml", ["pretrain.steps=1"])
    trunk = pretrain(everyone, balls / "store", tmp_path / "trunk")
    run = finetune(task, balls / "store", tmp_path / "run", start=trunk)
    table = predict_raw(run, balls / "archive", tmp_path / "r.csv", card=read_card(balls / "archive" / "card.yaml"))
    patients = open_store(balls / "store").volumes.groupby("split")["patient_pid"].nunique()
    split = table.groupby("split")["patient_id"].nunique()
    assert split["train"] == patients["train"] > 4 and split["external"] == patients["val"] + patients["test"]


def test_of_runs_that_answer_together_nobody_is_external_of_whom_any_has_learned(balls, tmp_path):
    card, store = read_card(balls / "archive" / "card.yaml"), open_store(balls / "store")
    first, second = (
        finetune(
            read_recipe(balls / "recipe.yaml", ["finetune.steps=1", "data.folds=2", f"data.fold={fold}"]),
            balls / "store",
            tmp_path / f"fold-{fold}",
        )
        for fold in range(2)
    )
    together = Answering(runs=(second,))
    table = predict_raw(first, balls / "archive", tmp_path / "r.csv", card=card, answering=together)
    unseen = set(store.volumes["volume_id"][store.volumes["split"] == "test"])
    assert set(table["sample_id"][table["split"] == "external"]) == unseen
    assert set(table["split"]) == {"external", "train"}


def test_whoever_was_learned_from_without_a_label_is_not_external(balls, tmp_path):
    changes = ["data.labelled=8", "learn.name=mean_teacher", "finetune.steps=1"]
    model = finetune(read_recipe(balls / "recipe.yaml", changes), balls / "store", tmp_path / "run")
    card = read_card(balls / "archive" / "card.yaml")
    table = predict_raw(model, balls / "archive", tmp_path / "r.csv", card=card).set_index("sample_id")
    split = open_store(balls / "store").volumes.set_index("volume_id")["split"]
    assert (table["split"] == "train").to_dict() == (split == "train").to_dict()


def test_each_file_is_in_the_table_or_in_the_list(models, new, tmp_path):
    spoil(new)
    count = len(list(new.iterdir()))
    output = tmp_path / "out" / "p.parquet"
    table = predict_raw(models["classify"], new, output, card=MR)
    refused = refused_of(output).set_index("path")
    assert len(table) + len(refused) == count
    assert refused["reason"].to_dict() == {
        "damaged.nii.gz": "UNREADABLE", "notes.txt": "NOT_AN_ARCHIVE_FILE", "slab.nii.gz": "TOO_FEW_SLICES",
        "thick.nii.gz": "SPACING_OUTSIDE", "thick_again.nii.gz": "DUP_INSTANCE",
    }  # fmt: skip
    assert refused["volume_id"].ne("").to_dict() == {
        name: name not in ("damaged.nii.gz", "notes.txt") for name in refused.index
    }
    assert "voxels of 4 mm along K, trained on 1.5 mm" in refused.loc["thick.nii.gz", "told"]
    assert refused["told"].str.len().min() > 30


def test_a_second_call_does_only_what_is_new(models, new, tmp_path):
    output, first, second = tmp_path / "p.csv", Heard(), Heard()
    count = len(list(new.iterdir()))
    once = predict_raw(models["classify"], new, output, card=MR, progress=first)
    assert first.told["reading headers"] == first.told["preparing"] == (count, 0)
    one = next(new.iterdir())
    image = nib.load(one)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + 1, image.affine), new / "another.nii.gz")
    again = predict_raw(models["classify"], new, output, card=MR, progress=second)
    assert second.told["reading headers"] == second.told["preparing"] == (count + 1, count)
    assert again[again["sample_id"].isin(once["sample_id"])]["score"].tolist() == once["score"].tolist()


def test_where_nothing_is_left_the_list_is_there_and_no_table(models, new, tmp_path):
    output = tmp_path / "p.csv"
    predict_raw(models["classify"], new, output, card=MR)
    with pytest.raises(UserError, match=r"nothing in it that this model may be asked about \(OTHER_MODALITY") as told:
        predict_raw(models["classify"], new, output)  # NIfTI says no modality
    assert "p_refused.csv says what to do" in str(told.value)
    refused = refused_of(output)
    assert set(refused["reason"]) == {"OTHER_MODALITY"}
    assert refused["told"].str.contains("modality unknown, trained on MR; .*modality: MR").all()
    assert not output.exists()
    for path in new.iterdir():
        path.write_text("spoilt")
    with pytest.raises(UserError, match="UNREADABLE"):
        predict_raw(models["classify"], new, output, card=MR)


def test_what_fails_half_way_leaves_the_table_and_the_list_of_before(models, new, tmp_path, monkeypatch):
    """A new list beside an old table would be taken for its own."""
    output = tmp_path / "p.csv"
    predict_raw(models["classify"], new, output, card=MR)
    before = output.read_bytes(), refused_of(output)
    spoil(new)

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("medssl.predict.write_table", full)
    with pytest.raises(OSError, match="disk full"):
        predict_raw(models["classify"], new, output, card=MR)
    assert output.read_bytes() == before[0] and refused_of(output).equals(before[1])


def test_what_cannot_be_done_is_said_before_anything_is_written(balls, models, new, tmp_path):
    with pytest.raises(UserError, match="lies among the raw files"):
        predict_raw(models["classify"], new, new / "p.csv", card=MR)
    with pytest.raises(UserError, match=r"is \.parquet or \.csv"):
        predict_raw(models["classify"], new, tmp_path / "p.txt", card=MR)
    with pytest.raises(UserError, match="no such folder"):
        predict_raw(models["classify"], tmp_path / "none", tmp_path / "p.csv")
    old = shutil.copytree(models["classify"], tmp_path / "old")
    for name in (ranges.NAME, density.NAME):
        (old / name).unlink()
    with pytest.raises(UserError, match="run medssl finetune again"):
        predict_raw(old, new, tmp_path / "p.csv", card=MR)
    assert not list(tmp_path.glob("p*"))
    assert "unlike" not in predict(old, balls / "store", tmp_path / "p.csv")
    finetune(read_recipe(balls / "recipe.yaml"), balls / "store", old)
    assert len(predict_raw(old, new, tmp_path / "p.csv", card=MR))


def test_a_list_of_raw_files_does_not_stay_beside_answers_of_a_store(balls, models, new, tmp_path):
    spoil(new)
    predict_raw(models["classify"], new, tmp_path / "p.csv", card=MR)
    assert len(refused_of(tmp_path / "p.csv"))
    predict(models["classify"], balls / "store", tmp_path / "p.csv")
    assert not (tmp_path / "p_refused.csv").exists()


def test_the_command_tells_stores_from_raw_files(balls, models, new, tmp_path, capsys):
    spoil(new)
    (tmp_path / "card.yaml").write_text("name: new\nmodality: MR\n")
    card = ("--card", tmp_path / "card.yaml")
    assert command("predict", models["detect"], new, "-o", tmp_path / "p.csv", "--workers", "0", *card) == 0
    told = capsys.readouterr().out
    assert "5 volumes, series and files not answered" in told
    assert "  SPACING_OUTSIDE: 1" in told
    assert "% of 8 held-out volumes" in told
    assert "cases without a label map" in told
    assert command("predict", models["detect"], balls / "store", "-o", tmp_path / "s.csv", "--split", "test") == 0
    told = capsys.readouterr().out
    assert "average precision" in told
    assert "not answered" not in told
    assert command("predict", models["detect"], new, "-o", tmp_path / "p.csv", "--split", "test") == 2
    assert "raw files have no splits" in capsys.readouterr().err
    assert command("predict", models["detect"], new, "-o", tmp_path / "p.csv", "--pictures", "x") == 2
    assert "no reference is known to draw beside" in capsys.readouterr().err
    assert command("predict", models["detect"], balls / "store", "-o", tmp_path / "p.csv", *card) == 2
    assert "is a store, which needs none" in capsys.readouterr().err


SHAPE, AFFINE = (32, 32, 10), np.diag([4.0, 4.0, 6.0, 1.0])
AFFINE[:3, 3] = -AFFINE[[0, 1, 2], [0, 1, 2]] * (np.array(SHAPE) - 1) / 2
RECIPE = """\
prepare: {mr_spacing: [4, 4, 6]}
data: {modality: MR}
views: {size: [24, 24, 8]}
trunk: {name: resenc, widths: [8, 16, 32]}
head: {name: classify, label: lesion}
finetune: {steps: 20, batch: 4, precision: 32-true}
"""

FIELD = """\
prepare: {modalities: [OPT], xray_pixels: 32}
data: {modality: OPT, channels: [1]}
views: {size: [16, 16]}
trunk: {name: resenc, widths: [4, 8]}
head: {name: classify, label: glaucoma}
finetune: {steps: 1, batch: 2, precision: 32-true}
"""


def pelvis(number):
    rng = np.random.default_rng([5, number])
    scanner = sorted(prostate.SCANNER)[number % 2]
    return prostate.t2w(rng, prostate.pelvis(rng, number % 4 < 2), AFFINE, SHAPE, scanner)


def save(path, voxels):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), AFFINE), path)


def test_images_of_another_kind_are_marked_and_ordinary_ones_mostly_not(tmp_path):
    archive, fresh = tmp_path / "archive", tmp_path / "fresh"
    lines = ["file,who,split,lesion"]
    for number in range(48):
        save(archive / f"{number}.nii.gz", pelvis(number))
        lines.append(f"{number}.nii.gz,{number},{'train' if number < 28 else 'val'},{int(number % 4 < 2)}")
    (archive / "table.csv").write_text("\n".join(lines))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe = read_recipe(tmp_path / "recipe.yaml")
    card = Card(
        name="pelvis", files="*.nii.gz", modality="MR", table="table.csv", key="file", labels={"lesion": "column lesion"},
        columns={"file": "file", "patient_id": "who", "split": "split"},
    )  # fmt: skip
    index(archive, tmp_path / "cohort", card=card)
    prepare(tmp_path / "cohort", tmp_path / "store", settings=make(Preparation, recipe["prepare"], "prepare"))
    model = finetune(recipe, tmp_path / "store", tmp_path / "run")
    for number in range(100, 116):
        image = pelvis(number)
        rng = np.random.default_rng(number)
        save(fresh / "ordinary" / f"{number}.nii.gz", image)
        save(fresh / "inverted" / f"{number}.nii.gz", image.max() - image)
        save(fresh / "noise" / f"{number}.nii.gz", rng.uniform(0, image.max(), SHAPE))
        save(fresh / "head" / f"{number}.nii.gz", head.t1w(rng, AFFINE, SHAPE, "Delta MR"))
    table = predict_raw(model, fresh, tmp_path / "p.csv", card=MR)
    sources = pd.read_parquet(tmp_path / "p_work" / "cohort" / "phi" / "sources.parquet").set_index("volume_id")["path"]
    kind = table["sample_id"].map(sources).str.split("/").str[0]
    marked = table["warning"].eq("unlike").groupby(kind).mean()
    assert (table["unlike"].gt(BOUND) == table["warning"].eq("unlike")).all()
    assert marked["ordinary"] <= 3 / 16  # by chance 1 in 21
    assert marked[["inverted", "noise", "head"]].min() >= 15 / 16


def test_a_visit_that_is_refused_is_not_looked_at_either(visits, tmp_path):
    model = finetune(read_recipe(visits / "recipe.yaml", ["finetune.steps=1"]), visits / "store", tmp_path / "run")
    archive = shutil.copytree(visits / "archive", tmp_path / "archive")
    for path in (archive / "images").glob("*0.nii.gz"):  # every first visit is of slices twice as thick
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), np.diag([1.0, 1, 2, 1])), path)
    card = read_card(archive / "card.yaml")
    thick = predict_raw(model, archive, tmp_path / "thick.csv", card=card)
    assert (refused_of(tmp_path / "thick.csv")["reason"] == "SPACING_OUTSIDE").sum() == 48
    for path in (archive / "images").glob("*0.nii.gz"):
        path.unlink()
    without = predict_raw(model, archive, tmp_path / "without.csv", card=card)
    assert thick[["sample_id", "score"]].equals(without[["sample_id", "score"]])


def test_a_volume_without_the_channel_that_is_read_stops_no_other(tmp_path):
    rng, archive = np.random.default_rng(0), tmp_path / "archive"
    archive.mkdir()
    for number in range(16):
        thickness = rng.uniform(0, 349, (225, 225))
        np.savez(archive / f"data_{number:04d}.npz", rnflt=thickness, tds=rng.uniform(-38, 26, 52), glaucoma=number % 2)
    card = Card(
        name="fields", files="*.npz", modality="OPT", facts="{file}", path=r"(?P<patient_id>data_\d+)\.npz",
        columns={"ill": "glaucoma"}, labels={"glaucoma": "column ill"}, splits={"train": 1.0},
    )  # fmt: skip
    index(archive, tmp_path / "cohort", card=card)
    (tmp_path / "recipe.yaml").write_text(FIELD)
    recipe = read_recipe(tmp_path / "recipe.yaml")
    prepare(tmp_path / "cohort", tmp_path / "store", settings=make(Preparation, recipe["prepare"], "prepare"))
    model = finetune(recipe, tmp_path / "store", tmp_path / "run")
    np.savez(archive / "alone.npz", rnflt=rng.uniform(0, 349, (225, 225)))
    table = predict_raw(model, archive, tmp_path / "p.csv", card=Card(name="fields", modality="OPT"))
    assert len(table) == 16
    assert refused_of(tmp_path / "p.csv")["reason"].tolist() == ["OTHER_CHANNELS"]
