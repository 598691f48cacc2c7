"""A trunk goes out as nnU-Net's encoder: read as its fine-tuning reads it, it gives our features."""

import pydoc

import pytest
import torch

from medssl.errors import UserError
from medssl.weights import take_in, write_nnunet
from medssl.weights.nnunet import adaptation_plan
from medssl.weights.spec import voxel_mm
from tests.weights.test_residual import Encoder, turned


@pytest.fixture
def content(weights, tmp_path):
    path = write_nnunet(tmp_path / "checkpoint.pth", weights("nnunet"))
    return torch.load(path, weights_only=True)


def begin_with(network, content):
    """Encoder and stem as nnU-Net's PretrainedTrainer takes them: by the plan's keys, strictly."""
    plan = content["nnssl_adaptation_plan"]
    for key in (plan["key_to_encoder"], plan["key_to_stem"]):
        own = {n.removeprefix(f"{key}."): v for n, v in content["network_weights"].items() if n.startswith(f"{key}.")}
        network.get_submodule(key).load_state_dict(own)
    return network.eval()


def largest_error(weights, encoder):
    x = torch.randn(2, 1, 16, 12, 8)
    with torch.no_grad():
        ours, theirs = weights.trunk()(x).pyramid, encoder(turned(x))
    return max(float((a - turned(b)).abs().max()) for a, b in zip(ours, theirs, strict=True))


def test_the_twin_of_their_encoder_gives_our_features(weights, content):
    network = torch.nn.ModuleDict({"encoder": Encoder(3)})
    before = largest_error(weights("nnunet"), network["encoder"].eval())
    after = largest_error(weights("nnunet"), begin_with(network, content)["encoder"])
    assert after < 1e-5 < before


@pytest.mark.parametrize("dims", [2, 3])
def test_the_real_network_is_built_from_the_plan_and_gives_our_features(weights, tmp_path, dims):
    pytest.importorskip(
        "dynamic_network_architectures",
        reason="dynamic-network-architectures is not installed: only the twin is tested",
    )
    made = weights("nnunet", dims)
    content = torch.load(write_nnunet(tmp_path / "checkpoint.pth", made), weights_only=True)
    plan = content["nnssl_adaptation_plan"]
    arguments = dict(plan["architecture_plans"]["arch_kwargs"])
    for name in plan["architecture_plans"]["arch_kwargs_requiring_import"]:
        arguments[name] = arguments[name] and pydoc.locate(arguments[name])
    made_by = pydoc.locate(plan["architecture_plans"]["arch_class_name"])
    network = begin_with(made_by(1, num_classes=2, **arguments), content)
    assert (network.key_to_encoder, network.key_to_stem) == (plan["key_to_encoder"], plan["key_to_stem"])
    x = torch.randn(2, 1, *(16, 12, 8)[:dims])
    with torch.no_grad():
        ours, theirs = made.trunk()(x).pyramid, network.encoder(turned(x))
        assert network(turned(x)).shape == (2, 2, *(8, 12, 16)[3 - dims :])
    assert all((a - turned(b)).abs().max() < 1e-5 for a, b in zip(ours, theirs, strict=True))


def test_the_plan_has_the_axes_backwards_and_names_what_is_there(content):
    plan = content["nnssl_adaptation_plan"]
    (configuration,) = plan["pretrain_plan"]["configurations"].values()
    assert configuration["patch_size"] == [8, 12, 16]
    assert configuration["spacing"] == [2.5, 1, 1]
    assert plan["architecture_plans"]["arch_kwargs"]["strides"] == [[1, 1, 1], [1, 1, 1], [1, 2, 2], [2, 2, 2]]
    assert plan["architecture_plans"]["arch_kwargs"]["n_blocks_per_stage"] == [1, 2, 1, 1]
    assert plan["pretrain_num_input_channels"] == 1
    names = set(content["network_weights"])
    assert {f"{key}.weight" for key in plan["keys_to_in_proj"]} <= names
    assert set(plan) == {
        "architecture_plans", "pretrain_plan", "pretrain_num_input_channels", "recommended_downstream_patchsize",
        "key_to_encoder", "key_to_stem", "keys_to_in_proj", "key_to_lpe",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("dims", "views_mm", "spacing"),
    [(3, None, [2.5, 1, 1]), (3, [32.0, 18.0, 32.0], [4, 1.5, 2]), (2, None, [1, 1]), (2, [32.0, 18.0], [1.5, 2])],
)
def test_the_plan_tells_the_voxels_of_the_views_and_not_of_the_prepared_volumes(weights, dims, views_mm, spacing):
    made = weights("nnunet", dims)
    made.spec["input"]["views_mm"] = views_mm
    (configuration,) = adaptation_plan(made.trunk(), made.spec)["pretrain_plan"]["configurations"].values()
    assert (configuration["spacing"], configuration["spacing_style"]) == (spacing, "fixed")
    assert len(configuration["patch_size"]) == dims


def test_voxels_of_several_sizes_or_of_none_known_are_not_told(weights):
    spec = weights("nnunet").spec
    (one,) = spec["input"]["modalities"]
    for seen in (None, {"views_mm": None, "modalities": [one, {**one, "spacing_mm": [1, 1, 1]}]}):
        assert voxel_mm({**spec, "input": seen}) is None
    alike = {"views_mm": None, "modalities": [one, one]}
    assert voxel_mm({**spec, "input": alike}) == [1, 1, 2.5]


def test_their_own_preset_is_named_where_it_is_theirs():
    from medssl.weights.nnunet import RESENC_L, _architecture

    small = {"size": (64, 64, 64), "widths": (1, 1, 1, 1, 1, 1), "depths": (1, 3, 4, 6, 6, 6), "stem": True}
    from medssl.trunks import ResEnc

    trunk = ResEnc(**small)
    assert _architecture(trunk)["arch_class_name"].endswith("ResidualEncoderUNet")
    trunk.widths = tuple(RESENC_L["features_per_stage"])  # the real one has 90 million weights
    assert _architecture(trunk) == {
        "arch_class_name": "ResEncL", "arch_kwargs": None, "arch_kwargs_requiring_import": None,
    }  # fmt: skip


def test_what_went_out_comes_back_to_the_bit(weights, tmp_path):
    made = weights("nnunet")
    path = write_nnunet(tmp_path / "checkpoint.pth", made)
    recipe = {"views": {"size": ["16", "12", "8"]}, "trunk": made.spec["trunk"]}
    back = take_in(path, recipe).weights.tensors
    learned = [name for name in made.tensors if not name.startswith("hidden")]
    assert all(torch.equal(back[name], made.tensors[name]) for name in learned)


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("vit", "a.pth", "vit: nnU-Net's encoder is a resenc"),
        ("resenc", "a.pth", "trunk.stem: false"),
        ("nnunet", "a.safetensors", "end in .pth"),
    ],
)
def test_what_has_no_place_there_is_refused(weights, tmp_path, name, file, message):
    with pytest.raises(UserError, match=message):
        write_nnunet(tmp_path / file, weights(name))
    assert not list(tmp_path.iterdir())
