"""A ViT's weights under timm's names give the same patch features here; the oracle is written from the formulas below."""

import math

import pytest
import torch
from torch.nn import functional

from medssl.cli import main
from medssl.errors import UserError
from medssl.weights import Adapting, read_weights, take_in

WIDTH, HEADS, DEPTH, PATCH, GRID = 24, 3, 4, 4, 3
RECIPE = {
    "views": {"size": ["12", "12"]},
    "trunk": {"name": "vit", "patch": ["4", "4"], "width": "24", "depth": "4", "heads": "3", "eps": "1e-6"},
}


def section(**changes):
    return {**RECIPE, "trunk": {**RECIPE["trunk"], **{k: str(v) for k, v in changes.items()}}}


def timm_weights(channels=1, scale=True, registers=0, classed=True):
    """Random weights under the names that timm and DINOv2 use, of a size at which eps and every bias show."""
    torch.manual_seed(3)

    def noise(*shape):
        return torch.randn(*shape) * 0.2

    state = {"patch_embed.proj.weight": noise(WIDTH, channels, PATCH, PATCH), "patch_embed.proj.bias": noise(WIDTH)}
    state["pos_embed"] = noise(1, GRID**2 + classed, WIDTH)
    if classed:
        state["cls_token"], state["mask_token"] = noise(1, 1, WIDTH), noise(1, WIDTH)
    if registers:
        state["register_tokens"] = noise(1, registers, WIDTH)
    for n in range(DEPTH):
        shapes = {
            "norm1.weight": (WIDTH,), "norm1.bias": (WIDTH,), "attn.qkv.weight": (3 * WIDTH, WIDTH),
            "attn.qkv.bias": (3 * WIDTH,), "attn.proj.weight": (WIDTH, WIDTH), "attn.proj.bias": (WIDTH,),
            "norm2.weight": (WIDTH,), "norm2.bias": (WIDTH,), "mlp.fc1.weight": (4 * WIDTH, WIDTH),
            "mlp.fc1.bias": (4 * WIDTH,), "mlp.fc2.weight": (WIDTH, 4 * WIDTH), "mlp.fc2.bias": (WIDTH,),
        } | ({"ls1.gamma": (WIDTH,), "ls2.gamma": (WIDTH,)} if scale else {})  # fmt: skip
        state |= {f"blocks.{n}.{name}": noise(*shape) for name, shape in shapes.items()}
    return state | {"norm.weight": noise(WIDTH), "norm.bias": noise(WIDTH), "head.weight": noise(5, WIDTH)}


def timm_tokens(state, image, eps=1e-6):
    """Patch tokens (B, rows * columns, E) after each block and after the last norm, by the formulas of the papers.

    Image (B, C, rows, columns). One head at a time; the norm and the GELU are written out.
    """

    def norm(x, name):
        mean = x.mean(-1, keepdim=True)
        spread = ((x - mean) ** 2).mean(-1, keepdim=True)
        return (x - mean) / (spread + eps).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def attention(x, name):
        q, k, v = linear(x, f"{name}.qkv").split(WIDTH, -1)
        parts = []
        for h in range(HEADS):
            own = slice(h * WIDTH // HEADS, (h + 1) * WIDTH // HEADS)
            score = q[..., own] @ k[..., own].transpose(1, 2) / math.sqrt(WIDTH // HEADS)
            parts.append(score.exp() / score.exp().sum(-1, keepdim=True) @ v[..., own])
        return linear(torch.cat(parts, -1), f"{name}.proj")

    def mlp(x, name):
        x = linear(x, f"{name}.fc1")
        return linear(x * 0.5 * (1 + torch.erf(x / math.sqrt(2))), f"{name}.fc2")

    patches = image.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # B, C, rows, columns, p, p
    x = torch.einsum("bcyxpq,ecpq->byxe", patches, state["patch_embed.proj.weight"]).flatten(1, 2)
    x = x + state["patch_embed.proj.bias"]
    alone = 0
    if "cls_token" in state:
        x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], 1) + state["pos_embed"]
        alone = 1
        if "register_tokens" in state:
            extra = state["register_tokens"]
            x = torch.cat([x[:, :1], extra.expand(len(x), -1, -1), x[:, 1:]], 1)
            alone += extra.shape[1]
    else:
        x = x + state["pos_embed"]
    levels = []
    for n in range(DEPTH):
        x = x + attention(norm(x, f"blocks.{n}.norm1"), f"blocks.{n}.attn") * state.get(f"blocks.{n}.ls1.gamma", 1)
        x = x + mlp(norm(x, f"blocks.{n}.norm2"), f"blocks.{n}.mlp") * state.get(f"blocks.{n}.ls2.gamma", 1)
        levels.append(x[:, alone:])
    return [*levels, norm(x, "norm")[:, alone:]]


