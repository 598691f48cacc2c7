import json

import pytest
import torch

from medssl import checkpoint
from medssl.adapt import build_model, finetune, load_trunk, plan
from medssl.errors import UserError
from medssl.recipe import read_recipe
from medssl.store import open_store
from medssl.train import plan as plan_pretraining
from medssl.train import pretrain
from medssl.views import Steps
from medssl.views.select import build_views, select

SEGMENT = ["head={name: segment, structures: [ball]}"]


def recipe(balls, *changes):
    return read_recipe(balls / "recipe.yaml", changes)


def test_a_pretrained_trunk_and_decoder_arrive_bit_for_bit(balls, tmp_path):
    trunk = pretrain(recipe(balls, "pretrain.steps=2"), balls / "store", tmp_path / "trunk")
    task = recipe(balls, *SEGMENT)
    model = build_model(task)
    load_trunk(model, task, trunk)
    for prefix, module in ("trunk.", model.trunk), ("decoder.", model.head.decoder):
        pretrained = checkpoint.weights(trunk / "last.safetensors", prefix)
        assert all(torch.equal(value, pretrained[name]) for name, value in module.state_dict().items())


def test_a_fresh_decoder_begins_as_one_from_scratch_does_though_there_is_a_learned_one(balls, tmp_path):
    trunk = pretrain(recipe(balls, "pretrain.steps=2"), balls / "store", tmp_path / "trunk")
    task = recipe(balls, *SEGMENT, "finetune.fresh=[decoder]")
    model = build_model(task)
    drawn = {name: value.clone() for name, value in model.head.state_dict().items()}
    load_trunk(model, task, trunk)
    pretrained = checkpoint.weights(trunk / "last.safetensors", "trunk.")
    assert all(torch.equal(value, pretrained[name]) for name, value in model.trunk.state_dict().items())
    assert all(torch.equal(value, drawn[name]) for name, value in model.head.state_dict().items())
    learned = checkpoint.weights(trunk / "last.safetensors", "decoder.")
    for fresh, same in ("[]", True), ("[decoder]", False):
        told = recipe(balls, f"pretrain.fresh={fresh}")
        decoder = plan_pretraining(told, open_store(balls / "store"), trunk).model.decoder.state_dict()
        assert all(torch.equal(value, learned[name]) for name, value in decoder.items()) == same
    with pytest.raises(UserError, match="fresh: 'trunk' is no part that can be; use decoder"):
        finetune(recipe(balls, "finetune.fresh=[trunk]"), balls / "store", tmp_path / "run")


def test_a_trunk_of_another_shape_is_refused(balls, tmp_path):
    trunk = pretrain(recipe(balls, "pretrain.steps=1"), balls / "store", tmp_path / "trunk")
    with pytest.raises(UserError, match="does not fit this recipe"):
        finetune(recipe(balls, "trunk.widths=[4, 8, 16]"), balls / "store", tmp_path / "run", start=trunk)
    assert not (tmp_path / "run").exists()


def test_few_labels_are_the_same_few_patients_every_time(balls, tmp_path):
    few = recipe(balls, "data.labelled=4", "finetune.steps=1")
    run = finetune(few, balls / "store", tmp_path / "run")
    facts = json.loads((run / "run.json").read_text())["facts"]
    assert facts["patients"] == 4
    assert facts["start"] == "scratch"
    from medssl.store import open_store

    store = open_store(balls / "store")
    once, again = (select(store, few["data"], split="train", target="big")["volume_id"].tolist() for _ in range(2))
    more = select(store, {"labelled": "8"}, split="train", target="big")["volume_id"].tolist()
    assert once == again
    assert set(once) <= set(more)
    lots = [
        [
            set(select(store, {"labelled": n, "lot": lot}, split="train", target="big")["patient_pid"])
            for n in ("4", "8")
        ]
        for lot in ("1", "2")
    ]
    assert all(len(four) == 4 and four < eight for four, eight in lots)
    assert lots[0] != lots[1]


def test_more_labels_than_there_are_is_said(balls, tmp_path):
    with pytest.raises(UserError, match=r"data\.labelled: 999 patients asked for"):
        finetune(recipe(balls, "data.labelled=999"), balls / "store", tmp_path / "run")


def test_one_class_only_is_said(balls, tmp_path):
    with pytest.raises(UserError, match=r"label 'big': all .* training volumes have the value"):
        finetune(recipe(balls, "data.labelled=1"), balls / "store", tmp_path / "run")


