"""Every recipe that ships: it loads, it resolves, and every training it describes takes two steps on phantoms."""

from dataclasses import replace
from pathlib import Path

import pytest

from medssl.adapt import finetune
from medssl.recipe import make, read_recipe
from medssl.store import Preparation, open_store, prepare
from medssl.train import pretrain

PIPELINES = Path(__file__).parent.parent / "pipelines"
RECIPES = sorted(PIPELINES.glob("*.yaml"))
METHODS = sorted(set((PIPELINES / "methods").glob("*.yaml")) - {PIPELINES / "methods" / "scans.yaml"})


def test_there_are_recipes():
    assert len(RECIPES) >= 4


@pytest.mark.parametrize("path", [*RECIPES, *METHODS], ids=lambda p: p.stem)
def test_the_header_says_how_to_run_it_and_what_it_reached(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("medssl " in line for line in header)
    assert any("measured" in line.lower() or "reaches" in line.lower() for line in header)


@pytest.fixture(scope="session")
def phantom_cohort(tmp_path_factory):
    """A small phantom hospital with every modality, indexed by its shipped card."""
    from medssl.manifest import index, read_card
    from medssl.phantom import PhantomSettings, write_archive

    folder = tmp_path_factory.mktemp("phantom")
    sizes = PhantomSettings(eye_patients=12, prostate_patients=10, chest_patients=2, xray_patients=14, head_patients=2)
    write_archive(folder / "archive", sizes)
    card = read_card(Path(__file__).parent.parent / "data_manifests" / "phantom.yaml")
    labels = {**card.labels, "female": "sex equals F", "male": "sex equals M"}  # what every patient has
    index(folder / "archive", folder / "cohort", card=replace(card, labels=labels))
    return folder


def standing_in(recipe):
    """The phantom content that stands in for the real data of a recipe: the same modality, its labels and masks."""
    modality, head = recipe.get("data", {}).get("modality", ""), recipe.get("head", {}).get("name", "")
    if modality == "OP":  # the phantom takes no photographs
        return ["prepare.modalities=[DX]", "data.modality=DX", "trunk.channels=1", "head.label=female"]
    if head == "findings":
        return ["head.labels=[female, male]"]
    if modality == "OPT" and head == "classify":
        return ["head.label=glaucoma"]
    if modality != "MR":
        return []
    return ["data.role=t2w", *(["head.structures=[gland, lesion]"] if head == "segment" else [])]


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_training_takes_two_steps(path, phantom_cohort, tmp_path):
    recipe = read_recipe(path)
    short = [f"{s}.{k}={v}" for s in ("pretrain", "finetune") if s in recipe for k, v in (("steps", 2), ("batch", 2))]
    recipe = read_recipe(path, [*short, "data.labelled=0", *standing_in(recipe)])
    store = phantom_cohort / "stores" / path.stem
    prepare(phantom_cohort / "cohort", store, settings=make(Preparation, recipe.get("prepare", {}), "prepare"))
    start = None
    if "method" in recipe:
        start = pretrain(recipe, store, tmp_path / "trunk")
        assert (start / "last.safetensors").exists()
    if "finetune" in recipe and recipe["head"].get("label", "") in {"", *open_store(store).labels["name"]}:
        assert (finetune(recipe, store, tmp_path / "model", start=start) / "last.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("path", METHODS, ids=lambda p: p.stem)
def test_every_method_takes_two_steps_on_flat_pictures(path, phantom_cohort, tmp_path):
    """Or on the slices of volumes, where the method tells slices apart."""
    changes = ["pretrain.steps=2", "pretrain.batch=4"]
    section, store = {"modalities": ["DX"], "xray_pixels": "64"}, phantom_cohort / "stores" / "flat"
    if "parts" in read_recipe(path)["views"]:
        section, store = {"modalities": ["MR"]}, phantom_cohort / "stores" / "slices"
        changes.append("data.role=t2w")
    prepare(phantom_cohort / "cohort", store, settings=make(Preparation, section, "prepare"))
    recipe = read_recipe(path, changes)
    assert (pretrain(recipe, store, tmp_path / "trunk") / "last.safetensors").exists()