def imported(tmp_path, state, recipe, adapting=None):
    torch.save(state, tmp_path / "theirs.pth")
    return take_in(tmp_path / "theirs.pth", recipe, adapting=adapting)


def as_tokens(level):
    """Ours (B, E, I, J) as theirs (B, rows * columns, E): columns are our I."""
    return level.permute(0, 3, 2, 1).flatten(1, 2)


def largest_error(trunk, state, image, eps=1e-6):
    """The largest difference of the two levels of our pyramid from theirs, on an image (B, C, rows, columns)."""
    theirs = timm_tokens(state, image, eps)
    with torch.no_grad():
        half, last = trunk(image.transpose(2, 3)).pyramid
    return max(
        float((as_tokens(half) - theirs[DEPTH // 2 - 1]).abs().max()), float((as_tokens(last) - theirs[-1]).abs().max())
    )


@pytest.mark.parametrize("scale", [True, False], ids=["with LayerScale", "without"])
@pytest.mark.parametrize(("classed", "registers"), [(False, 0), (True, 0), (True, 2)])
def test_patch_features_are_those_of_the_formulas(tmp_path, scale, classed, registers):
    state = timm_weights(scale=scale, registers=registers, classed=classed)
    recipe = section(registers=registers + classed) if classed else section()
    trunk = imported(tmp_path, state, recipe).weights.trunk()
    assert largest_error(trunk, state, torch.randn(2, 1, 12, 12)) < 1e-5


def test_what_the_test_above_can_tell_apart(tmp_path):
    state, image = timm_weights(classed=False), torch.randn(2, 1, 12, 12) * 1e-2
    state = {name: value * (0.02 if "proj" in name or "pos" in name else 1) for name, value in state.items()}
    trunk = imported(tmp_path, state, section()).weights.trunk()
    assert largest_error(trunk, state, image) < 1e-5
    other_eps = imported(tmp_path, state, section(eps=1e-5))
    assert largest_error(other_eps.weights.trunk(), state, image) > 1e-3
    assert any("eps is 1e-05" in line for line in other_eps.lines)
    state = timm_weights(classed=False)
    wrong_way = imported(tmp_path, state, section(), Adapting(axes="same")).weights.trunk()
    assert largest_error(wrong_way, state, torch.randn(2, 1, 12, 12)) > 1e-2
    with torch.no_grad():
        assert largest_error(wrong_way, state, torch.ones(2, 1, 12, 12)) > 1e-3  # the places alone show it
        half, _ = wrong_way(torch.ones(2, 1, 12, 12)).pyramid
    theirs = timm_tokens(state, torch.ones(2, 1, 12, 12))[1]
    assert (half.flatten(2).transpose(1, 2) - theirs).abs().max() < 1e-5  # "same": our I are their rows


def test_a_class_token_left_out_is_told_and_changes_the_features(tmp_path):
    state = timm_weights()
    found = imported(tmp_path, state, section())
    assert "left in the file: cls_token (no place in this trunk)" in found.lines
    assert any("patches attended to them" in line and "trunk.registers: 1" in line for line in found.lines)
    assert largest_error(found.weights.trunk(), state, torch.randn(2, 1, 12, 12)) > 1e-3
    alone = {name: value for name, value in state.items() if name != "cls_token"}
    alone["pos_embed"] = state["pos_embed"][:, 1:]
    assert largest_error(found.weights.trunk(), alone, torch.randn(2, 1, 12, 12)) < 1e-5


def test_three_channels_of_one_grey_picture_are_their_sum(tmp_path):
    state, image = timm_weights(channels=3), torch.randn(2, 1, 12, 12)
    with pytest.raises(UserError, match="3 channels in the file, 1 in the recipe; give --channels sum"):
        imported(tmp_path, state, section(registers=1))
    for channels in (1, 2, 3):
        recipe = section(registers=1, channels=channels)
        trunk = imported(tmp_path, state, recipe, Adapting(channels="sum")).weights.trunk()
        theirs = timm_tokens(state, image.expand(-1, 3, -1, -1))[-1]
        with torch.no_grad():
            ours = trunk(image.transpose(2, 3).expand(-1, channels, -1, -1)).pyramid[-1]
        assert (as_tokens(ours) - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("how", ["even", "centre"])
def test_a_volume_sees_what_its_slices_saw(tmp_path, how):
    """Without placeless tokens, equal tokens along K get the attention of one: softmax shares it among them."""
    state, slices = timm_weights(classed=False), torch.randn(2, 1, 12, 12)
    recipe = section()
    recipe["views"] = {"size": ["12", "12", "6"]}
    recipe["trunk"]["patch"] = ["4", "4", "3"]
    with pytest.raises(UserError, match="2D in the file, 3D in the recipe; give --inflate"):
        imported(tmp_path, state, recipe)
    trunk = imported(tmp_path, state, recipe, Adapting(inflate=how)).weights.trunk()
    volume = slices.transpose(2, 3)[..., None].repeat(1, 1, 1, 1, 6)
    if how == "centre":
        volume[..., [0, 2, 3, 5]] = 7.0  # the middle slice of a patch alone is looked at
    with torch.no_grad():
        ours = trunk(volume).pyramid[-1]
    theirs = timm_tokens(state, slices)[-1]
    for k in range(2):
        assert (as_tokens(ours[..., k]) - theirs).abs().max() < 1e-5


def test_views_of_another_size_get_interpolated_places(tmp_path):
    recipe = section()
    recipe["views"] = {"size": ["24", "12"]}
    state = timm_weights(classed=False)
    found = imported(tmp_path, state, recipe)
    field = state["pos_embed"].unflatten(1, (3, 3)).permute(0, 3, 2, 1)  # (1, E, I, J)
    expected = functional.interpolate(field, size=(6, 3), mode="bilinear").flatten(2).transpose(1, 2)
    assert torch.allclose(found.weights.tensors["place"], expected, atol=1e-6)
    assert any("3 x 3 interpolated to 6 x 3" in line for line in found.lines)


def test_the_refusal_tells_the_recipe_that_would_do(tmp_path):
    import yaml

    with pytest.raises(UserError, match=r"trunk.name: resenc") as refused:
        imported(tmp_path, timm_weights(registers=2), {**RECIPE, "trunk": {}})
    told = yaml.safe_load(str(refused.value).split("The file's network is trunk: ")[1])
    assert told == {
        "name": "vit", "channels": 1, "patch": [4, 4], "width": WIDTH, "depth": DEPTH, "registers": 3, "eps": 1e-6,
    }  # fmt: skip
    assert imported(tmp_path, timm_weights(registers=2), {**RECIPE, "trunk": {**told, "heads": HEADS}}).lines


@pytest.mark.parametrize("registers", [0, 2])
def test_timm_itself_gives_the_same_features(tmp_path, registers):
    reason = "timm is not installed: the formulas are tested, timm itself is not"
    timm = pytest.importorskip("timm.models.vision_transformer", reason=reason)
    model = timm.VisionTransformer(
        img_size=12, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=3, init_values=0.1,
        reg_tokens=registers, no_embed_class=registers > 0,
    ).eval()  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    trunk = imported(tmp_path, model.state_dict(), section(registers=1 + registers, channels=3)).weights.trunk()
    x = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        ours, theirs = trunk(x.transpose(2, 3)).pyramid[-1], model.forward_features(x)[:, 1 + registers :]
    assert (as_tokens(ours) - theirs).abs().max() < 1e-5


def without(name):
    state = timm_weights()
    del state[name]
    return state


@pytest.mark.parametrize(
    ("state", "changes", "message"),
    [
        (timm_weights(), {"depth": 2}, r"28 of its tensors have no place in the recipe's trunk \(blocks.2"),
        (timm_weights(), {"depth": 5}, "has nothing for 12 of the trunk's tensors"),
        (timm_weights(), {"width": 48}, r"comes to the shape \(24, 1, 4, 4\).*\(48, 1, 4, 4\)"),
        (timm_weights(), {"registers": 2}, "trunk.registers: 2, the file has 1"),
        (without("norm.weight"), {}, "has nothing for 1 of the trunk's tensors"),
        ({**timm_weights(), "blocks.0.attn.q_norm.weight": torch.ones(8)}, {}, "q_norm.*features depend on them"),
        ({**timm_weights(), "pos_embed": torch.zeros(1, 12, WIDTH)}, {}, "12 places in the file are no square grid"),
        ({"model": {}, "epoch": 3}, {}, "holds no tensor"),
        ({"encoder.weight": torch.zeros(3)}, {}, "none of its tensors is called patch_embed.proj.weight"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, state, changes, message):
    with pytest.raises(UserError, match=message):
        imported(tmp_path, state, section(**changes))


def test_a_file_of_several_networks_asks_which(tmp_path):
    student, teacher = timm_weights(), timm_weights(registers=2)
    student = {f"backbone.{name}": value for name, value in student.items()}
    teacher = {f"backbone.{name}": value + 0.1 for name, value in teacher.items()}
    torch.save({"teacher": teacher, "student": student, "step": 7}, tmp_path / "both.pth")
    with pytest.raises(UserError, match=r"holds student.backbone and teacher.backbone, which differ.*--part"):
        take_in(tmp_path / "both.pth", section())
    found = take_in(tmp_path / "both.pth", section(), part="student")
    assert torch.equal(found.weights.tensors["norm.bias"], student["backbone.norm.bias"])
    assert any("tensors outside of student.backbone" in line for line in found.lines)
    with pytest.raises(UserError, match=r"no tensor called .* in a part 'teach_me'"):
        take_in(tmp_path / "both.pth", section(), part="teach_me")


class Nasty:
    """What would run code if it were unpickled."""

    def __reduce__(self):
        return (eval, ("1 / 0",))


def test_no_code_in_a_file_is_run(tmp_path):
    torch.save({"state": timm_weights(), "nasty": Nasty()}, tmp_path / "nasty.pth")
    with pytest.raises(UserError, match="not readable without running code in it"):
        take_in(tmp_path / "nasty.pth", section())
    (tmp_path / "text.pth").write_text("weights")
    with pytest.raises(UserError, match="not readable without running code"):
        take_in(tmp_path / "text.pth", section())
    with pytest.raises(UserError, match="no such file"):
        take_in(tmp_path / "none.pth", section())
    with pytest.raises(UserError, match="no such file"):
        take_in(tmp_path, section())
    (tmp_path / "cut.safetensors").write_bytes(b"\0" * 9)
    with pytest.raises(UserError, match="not a whole safetensors file"):
        take_in(tmp_path / "cut.safetensors", section())


def test_the_command_prints_the_map_and_finetuning_begins_with_it(balls, tmp_path, capsys):
    import yaml
    from safetensors.torch import save_file

    save_file(timm_weights(), tmp_path / "theirs.safetensors")
    vit = {
        "name": "vit",
        "patch": [4, 4, 4],
        "width": WIDTH,
        "depth": DEPTH,
        "heads": HEADS,
        "eps": 1e-6,
        "registers": 1,
    }
    recipe = {**yaml.safe_load((balls / "recipe.yaml").read_text()), "trunk": vit, "views": {"size": [12, 12, 12]}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = ["weights", "import", tmp_path / "theirs.safetensors", "--recipe", tmp_path / "recipe.yaml"]

    def medssl(*more):
        with pytest.raises(SystemExit) as left:
            main([str(a) for a in more])
        return left.value.code or 0

    assert medssl("weights", "import", "--help") == 0
    assert "Example: medssl weights import" in capsys.readouterr().out
    assert medssl(*arguments, "-o", tmp_path / "w") == 2
    assert "give --inflate" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
    assert medssl(*arguments, "-o", tmp_path / "w", "--inflate", "even") == 0
    told = capsys.readouterr().out
    assert "embed.weight (24, 1, 4, 4, 4) <- patch_embed.proj.weight (inflated to depth 4, even)" in told
    assert "blocks.0.linear2.bias (24,) <- blocks.0.mlp.fc2.bias, blocks.0.ls2.gamma (times gamma)" in told
    assert "hidden <- nothing" in told
    assert "left in the file: head.weight (a head)" in told
    assert "left in the file: mask_token (stood for hidden patches while it was pretrained)" in told
    spec = read_weights(tmp_path / "w").spec
    assert spec["origin"]["settings"] == {"axes": "reversed", "channels": "same", "inflate": "even", "part": ""}
    run = tmp_path / "run"
    more = ["finetune", tmp_path / "recipe.yaml", "--store", balls / "store", "--run", run, "--from", tmp_path / "w"]
    assert medssl(*more, "--set", "finetune.steps=1") == 0
    assert "what images these weights saw (millimetres, intensities) is not known" in capsys.readouterr().out


def test_the_spec_of_imported_weights_is_what_its_schema_says(tmp_path):
    import jsonschema

    from medssl.weights import write_weights
    from tests.weights.test_folder import SCHEMA

    folder = write_weights(tmp_path / "w", imported(tmp_path, timm_weights(), section(registers=1)).weights)
    spec = read_weights(folder).spec
    jsonschema.validate(spec, SCHEMA)
    assert spec["origin"]["left_over"] == {"ours": ["hidden", "grid"], "theirs": ["head.weight", "mask_token"]}
