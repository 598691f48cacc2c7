"""Recipes from fingerprints: the published heuristics on cases worked by hand, and networks that can be built."""

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from medssl.cli import app
from medssl.errors import UserError
from medssl.methods import build_method
from medssl.recipe import make, read_recipe
from medssl.store import Preparation, open_store, prepare
from medssl.store.plan import LEAST_CELLS, levels, plan, scans, target_spacing, view_size
from medssl.train import Training
from medssl.train import plan as plan_pretraining
from medssl.trunks import build_trunk
from medssl.views.select import build_views
from tests.conftest import REPOSITORY


def facts(shape, spacing, tenth=None, **told):
    """A fingerprint of MR volumes that are all alike, but for the 10th percentile of their voxel sizes."""
    tenth = spacing if tenth is None else tenth
    return {
        "modalities": {
            "MR": {
                "volumes": 3,
                "channels": [1],
                "percentiles": [0, 10, 50, 90, 100],
                "shape": [[n] * 5 for n in shape],
                "spacing_mm": [[low, low, mm, mm, mm] for low, mm in zip(tenth, spacing, strict=True)],
                "prepared_shape": [[n] * 5 for n in shape],
                "intensity": {"image": {}},
                **told,
            }
        }
    }


def test_nearly_equal_voxels_keep_the_median():
    assert target_spacing((0.8, 0.8, 2.0), (0.6, 0.6, 1.0), (512, 512, 200)) == (0.8, 0.8, 2.0)


def test_thick_slices_take_the_10th_percentile():
    assert target_spacing((0.5, 0.5, 3.6), (0.4, 0.4, 3.0), (384, 384, 20)) == (0.5, 0.5, 3.0)
    assert target_spacing((4.0, 0.7, 0.7), (2.5, 0.6, 0.6), (24, 320, 320)) == (2.5, 0.7, 0.7)


def test_thick_slices_are_never_made_finer_than_the_plane():
    assert target_spacing((0.5, 0.5, 3.6), (0.4, 0.4, 0.2), (384, 384, 20)) == (0.5, 0.5, 0.5)


def test_many_thick_slices_are_no_thin_volume():
    """Voxels 4 times as long but also as many of them: the volume is a long one, not one of few slices."""
    assert target_spacing((1.0, 1.0, 4.0), (1.0, 1.0, 1.0), (64, 64, 60)) == (1.0, 1.0, 4.0)


def test_the_coarse_axis_is_pooled_last():
    """0.5 mm in the plane, 3 mm across: 0.5, 1, 2 and then 3 is within a factor 2 of 2."""
    strides, kernels = levels((128, 128, 16), (0.5, 0.5, 3.0))
    assert strides == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 1))
    assert kernels[:3] == ((3, 3, 1), (3, 3, 1), (3, 3, 3))
    assert strides[0] == (1, 1, 1)


def test_slices_are_not_mixed_before_the_plane_is_pooled_to_their_thickness():
    """3 mm across, 0.5, 1 and then 2 in the plane: the ratio is 6, 3 and then 1.5."""
    strides, kernels = levels((16, 64, 64), (3, 0.5, 0.5))
    assert strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2))
    assert kernels == ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))


def test_the_recipe_has_the_kernels():
    made = plan(facts((128, 128, 16), (0.5, 0.5, 3)))
    section = made.recipe()["trunk"]
    assert section["kernels"][:4] == [[3, 3, 1], [3, 3, 1], [3, 3, 3], [3, 3, 3]]
    assert build_trunk(section, made.size).kernels == made.kernels


def test_equal_voxels_are_pooled_together_until_few_are_left():
    strides, kernels = levels((32, 32, 32), (1.0, 1.0, 1.0))
    assert strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert set(kernels) == {(3, 3, 3)}
    assert levels((7, 7), (1.0, 1.0))[0] == ((1, 1),)


sizes = st.tuples(*[st.integers(4, 300)] * 3)
spacings = st.tuples(*[st.floats(0.2, 8.0)] * 3)


