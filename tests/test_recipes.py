"""Every recipe that ships: it loads, it resolves, and every training it describes takes two steps on phantoms."""

import re
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
def test_every_method_takes_two_steps_on_flat_pictures(path, phantom_cohort, visits, tmp_path):
    """Or on slices of volumes, where it is about slices or visits: a picture has one, and nobody's is taken twice."""
    views, short = read_recipe(path)["views"], ["pretrain.steps=2", "pretrain.batch=4"]
    if views.get("partner") == "follow_up":
        store = visits / "store"
    elif "parts" in views:
        store, short = volumes_in(phantom_cohort), [*short, "data.role=t2w"]
    else:
        store = phantom_cohort / "stores" / "flat"
        settings = make(Preparation, {"modalities": ["DX"], "xray_pixels": "64"}, "prepare")
        prepare(phantom_cohort / "cohort", store, settings=settings)
    assert (pretrain(read_recipe(path, short), store, tmp_path / "trunk") / "last.safetensors").exists()


def volumes_in(cohort):
    """A store of the cohort's prostates."""
    store = cohort / "stores" / "volumes"
    settings = make(Preparation, {"modalities": ["MR"], "mr_spacing": ["2", "2", "4"]}, "prepare")
    prepare(cohort / "cohort", store, settings=settings)
    return store


def for_volumes(path):
    """The changes that make a method's recipe one of volumes, as its header says, or else that of what all share."""
    for header in (path, PIPELINES / "methods" / "scans.yaml"):
        if told := re.search(r"# For volumes:((?:\s+#?\s*--set '[^']+')+)", header.read_text()):
            return re.findall(r"--set '([^']+)'", told[1])
    raise ValueError(f"{path}: its header has no line for volumes")


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in METHODS if path.stem != "place_parts"], ids=lambda p: p.stem)
def test_every_method_takes_two_steps_on_volumes(path, phantom_cohort, visits, tmp_path):
    """Not what is about slices: it has flat views of volumes, as above."""
    changes = [*for_volumes(path), "pretrain.steps=2", "pretrain.batch=2"]
    if read_recipe(path)["views"].get("partner") == "follow_up":
        store = visits / "store"
    else:
        store, changes = volumes_in(phantom_cohort), [*changes, "data.role=t2w"]
    assert (pretrain(read_recipe(path, changes), store, tmp_path / "trunk") / "last.safetensors").exists()
