"""The same ViT under the names of Hugging Face's transformers, old and new, gives the same features."""

import re

import pytest
import torch

from medssl.errors import UserError
from tests.weights.test_timm import GRID, RECIPE, WIDTH, as_tokens, imported, largest_error, section, timm_weights

OLD = {
    "attn.proj": "attention.output.dense", "ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1",
    "attn.query": "attention.attention.query", "attn.key": "attention.attention.key",
    "attn.value": "attention.attention.value",
}  # fmt: skip
NEW = {
    **OLD, "attn.proj": "attention.o_proj", "attn.query": "attention.q_proj", "attn.key": "attention.k_proj",
    "attn.value": "attention.v_proj",
}  # fmt: skip
PLAIN = {
    **OLD, "norm1": "layernorm_before", "norm2": "layernorm_after", "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}  # fmt: skip
ENDS = {"patch_embed.proj": "embeddings.patch_embeddings.projection", "pos_embed": "embeddings.position_embeddings"}


def transformers_weights(state, names, layers):
    """A state with timm's names under those of transformers: layer by layer, queries, keys and values apart."""
    found = {}
    for name, value in state.items():
        if "attn.qkv" in name:
            for part, own in zip(("query", "key", "value"), value.split(WIDTH), strict=True):
                found[name.replace("qkv", part)] = own
        else:
            found[name] = value
    renamed = {}
    for name, value in found.items():
        for old, new in {**ENDS, **names}.items():
            name = re.sub(rf"(^|\.){re.escape(old)}(\.|$)", rf"\1{new}\2", name)
        name = re.sub(r"^(cls_token|mask_token|register_tokens)", r"embeddings.\1", name)
        name = re.sub(
            r"^norm\.", "layernorm.", re.sub(r"^blocks\.", f"{layers}.", re.sub(r"^head\.", "pooler.dense.", name))
        )
        renamed[f"dinov2.{name}"] = value
    return renamed


@pytest.mark.parametrize(
    ("names", "layers", "scale"),
    [(OLD, "encoder.layer", True), (NEW, "encoder.layer", True), (PLAIN, "encoder.layer", False)],
    ids=["published Dinov2", "transformers 5", "published ViT"],
)
def test_patch_features_are_those_of_the_formulas(tmp_path, names, layers, scale):
    state = timm_weights(scale=scale, registers=2)
    theirs = transformers_weights(state, names, layers)
    assert not any("attn" in name or "blocks" in name or "gamma" in name for name in theirs)
    found = imported(tmp_path, theirs, section(registers=3))
    assert largest_error(found.weights.trunk(), state, torch.randn(2, 1, 12, 12)) < 1e-5
    assert found.weights.spec["origin"]["layout"] == "huggingface"
    query = f"{layers}.0.{names['attn.query']}.weight"
    assert any(f"blocks.0.self_attn.in_proj_weight (72, 24) <- {query}, " in line for line in found.lines)
    assert any("pooler.dense.weight (a head)" in line for line in found.lines)


def test_another_network_is_refused_with_the_recipe_that_would_do(tmp_path):
    theirs = transformers_weights(timm_weights(registers=2), OLD, "encoder.layer")
    with pytest.raises(UserError, match=r"\{name: vit, .*, width: 24, depth: 4, registers: 3"):
        imported(tmp_path, theirs, {**RECIPE, "trunk": {}})
    theirs["dinov2.encoder.layer.0.mlp.weights_in.weight"] = torch.zeros(3)
    with pytest.raises(UserError, match=r"weights_in.*features depend on them"):
        imported(tmp_path, theirs, section(registers=3))


def test_transformers_itself_gives_the_same_features(tmp_path):
    reason = "transformers is not installed: the formulas are tested, transformers itself is not"
    transformers = pytest.importorskip("transformers", reason=reason)
    made = transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(
            hidden_size=WIDTH, num_hidden_layers=4, num_attention_heads=3, image_size=4 * GRID, patch_size=4,
            num_register_tokens=2,
        )
    ).eval()  # fmt: skip
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    made.save_pretrained(tmp_path / "model")
    from medssl.weights import take_in

    recipe = section(registers=3, channels=3)
    trunk = take_in(tmp_path / "model" / "model.safetensors", recipe).weights.trunk()
    x = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        ours, theirs = trunk(x.transpose(2, 3)).pyramid[-1], made(x).last_hidden_state[:, 3:]
    assert (as_tokens(ours) - theirs).abs().max() < 1e-5