@settings(max_examples=60, deadline=None)
@given(shape=sizes, spacing=spacings, voxels=st.integers(64, 2_000_000))
def test_every_view_fits_its_budget_and_its_trunk(shape, spacing, voxels):
    size = view_size(shape, spacing, voxels)
    strides, _ = levels(size, spacing)
    cell = np.prod(strides, axis=0)
    assert np.prod(size) <= voxels
    assert not any(n % c for n, c in zip(size, cell, strict=True))
    assert all(n // c >= LEAST_CELLS for n, c in zip(size, cell, strict=True))
    assert all(w < max(LEAST_CELLS, n) + c for w, n, c in zip(size, shape, cell, strict=True))
    step = np.array(spacing)
    for stride in strides[1:]:
        pooled = np.array(stride) == 2
        assert step[pooled].max() < 2 * step[pooled].min()
        step = step * stride


def test_a_budget_shapes_the_view_like_the_volume():
    size = view_size((512, 512, 128), (1.0, 1.0, 1.0), 128 * 128 * 32)
    assert size == (128, 128, 32)
    assert view_size((40, 50, 33), (1.0, 1.0, 1.0)) == (40, 56, 40), "a volume that fits is seen whole"


def test_the_most_frequent_modality_is_planned_unless_one_is_named():
    both = facts((64, 64, 64), (1, 1, 1))
    both["modalities"]["CT"] = facts((32, 32, 32), (2, 2, 2), volumes=9)["modalities"]["MR"]
    assert plan(both).spacing == (2, 2, 2)
    assert plan(both, modality="MR").spacing == (1, 1, 1)


def test_what_cannot_be_planned_is_said():
    with pytest.raises(UserError, match="no volume"):
        plan({"modalities": {}})
    with pytest.raises(UserError, match="has no 'CT'; it has: MR"):
        plan(facts((64, 64, 64), (1, 1, 1)), modality="CT")
    with pytest.raises(UserError, match="two stores"):
        plan(facts((64, 64, 64), (1, 1, 1), channels=[1, 3]))
    with pytest.raises(UserError, match="no room"):
        plan(facts((64, 64, 64), (1, 1, 1)), voxels=9)


def test_bpmri_asks_for_its_group_and_channels():
    made = plan(facts((64, 64, 16), (1, 1, 3), channels=[3], intensity={"t2w": {}, "adc": {}, "hbv": {}}))
    assert made.recipe()["prepare"]["groups"] == "bpmri"
    assert made.recipe()["trunk"]["channels"] == 3


def test_a_step_takes_as_many_scans_as_the_budget_holds():
    assert scans((16, 16, 16), 20_000) == 4
    assert scans((16, 16, 16), 4096) == 2, "one scan has nothing to be compared with"
    assert scans((16, 16, 16), 1_000_000) == 32, "no more than in the default recipe"


@pytest.mark.parametrize(("modality", "dims"), [("MR", 3), ("DX", 2)])
def test_the_command_prints_a_recipe_that_can_be_pretrained_by(clinic, tmp_path, modality, dims):
    shape = (20, 24, 16) if dims == 3 else (20, 24, 1)
    clinic.scan("a", modality=modality, voxels=np.random.default_rng(0).normal(500, 50, shape).astype(np.float32))
    prepare(clinic.write(), clinic.store, settings=Preparation(xray_pixels=32))
    done = CliRunner().invoke(app, ["plan", str(clinic.store), "--voxels", "4096"])
    assert done.exit_code == 0, done.output
    (tmp_path / "mine.yaml").write_text(done.output)
    recipe = read_recipe(tmp_path / "mine.yaml")
    assert yaml.safe_load(done.output)["data"] == {"modality": modality}
    assert make(Preparation, recipe["prepare"], "prepare").modalities == (modality,)
    size = build_views(recipe["views"]).crops.size
    assert (len(size), np.prod(size) <= 4096) == (dims, True)
    trunk = build_trunk(recipe["trunk"], size)
    pyramid = trunk(torch.zeros(1, 1, *size)).pyramid
    assert min(pyramid[-1].shape[2:]) >= LEAST_CELLS
    default = read_recipe(REPOSITORY / "pipelines" / "methods" / "default.yaml")
    assert recipe["method"] == default["method"] and build_method(recipe["method"], trunk).terms
    assert plan_pretraining(recipe, open_store(clinic.store)).settings.steps == int(default["pretrain"]["steps"])
    assert make(Training, recipe["finetune"], "finetune").batch >= 2
    assert "'" not in done.output
