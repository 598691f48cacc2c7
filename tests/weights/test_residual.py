"""nnU-Net's residual encoder gives the same features here: beside a twin written from its layout, and the real one."""

import pytest
import torch
from torch import nn

from medssl.errors import UserError
from medssl.weights import Adapting, take_in

WIDTHS, DEPTHS = (4, 6, 8, 8), (1, 2, 1, 1)
STRIDES = (1, 1, 1), (1, 1, 1), (2, 2, 1), (2, 2, 2)
"""A level is widened without a stride, with one, and strided without being widened: their shortcuts differ."""


def recipe(dims=3, **changes):
    trunk = {
        "name": "resenc", "widths": [str(n) for n in WIDTHS], "depths": [str(n) for n in DEPTHS], "stem": "true",
        "strides": [[str(n) for n in stride[:dims]] for stride in STRIDES],
    } | changes  # fmt: skip
    return {"views": {"size": ["16", "12", "8"][:dims]}, "trunk": trunk}


class Unit(nn.Module):
    """A convolution with bias, an instance norm and perhaps a leaky ReLU, under nnU-Net's two names."""

    def __init__(self, dims, before, after, kernel, stride=1, *, bias=True, act=True):
        super().__init__()
        conv, norm = (nn.Conv2d, nn.InstanceNorm2d) if dims == 2 else (nn.Conv3d, nn.InstanceNorm3d)
        self.conv = conv(before, after, kernel, stride, kernel // 2, bias=bias)
        self.norm = norm(after, eps=1e-5, affine=True)
        self.all_modules = nn.Sequential(self.conv, self.norm, *([nn.LeakyReLU()] if act else []))

    def forward(self, x):
        return self.all_modules(x)


class Block(nn.Module):
    def __init__(self, dims, before, after, stride):
        super().__init__()
        self.conv1 = Unit(dims, before, after, 3, stride)
        self.conv2 = Unit(dims, after, after, 3, act=False)
        pool = (nn.AvgPool2d if dims == 2 else nn.AvgPool3d)(stride, stride)
        strided, wider = max(stride) > 1, before != after
        parts = [pool] * strided + [Unit(dims, before, after, 1, bias=False, act=False)] * wider
        self.skip = nn.Sequential(*parts) if parts else (lambda x: x)

    def forward(self, x):
        return nn.functional.leaky_relu(self.conv2(self.conv1(x)) + self.skip(x), 0.01)


def part(**modules):
    return nn.ModuleDict(modules)


class Encoder(nn.Module):
    """The twin: strides in its own order of axes, the reverse of ours."""

    def __init__(self, dims, channels=1):
        super().__init__()
        self.stem = part(convs=nn.Sequential(Unit(dims, channels, WIDTHS[0], 3)))
        befores, stages = (WIDTHS[0], *WIDTHS[:-1]), []
        for before, after, depth, stride in zip(befores, WIDTHS, DEPTHS, STRIDES, strict=True):
            mine = stride[:dims][::-1]
            first = Block(dims, before, after, mine)
            rest = [Block(dims, after, after, (1,) * dims) for _ in range(depth - 1)]
            stages.append(part(blocks=nn.Sequential(first, *rest)))
        self.stages = nn.Sequential(*stages)

    def forward(self, x):
        x, found = self.stem["convs"](x), []
        for stage in self.stages:
            x = stage["blocks"](x)
            found.append(x)
        return found


def real_encoder(dims, channels=1):
    """The encoder of nnU-Net's own library, if it is installed."""
    library = pytest.importorskip(
        "dynamic_network_architectures.building_blocks.residual_encoders",
        reason="dynamic-network-architectures is not installed: the twin is tested, the real encoder is not",
    )
    conv, norm = (nn.Conv2d, nn.InstanceNorm2d) if dims == 2 else (nn.Conv3d, nn.InstanceNorm3d)
    return library.ResidualEncoder(
        channels, len(WIDTHS), WIDTHS, conv, 3, [stride[:dims][::-1] for stride in STRIDES], DEPTHS, conv_bias=True,
        norm_op=norm, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True}, return_skips=True,
    )  # fmt: skip