def test_an_unknown_label_or_an_empty_selection_is_said(balls, tmp_path):
    with pytest.raises(UserError, match="'small'"):
        finetune(recipe(balls, "head.label=small"), balls / "store", tmp_path / "run")
    with pytest.raises(UserError, match="no volume of split 'train'"):
        finetune(recipe(balls, "data.modality=CT"), balls / "store", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_targets_follow_their_volumes(balls):
    from medssl.store import open_store

    store = open_store(balls / "store")
    rows = select(store, {}, split="train", target="big")
    batch = Steps(store, rows, build_views({"size": ["16"] * 3}, count=1), batch=4, seed=0, target="big")[0]
    for x, label in zip(batch.x[0, :, 0], batch.target, strict=True):
        bright = (x > (x.min() + x.max()) / 2).float().mean()
        assert (bright > 0.08) == bool(label)


def test_masks_follow_their_volumes(balls):
    from medssl.store import open_store

    store = open_store(balls / "store")
    rows = select(store, {}, split="train", target="mask")
    batch = Steps(
        store, rows, build_views({"size": ["16"] * 3, "turn": "20"}, count=1), batch=4, seed=0, target="mask"
    )[3]
    for x, mask in zip(batch.x[0, :, 0], batch.target, strict=True):
        assert x[mask == 1].mean() > x[mask == 0].mean() + 1


@pytest.mark.slow
def test_it_learns_to_find_the_ball(balls, tmp_path):
    from medssl.predict import predict

    learn = recipe(balls, *SEGMENT, "finetune.steps=80", "finetune.batch=4", "finetune.lr=1e-2")
    run = finetune(learn, balls / "store", tmp_path / "run")
    table = predict(run, balls / "store", tmp_path / "p.csv", splits=["test"])
    assert table["dice_ball"].mean() > 0.8


def test_labels_that_are_no_yes_or_no_are_refused(balls):
    graded = open_store(balls / "store")
    graded.labels.loc[graded.labels.index[::3], "value"] = 3.0
    with pytest.raises(UserError, match="label 'big': 3 is not 0 or 1; make a 0/1 label"):
        plan(recipe(balls), graded)


def test_a_label_map_with_a_structure_without_a_name_is_refused(balls):
    store = open_store(balls / "store")
    first = store.volumes["split"].eq("train").idxmax()
    store.volumes.at[first, "mask_labels"] = [1, 3]
    with pytest.raises(
        UserError, match=rf"names 1, but the label map of {store.volumes.at[first, 'volume_id']} holds 3"
    ):
        plan(recipe(balls, *SEGMENT), store)


def test_a_folder_begun_from_other_weights_or_labels_is_not_gone_on_with(balls, tmp_path):
    changes = ["pretrain.steps=1", "finetune.steps=1"]
    task, other = (recipe(balls, *changes, f"pretrain.seed={seed}") for seed in (0, 1))
    starts = [pretrain(one, balls / "store", tmp_path / f"t{n}") for n, one in enumerate((task, other))]
    finetune(task, balls / "store", tmp_path / "run", start=starts[0])
    finetune(task, balls / "store", tmp_path / "run", start=starts[0])
    with pytest.raises(UserError, match=r"another facts \(differs in start\)"):
        finetune(task, balls / "store", tmp_path / "run", start=starts[1])
    told = open_store(balls / "store")
    told.labels["value"] = 1 - told.labels["value"]
    assert plan(task, told).facts["labels"] != plan(task, open_store(balls / "store")).facts["labels"]


def test_a_segmentation_goes_on_from_one_decoder_and_all(balls, tmp_path):
    segment = [*SEGMENT, "finetune.steps=2"]
    first = finetune(recipe(balls, *segment), balls / "store", tmp_path / "first")
    still = recipe(balls, *segment, "finetune.frozen=[trunk, decoder]")
    second = finetune(still, balls / "store", tmp_path / "second", start=first)
    before, after = (checkpoint.weights(run / checkpoint.NAME, "") for run in (first, second))
    kept = [name for name in before if name.startswith(("trunk.", "head.decoder."))]
    assert any(name.startswith("head.decoder.") for name in kept)
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert not torch.equal(before["head.last.weight"], after["head.last.weight"])


@pytest.mark.parametrize(
    ("head", "other"),
    [
        ("{name: segment, structures: [ball]}", "{name: segment, structures: [ball], tolerance_mm: 1}"),
        ("{name: detect, loss: focal}", "{name: detect, loss: dice, by: dynamic-fast}"),
    ],
)
def test_a_head_that_is_judged_otherwise_goes_on_all_the_same(balls, tmp_path, head, other):
    first = finetune(recipe(balls, f"head={head}", "finetune.steps=1"), balls / "store", tmp_path / "first")
    task = recipe(balls, f"head={other}")
    model = build_model(task)
    load_trunk(model, task, first)
    before = checkpoint.weights(first / checkpoint.NAME, "head.last.")
    assert before and all(torch.equal(before[name], value) for name, value in model.head.last.state_dict().items())


@pytest.mark.parametrize("learn", [[], ["learn={name: mean_teacher}", "data.labelled=12"]])
def test_a_classifier_goes_on_from_another_head_and_all(balls, tmp_path, learn):
    """Staged: labels that may be wrong first, right ones after; of a mean teacher what answers goes on."""
    task = recipe(balls, "finetune.steps=2", *learn)
    first = finetune(task, balls / "store", tmp_path / "first")
    facts = json.loads((first / "run.json").read_text())["facts"]
    model = build_model(task)
    load_trunk(model, task, first)
    before = checkpoint.weights(first / checkpoint.NAME, facts["answers"] + "head.")
    assert all(torch.equal(before[name], value) for name, value in model.head.state_dict().items())
    other = recipe(balls, "head.drop=0.5")
    fresh = build_model(other)
    kept = {name: value.clone() for name, value in fresh.head.state_dict().items()}
    load_trunk(fresh, other, first)
    assert all(torch.equal(kept[name], value) for name, value in fresh.head.state_dict().items())


@pytest.mark.parametrize("head", [*SEGMENT, "head={name: detect}", "head={name: present}"])
def test_what_predict_could_not_answer_is_not_trained(balls, tmp_path, head):
    with pytest.raises(UserError, match=r"views\.mm: voxels are judged on the prepared grid"):
        finetune(recipe(balls, head, "views.mm=[20, 20, 20]"), balls / "store", tmp_path / "run")
    assert not (tmp_path / "run").exists()
