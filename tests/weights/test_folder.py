"""A folder of weights says what they are, comes back to the bit, and is refused where it does not fit."""

import json
from pathlib import Path

import jsonschema
import pytest
import torch

from medssl import checkpoint
from medssl.adapt import build_model, finetune, load_trunk
from medssl.cli import main
from medssl.errors import UserError
from medssl.recipe import read_recipe
from medssl.store import open_store
from medssl.train import pretrain
from medssl.weights import read_weights, unlike, weights_of, write_weights

SCHEMA = json.loads((Path(__file__).parents[2] / "data_manifests" / "weights.schema.json").read_text())


def recipe(balls, *changes):
    return read_recipe(balls / "recipe.yaml", changes)


def medssl(*arguments):
    """The exit code of `medssl ARGUMENTS`."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return left.value.code or 0


@pytest.fixture(scope="module")
def run(balls, tmp_path_factory):
    changes = "pretrain.steps=2", "trunk.norms=[instance, instance, group]"
    return pretrain(recipe(balls, *changes), balls / "store", tmp_path_factory.mktemp("runs") / "trunk")


@pytest.fixture
def folder(run, tmp_path):
    assert medssl("weights", "export", run, "-o", tmp_path / "weights") == 0
    return tmp_path / "weights"


def test_the_weights_come_back_to_the_bit_and_no_head_is_among_them(run, folder):
    ours = checkpoint.weights(run / "last.safetensors", "trunk.")
    theirs = read_weights(folder).tensors
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
    assert sorted(path.name for path in folder.iterdir()) == ["spec.json", "trunk.safetensors"]


def test_the_spec_is_what_its_schema_says(folder):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    spec = read_weights(folder).spec
    jsonschema.validate(spec, SCHEMA)
    for wrong in ({"dims": 4}, {"channels": "1"}, {"unknown": 1}, {"weights": {**spec["weights"], "sha256": "x"}}):
        assert not jsonschema.Draft202012Validator(SCHEMA).is_valid({**spec, **wrong})
    for missing in SCHEMA["required"]:
        assert not jsonschema.Draft202012Validator(SCHEMA).is_valid({k: v for k, v in spec.items() if k != missing})


def test_the_spec_says_what_a_voxel_is_and_where_the_weights_come_from(balls, run, folder):
    spec = read_weights(folder).spec
    record = json.loads((run / "run.json").read_text())
    assert (spec["dims"], spec["channels"], spec["dim"], spec["cell"]) == (3, 1, 8, [4, 4, 4])
    assert spec["trunk"] == {
        **spec["trunk"], "name": "resenc", "widths": [4, 8, 8], "norms": ["instance", "instance", "group"], "blocks": 1,
        "hide": "token",
    }  # fmt: skip
    assert spec["levels"] == [{"width": w, "stride": [s] * 3} for w, s in ((4, 1), (8, 2), (8, 4))]
    (mr,) = spec["input"]["modalities"]
    assert (mr["modality"], mr["spacing_mm"], mr["orientation"]) == ("MR", [1, 1, 1.5], "RAS")
    (channel,) = mr["channels"]
    assert channel["intensity"] == {"rule": "robust z-score", "clip_percentiles": [0.5, 99.5]}
    assert spec["method"] == record["recipe"]["method"]
    assert spec["origin"]["store"] == record["store"]
    assert (spec["origin"]["steps"], spec["origin"]["start"]) == (2, "scratch")


@pytest.mark.parametrize(
    ("prepare", "modality", "expected"),
    [
        ({"ct_window": [-160, 240]}, "CT", [{"rule": "window", "unit": "HU", "from": [-160, 240], "to": [-1, 1]}]),
        ({}, "OPT", [{"rule": "range", "to": [0, 1]}]),
        ({}, "DX", [{"rule": "range", "to": [0, 1]}]),
        (
            {"groups": "bpmri"},
            "MR",
            [
                {"rule": "robust z-score", "clip_percentiles": [0.5, 99.5]},
                {"rule": "scale", "unit": "1e-6 mm2/s", "from": [0, 4000], "by": 1000},
                {"rule": "robust z-score", "clip_percentiles": [0.5, 99.5]},
            ],
        ),
    ],
)
def test_each_modality_has_its_intensities(prepare, modality, expected):
    from medssl.weights.spec import input_of

    found = input_of({"views": {"size": ["8", "8"]}}, {"settings": prepare, "modalities": [modality]})
    (told,) = found["modalities"]
    assert [channel["intensity"] for channel in told["channels"]] == expected
    assert (told["spacing_mm"] is None) == (modality == "DX")


@pytest.mark.parametrize(("channels", "roles"), [([], ["red", "green", "blue"]), (["1"], ["green"])])
def test_a_photograph_s_channels_are_its_colours(channels, roles):
    from medssl.weights.spec import input_of

    recipe = {"views": {"size": ["8", "8"]}, "data": {"modality": "OP", "channels": channels}}
    (told,) = input_of(recipe, {"settings": {}, "modalities": ["OP"]})["modalities"]
    assert [channel["role"] for channel in told["channels"]] == roles
    assert all(channel["intensity"] == {"rule": "range", "to": [0, 1]} for channel in told["channels"])


def test_a_run_before_the_preparation_was_recorded_says_that_it_is_not_known(balls, run, tmp_path):
    record = json.loads((run / "run.json").read_text())
    del record["prepared"]
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "run.json").write_text(json.dumps(record))
    (tmp_path / "old" / "last.safetensors").write_bytes((run / "last.safetensors").read_bytes())
    spec = read_weights(write_weights(tmp_path / "weights", weights_of(tmp_path / "old"))).spec
    assert spec["input"] is None
    jsonschema.validate(spec, SCHEMA)
    assert "not known" in unlike(tmp_path / "weights", recipe(balls), open_store(balls / "store"))[0]


def test_what_a_user_wrote_in_the_spec_stays_there(run, folder):
    spec = json.loads((folder / "spec.json").read_text())
    assert (spec["licence"], spec["notes"]) == ("", "")
    (folder / "spec.json").write_text(json.dumps({**spec, "licence": "CC-BY-4.0"}))
    assert read_weights(folder).spec["licence"] == "CC-BY-4.0"
    before = (folder / "trunk.safetensors").read_bytes()
    write_weights(folder, weights_of(run))
    assert read_weights(folder).spec["licence"] == "CC-BY-4.0"
    assert (folder / "trunk.safetensors").read_bytes() == before


def test_finetuning_from_the_folder_is_finetuning_from_the_run(balls, run, folder, tmp_path):
    task = recipe(balls, "trunk.norms=[instance, instance, group]", "finetune.steps=2")
    model = build_model(task)
    load_trunk(model, task, folder)
    whole = checkpoint.weights(run / "last.safetensors", "trunk.")
    assert all(torch.equal(value, whole[name]) for name, value in model.trunk.state_dict().items())
    ends = [
        finetune(task, balls / "store", tmp_path / name, start=start) for name, start in (("a", run), ("b", folder))
    ]
    first, second = (checkpoint.read(end / "last.safetensors") for end in ends)
    assert all(torch.equal(first[name], second[name]) for name in first)
    told = json.loads((ends[1] / "run.json").read_text())["facts"]["start"]
    assert told.startswith("weights ")
    assert read_weights(folder).spec["origin"]["store"] in told


def test_pretraining_goes_on_from_the_folder(balls, folder, tmp_path):
    stage = recipe(balls, "trunk.norms=[instance, instance, group]", "pretrain.steps=1", "pretrain.frozen=[trunk]")
    second = pretrain(stage, balls / "store", tmp_path / "second", start=folder)
    ours = checkpoint.weights(second / "last.safetensors", "trunk.")
    assert all(torch.equal(ours[name], value) for name, value in read_weights(folder).tensors.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("trunk.widths=[4, 8, 16]", r"trunk.widths \[4, 8, 16\] and \[4, 8, 8\]"),
        ("trunk.norms=[group, group, group]", "trunk.norms"),  # of the same shapes
        ("trunk.strides=[[1, 1, 1], [2, 2, 1], [2, 2, 1]]", "trunk.strides"),  # likewise
        ("views.size=[16, 16]", "dims 2 and 3"),
        ("trunk={name: vit, patch: [4, 4, 4]}", "trunk.name vit and resenc"),
        ("trunk.channels=2", "channels 2 and 1"),
    ],
)
def test_weights_of_another_network_are_refused(balls, run, folder, change, message):
    task = recipe(balls, "trunk.norms=[instance, instance, group]", change)
    for start, source in (folder, "spec.json"), (run, "run.json"):
        with pytest.raises(
            UserError, match=rf"does not fit this recipe's \(.*{message}.*take the trunk section.*{source}"
        ):
            load_trunk(build_model(task), task, start)


@pytest.mark.parametrize(
    "changes",
    [
        ["trunk.strides=[[1, 1, 1], [2, 2, 2], [2, 2, 2]]"],  # what they are without being told
        ["trunk.depths=[2, 2, 2]"],
        ["views.size=[32, 16, 16]"],
    ],
)
def test_other_words_for_the_same_network_fit(balls, run, folder, changes):
    task = recipe(balls, "trunk.norms=[instance, instance, group]", *changes)
    for start in run, folder:
        model = build_model(task)
        load_trunk(model, task, start)
        whole = read_weights(folder).tensors
        assert all(torch.equal(value, whole[name]) for name, value in model.trunk.state_dict().items())


@pytest.mark.parametrize(("name", "other"), [("heads", "3"), ("eps", "1e-3"), ("registers", "1")])
def test_a_vits_heads_eps_and_registers_must_agree(weights, tmp_path, name, other):
    from medssl.trunks import build_trunk
    from medssl.weights import begin_with

    own = {"name": "vit", "patch": ["4", "4", "4"], "width": "12", "depth": "1", "heads": "2"}
    folder = write_weights(tmp_path / "w", weights("vit", width=12, depth=1, heads=2, registers=0))
    begin_with(build_trunk(own, (16, 12, 8)), own, (16, 12, 8), folder)
    begin_with(build_trunk(own, (8, 8, 8)), own, (8, 8, 8), folder)  # places are interpolated
    unlike_it = {**own, name: other}
    with pytest.raises(UserError, match=f"trunk.{name}"):
        begin_with(build_trunk(unlike_it, (16, 12, 8)), unlike_it, (16, 12, 8), folder)


def test_images_unlike_those_that_the_weights_saw_are_told(balls, folder, capsys):
    store = open_store(balls / "store")
    assert unlike(folder, recipe(balls), store) == []
    spec = json.loads((folder / "spec.json").read_text())
    spec["input"]["modalities"][0]["spacing_mm"] = [3, 3, 3]
    (folder / "spec.json").write_text(json.dumps(spec))
    (told,) = unlike(folder, recipe(balls), store)
    assert "MR had spacing_mm [3, 3, 3], the store has [1.0, 1.0, 1.5]" in told
    spec["input"]["modalities"][0]["modality"] = "CT"
    (folder / "spec.json").write_text(json.dumps(spec))
    assert "these weights saw CT, not MR" in unlike(folder, recipe(balls), store)[0]
    assert "views.mm was None, is [20.0, 20.0, 20.0]" in unlike(
        folder, recipe(balls, "views.mm=[20, 20, 20]"), store
    )[-1]  # fmt: skip


def test_a_teacher_is_another_trunk(balls, run, folder, tmp_path, capsys):
    method = "method={dino: {prototypes: 8}, teacher_half_life: 0.5}"
    taught = pretrain(recipe(balls, "pretrain.steps=2", method), balls / "store", tmp_path / "taught")
    assert medssl("weights", "export", taught, "--of", "teacher", "-o", tmp_path / "teacher") == 0
    ours, trunk = read_weights(tmp_path / "teacher"), checkpoint.weights(taught / "last.safetensors", "trunk.")
    assert set(ours.tensors) == set(trunk)
    assert not torch.equal(ours.tensors["stages.0.0.body.0.weight"], trunk["stages.0.0.body.0.weight"])
    twin = checkpoint.weights(taught / "last.safetensors", "teacher.")
    assert all(torch.equal(value, twin[f"twin.{name}"]) for name, value in ours.tensors.items())
    assert ours.spec["origin"]["part"] == "teacher"
    jsonschema.validate(ours.spec, SCHEMA)
    for source, message in (run, "its method has no teacher"), (folder, "holds one network"):
        assert medssl("weights", "export", source, "--of", "teacher", "-o", tmp_path / "none") == 2
        assert message in capsys.readouterr().err


def damaged(folder, spec):
    weights = folder / "trunk.safetensors"
    if spec == "other weights":
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    elif spec == "no weights":
        weights.unlink()
    elif spec == "no digest":
        whole = json.loads((folder / "spec.json").read_text())
        (folder / "spec.json").write_text(json.dumps({**whole, "weights": {}}))
    else:
        (folder / "spec.json").write_text(spec)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("other weights", "not the file that spec.json is of"),
        ("no weights", "no such file; copy the whole folder"),
        ("{", "not JSON"),
        ("[]", "holds no mapping"),
        ('{"schema_version": "2"}', "schema_version '2'"),
        ('{"schema_version": "1"}', "lacks 'dims'"),
        ("no digest", "says no sha256"),
    ],
)
def test_a_damaged_folder_is_refused(folder, how, message):
    damaged(folder, how)
    with pytest.raises(UserError, match=message):
        read_weights(folder)


@pytest.mark.parametrize(("form", "name"), [("monai", "bundle"), ("nnunet", "checkpoint.pth")])
def test_a_folder_of_weights_goes_out_in_other_forms(balls, tmp_path, capsys, form, name):
    trunk = "trunk={name: resenc, widths: [4, 8, 8], stem: true, depths: [1, 2, 1]}"
    run = pretrain(recipe(balls, "pretrain.steps=1", trunk), balls / "store", tmp_path / "run")
    assert medssl("weights", "export", run, "-o", tmp_path / "weights") == 0
    for source in (run, tmp_path / "weights"):
        assert medssl("weights", "export", source, "--as", form, "-o", tmp_path / source.name / name) == 0
        assert f"weights in {tmp_path / source.name / name}" in capsys.readouterr().out


def test_the_command_explains_itself_and_its_mistakes(tmp_path, capsys):
    assert medssl("weights", "export", "--help") == 0
    assert "Example: medssl weights export" in capsys.readouterr().out
    assert medssl("weights", "export", tmp_path / "none", "-o", tmp_path / "out") == 2
    assert "no run here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