@pytest.fixture(params=[Encoder, real_encoder], ids=["twin", "real"])
def maker(request):
    return request.param


def stirred(encoder):
    """The encoder with every weight and bias random, and its state as nnU-Net saves it: the encoder twice."""
    torch.manual_seed(5)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.5)
    encoder.eval()
    starts, own = ("encoder.", "decoder.encoder."), encoder.state_dict()
    state = {start + name: value for start in starts for name, value in own.items()}
    return {"network_weights": {**state, "decoder.seg_layers.0.weight": torch.zeros(2)}, "current_epoch": 3}


def imported(tmp_path, content, section, adapting=None):
    torch.save(content, tmp_path / "checkpoint_final.pth")
    return take_in(tmp_path / "checkpoint_final.pth", section, adapting=adapting)


def turned(x):
    """Our (B, C, I, J, K) as their (B, C, K, J, I), and back."""
    return x.permute(0, 1, *range(x.ndim - 1, 1, -1))


def largest_error(trunk, encoder, x):
    with torch.no_grad():
        ours, theirs = trunk(x).pyramid, encoder(turned(x))
    return max(float((a - turned(b)).abs().max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("dims", [2, 3])
def test_every_level_is_that_of_the_encoder(tmp_path, maker, dims):
    encoder = maker(dims)
    found = imported(tmp_path, stirred(encoder), recipe(dims))
    x = torch.randn(2, 1, *(16, 12, 8)[:dims])
    assert largest_error(found.weights.trunk(), encoder, x) < 1e-5
    assert largest_error(found.weights.trunk(), maker(dims).eval(), x) > 1e-2
    same = imported(tmp_path, stirred(encoder), recipe(dims), Adapting(axes="same"))
    assert largest_error(same.weights.trunk(), encoder, x) > 1e-2


def test_the_map_says_where_everything_went(tmp_path, maker):
    lines = imported(tmp_path, stirred(maker(3)), recipe()).lines
    assert "stages.1.0.shortcut.1.weight (6, 4, 1, 1, 1) <- stages.1.blocks.0.skip.0.all_modules.0.weight" in lines
    (biases,) = [line for line in lines if "(the norm after it takes it off)" in line]
    assert biases.startswith("left in the file: stages.0.blocks.0.conv1.all_modules.0.bias, ")
    assert "and 7 more" in biases
    assert any("conv1.conv.bias" in line and "(another name of what was taken)" in line for line in lines)
    assert any("tensors outside of network_weights.encoder" in line for line in lines)
    assert any("strides are [(1, 1, 1), (1, 1, 1), (2, 2, 1), (4, 4, 2)]" in line for line in lines)


def test_one_channel_is_shared_out_over_three(tmp_path, maker):
    encoder = maker(3)
    content = stirred(encoder)
    with pytest.raises(UserError, match="1 channels in the file, 3 in the recipe; give --channels sum"):
        imported(tmp_path, content, recipe(channels="3"))
    trunk = imported(tmp_path, content, recipe(channels="3"), Adapting(channels="sum")).weights.trunk()
    x = torch.randn(2, 1, 16, 12, 8)
    with torch.no_grad():
        ours = trunk(x.expand(-1, 3, -1, -1, -1)).pyramid[-1]
        assert (ours - turned(encoder(turned(x))[-1])).abs().max() < 1e-5


PLAN = {
    "architecture_plans": {
        "arch_class_name": "x.ResidualEncoderUNet",
        "arch_kwargs": {"strides": [s[::-1] for s in STRIDES]},
    },
    "pretrain_plan": {"configurations": {"onemmiso": {"patch_size": [8, 12, 16], "spacing": [1, 1, 1]}}},
}


def test_strides_that_the_file_tells_must_be_those_of_the_recipe(tmp_path):
    content = {**stirred(Encoder(3)), "nnssl_adaptation_plan": PLAN}
    lines = imported(tmp_path, content, recipe()).lines
    assert not any("the file does not say" in line for line in lines)
    assert "note: they saw images of patch_size [8, 12, 16], spacing [1, 1, 1] (axes z, y, x)" in lines
    wrong = recipe(strides=[["1", "1", "1"], ["1", "1", "1"], ["2", "2", "2"], ["2", "2", "2"]])
    with pytest.raises(UserError, match=r"trunk.strides.*set them to \[\[1, 1, 1\], .*, \[2, 2, 1\], \[2, 2, 2\]\]"):
        imported(tmp_path, content, wrong)
    plans = {
        "configurations": {"3d_fullres": {"architecture": {"arch_kwargs": PLAN["architecture_plans"]["arch_kwargs"]}}}
    }
    content = {**stirred(Encoder(3)), "init_args": {"configuration": "3d_fullres", "plans": plans}}
    with pytest.raises(UserError, match=r"trunk\.strides.*set them to"):
        imported(tmp_path, content, wrong)
    imported(tmp_path, content, recipe())


def test_the_refusal_tells_the_recipe_that_would_do(tmp_path):
    import yaml

    content = {**stirred(Encoder(3)), "nnssl_adaptation_plan": PLAN}
    with pytest.raises(UserError, match=r"trunk\.stem: false") as refused:
        imported(tmp_path, content, {**recipe(), "trunk": {"widths": ["4", "6", "8"]}})
    told = yaml.safe_load(str(refused.value).split("The file's network is trunk: ")[1])
    assert told == {
        "name": "resenc", "channels": 1, "stem": True, "widths": list(WIDTHS), "depths": list(DEPTHS),
        "strides": [list(stride) for stride in STRIDES],
    }  # fmt: skip
    assert imported(tmp_path, content, {**recipe(), "trunk": told}).lines


def test_what_is_run_goes_before_what_is_only_named(tmp_path):
    encoder = Encoder(3)
    content = stirred(encoder)
    for start in ("encoder.", "decoder.encoder."):
        name = f"{start}stages.0.blocks.0.conv1.conv.weight"
        content["network_weights"][name] = torch.zeros_like(content["network_weights"][name])
    found = imported(tmp_path, content, recipe())
    assert largest_error(found.weights.trunk(), encoder, torch.randn(2, 1, 16, 12, 8)) < 1e-5
    assert any("differs from" in line and "conv1.conv.weight" in line for line in found.lines)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stem": "false"}, "trunk.stem: false; nnU-Net's encoder has a stem"),
        ({"norms": ["instance", "instance", "instance", "group"]}, "trunk.norms.*instance norms alone"),
        ({"depths": ["1", "1", "1", "1"]}, r"have no place in the recipe's trunk \(stages.1.blocks.1"),
        ({"depths": ["1", "2", "1", "2"]}, "has nothing for 6 of the trunk's tensors"),
        ({"widths": ["4", "6", "8", "10"]}, r"comes to the shape \(8,.*stages.3.0"),
        ({"name": "vit", "patch": ["4", "4", "4"]}, "has the tensors of a resenc"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, changes, message):
    section = recipe(**changes)
    if changes.get("name") == "vit":
        section["trunk"] = changes
    with pytest.raises(UserError, match=message):
        imported(tmp_path, stirred(Encoder(3)), section)


def test_batch_norm_and_flat_kernels_are_refused(tmp_path):
    content = stirred(Encoder(3))
    content["network_weights"]["encoder.stem.convs.0.norm.running_mean"] = torch.zeros(4)
    with pytest.raises(UserError, match=r"running_mean.*features depend on them"):
        imported(tmp_path, content, recipe())
    with pytest.raises(UserError, match="2D in the file, 3D in the recipe"):
        imported(tmp_path, stirred(Encoder(2)), recipe())


@pytest.mark.slow
def test_the_encoder_that_nnssl_publishes_has_as_many_weights_as_ours():
    """ResEnc-L by its plans: 90.3 million weights (counted in nnssl's network), of which biases of convolutions are few."""
    from medssl.trunks import ResEnc

    ours = ResEnc(size=(64, 64, 64), widths=(32, 64, 128, 256, 320, 320), depths=(1, 3, 4, 6, 6, 6), stem=True)
    assert round(sum(p.numel() for name, p in ours.named_parameters() if name != "hidden.0") / 1e6, 1) == 90.3
