"""Maps of trained models: where they lie, what is written, and what is said of them."""

import nibabel as nib
import numpy as np
import pytest
import torch

from medssl.adapt import finetune
from medssl.errors import UserError
from medssl.explain import cases_of, explain
from medssl.explain.look import against, alike, believe, look
from medssl.heads import build_head
from medssl.learners import Supervised
from medssl.recipe import read_recipe
from medssl.store import open_store
from medssl.trunks import build_trunk

TRUNKS = {
    "resenc": {"widths": ["8", "16"]},
    "vit": {"name": "vit", "patch": ["4", "4"], "width": "24", "depth": "2", "heads": "2"},
    "cswin": {"name": "cswin", "widths": ["24", "24"], "depths": ["1", "1"], "strides": [["2", "2"], ["2", "2"]]},
}


def model_of(trunk, head):
    torch.manual_seed(0)
    encoder = build_trunk(TRUNKS[trunk], (16, 16))
    return Supervised(encoder, build_head(head, encoder)).eval()


@pytest.mark.parametrize("trunk", sorted(TRUNKS))
def test_the_slope_is_that_of_the_logit_as_the_trunk_gives_it(trunk):
    """The head reads pooled features too: a small change of the coarsest level must move the logit as its slope says."""
    model = model_of(trunk, {"name": "classify", "label": "x"})
    features = model.trunk(torch.randn(1, 1, 16, 16))
    assert torch.allclose(features.pyramid[-1].flatten(2).mean(2), features.pooled, atol=1e-5)


@pytest.mark.parametrize("by", ["grad-cam", "eigen-cam"])
@pytest.mark.parametrize("trunk", sorted(TRUNKS))
def test_a_map_is_of_the_view_from_0_to_1_and_leaves_the_model_as_it_was(trunk, by):
    model, view = model_of(trunk, {"name": "classify", "label": "x"}), torch.randn(1, 1, 16, 16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = look(model, view, by)
    stable, learned = believe(model, view, by)
    assert found.shape == (16, 16) and found.min() >= 0 and found.max() <= 1
    assert -1 <= stable <= 1 or np.isnan(stable)
    assert learned < 0.9 or np.isnan(learned)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_grad_cam_knows_the_class_and_eigen_cam_does_not():
    model, view = model_of("resenc", {"name": "segment", "structures": ["a", "b"]}), torch.randn(1, 1, 16, 16)
    first, second = (look(model, view, "grad-cam", structure) for structure in (1, 2))
    assert not torch.allclose(first, second)
    assert torch.equal(look(model, view, "eigen-cam", 1), look(model, view, "eigen-cam", 2))


def test_a_map_against_a_mask():
    found, mask = np.zeros((4, 4, 4)), np.zeros((4, 4, 4))
    found[0, 0, 0], found[3, 3, 3], mask[3, 3] = 1.0, 3.0, 1
    assert against(found, mask) == (1.0, 0.75, 4 / 64)
    assert np.isnan(against(found, 0 * mask)).all() and np.isnan(against(0 * found, mask)).all()
    ramp = torch.arange(9.0).view(3, 3)
    assert alike(ramp, ramp.exp()) == pytest.approx(1) and alike(ramp, -ramp) == pytest.approx(-1)
    assert np.isnan(alike(ramp, torch.ones(3, 3)))


@pytest.fixture(scope="module")
def classifier(balls, tmp_path_factory):
    changes = ["finetune={steps: 60, batch: 4, lr: 3e-3, precision: 32-true}"]
    return finetune(read_recipe(balls / "recipe.yaml", changes), balls / "store", tmp_path_factory.mktemp("e") / "run")


def test_maps_lie_where_their_volumes_lie(balls, classifier, tmp_path):
    store, cases = open_store(balls / "store"), cases_of(classifier, balls / "store", "test", 3)
    table = explain(classifier, balls / "store", tmp_path, cases)
    assert 1 <= len(cases) <= 3 and table["volume_id"].tolist() == cases
    for row in table.itertuples():
        image = nib.load(tmp_path / f"{row.volume_id}.nii.gz")
        assert image.shape == store.shape(row.volume_id)
        assert np.allclose(image.affine, store.affine(row.volume_id), atol=1e-4)
        found = np.asarray(image.dataobj)
        # Views of 16 voxels in the middle of volumes of 20 x 24 x 16: 2 and 4 voxels at each end are beyond them.
        assert not found[:2].any() and not found[-2:].any() and not found[:, :4].any() and found[2:-2, 4:-4].any()
        assert (tmp_path / f"{row.volume_id}.png").stat().st_size > 5000
        assert 0 < row.chance < 1 and 0 <= row.inside <= 1 and row.hit in (0, 1)
    assert (tmp_path / "explain.csv").read_text().startswith("volume_id,score,stable,learned,hit,inside,chance")


def test_volumes_and_runs_that_there_are_not(balls, classifier, tmp_path):
    with pytest.raises(UserError, match="--case nobody: the store has no such volume"):
        explain(classifier, balls / "store", tmp_path, ["nobody"])
    with pytest.raises(UserError, match="no run here"):
        explain(tmp_path, balls / "store", tmp_path, [])
