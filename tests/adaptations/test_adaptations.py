"""How much of a trunk moves: rates by layer, what stands still to the bit, and low rank that is the trunk in the end."""

import pytest
import torch

from medssl import checkpoint
from medssl.adapt import build_model, finetune, load_trunk, plan
from medssl.adaptations import ADAPTATIONS, build_adaptation
from medssl.adaptations.layers import layer_of, layers_of
from medssl.adaptations.low_rank import merged
from medssl.errors import UserError
from medssl.heads import build_head
from medssl.learners import Supervised
from medssl.predict import load_model, predict
from medssl.probe.features import read_trunk
from medssl.recipe import read_recipe
from medssl.runs import read_run
from medssl.store import open_store
from medssl.train import pretrain
from medssl.trunks import build_trunk

TRUNKS = {
    "resenc": {"widths": ["8", "16"], "stem": "true"},
    "vit": {"name": "vit", "patch": ["4", "4"], "width": "24", "depth": "12", "heads": "2"},
    "cswin": {"name": "cswin", "widths": ["24", "24"], "depths": ["1", "2"], "strides": [["2", "2"], ["2", "2"]]},
}
X = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def model_of(trunk="vit", **adapt):
    torch.manual_seed(0)
    encoder = build_trunk(TRUNKS[trunk], (16, 16))
    model = Supervised(encoder, build_head({"name": "classify", "label": "x", "drop": "0"}, encoder))
    if adapt:
        model.adapt(build_adaptation(adapt))
    return model


def steps(model, count=3):
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=1e-2)
    for _ in range(count):
        loss = model.head.loss(model.answer(X), torch.tensor([0.0, 1, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def trunk_of(model):
    return {name: value.clone() for name, value in model.trunk.state_dict().items()}


def test_twelve_blocks_at_the_paper_s_decay_have_the_known_rates():
    model = model_of(name="full", decay="0.55")
    known = {
        "trunk.embed.weight": 4.21e-4, "trunk.place": 4.21e-4, "trunk.blocks.5.linear1.weight": 0.015224,
        "trunk.blocks.11.norm1.bias": 0.55, "trunk.norm.weight": 1.0, "head.last.1.weight": 1.0,
    }  # fmt: skip
    for name, rate in known.items():
        model.get_parameter(name)
        assert model.rate_of(name) == pytest.approx(rate, rel=2e-3)


@pytest.mark.parametrize("trunk", sorted(TRUNKS))
def test_every_weight_is_of_one_layer_and_those_nearer_to_the_image_are_of_lower_ones(trunk):
    encoder = model_of(trunk).trunk
    count = {"resenc": 2, "vit": 12, "cswin": 2}[trunk]
    found = {name: layer_of(name, encoder) for name, _ in encoder.named_parameters()}
    assert len(layers_of(encoder)) == count
    assert set(found.values()) - {0, count + 1} == set(range(1, count + 1))
    assert {name for name, layer in found.items() if layer == 0} == {
        name for name in found if name.startswith(("embed", "place", "hidden", "stem"))
    }


@pytest.mark.parametrize("trunk", sorted(TRUNKS))
@pytest.mark.parametrize("name", sorted(ADAPTATIONS))
def test_what_may_not_move_stands_still_to_the_bit(name, trunk):
    model = model_of(trunk, name=name)
    before = trunk_of(model)
    steps(model)
    moved = {key for key, value in trunk_of(model).items() if not torch.equal(value, before[key])}
    matrices = {key for key, value in before.items() if value.ndim > 1 and value.is_floating_point()}
    if name in ("linear", "low_rank"):
        assert not moved
    elif name == "biases":
        assert moved and not moved & matrices
    else:
        assert moved & matrices


@pytest.mark.parametrize("trunk", sorted(TRUNKS))
def test_low_rank_adds_nothing_at_first_and_is_the_trunk_in_the_end(trunk):
    plain, model = model_of(trunk), model_of(trunk, name="low_rank", rank="4")
    assert torch.equal(plain.answer(X), model.answer(X))
    moving = sum(parameter.numel() for parameter in model.added.parameters())
    assert 0 < moving < 0.9 * sum(parameter.numel() for parameter in plain.trunk.parameters())
    steps(model)
    assert not torch.allclose(plain.answer(X), model.answer(X))
    plain.load_state_dict(merged(model.state_dict(), "trunk.", "added."))
    assert torch.allclose(plain.answer(X), model.answer(X), atol=1e-5)
    for name, value in model.added.sums(model.trunk).items():
        change = (value - model.trunk.get_parameter(name)).flatten(1)
        assert torch.linalg.matrix_rank(change.detach(), rtol=1e-4) <= 4


LOW = ["adapt={name: low_rank, rank: 2}"]


def test_a_run_of_low_rank_resumes_to_the_bit_and_is_read_back_merged(balls, tmp_path):
    trunk = pretrain(read_recipe(balls / "recipe.yaml", ["pretrain.steps=2"]), balls / "store", tmp_path / "trunk")
    recipe = read_recipe(balls / "recipe.yaml", LOW)
    whole = finetune(recipe, balls / "store", tmp_path / "whole", start=trunk)

    def dies(steps, *_):
        for number in steps:
            if number == 4:
                raise KeyboardInterrupt
            yield number

    with pytest.raises(KeyboardInterrupt):
        finetune(recipe, balls / "store", tmp_path / "broken", start=trunk, progress=dies)
    broken = finetune(recipe, balls / "store", tmp_path / "broken", start=trunk)
    once, again = (checkpoint.read(run / checkpoint.NAME) for run in (whole, broken))
    assert once.keys() == again.keys() and all(torch.equal(once[name], again[name]) for name in once)
    assert any(name.startswith("model.added.up.") for name in once)
    facts = read_run(whole)["facts"]
    assert 0 < facts["moving"] < sum(value.numel() for name, value in once.items() if name.startswith("model.trunk."))
    model = load_model(whole, read_run(whole))
    start = build_model(recipe)
    load_trunk(start, recipe, trunk)
    changed = [n for n, p in model.trunk.named_parameters() if not torch.equal(p, start.trunk.get_parameter(n))]
    assert changed and all(name.startswith("stages.") for name in changed)
    probed = read_trunk(whole)
    assert all(torch.equal(value, probed.state_dict()[name]) for name, value in model.trunk.state_dict().items())
    assert predict(whole, balls / "store", tmp_path / "p.csv")["score"].between(0, 1).all()


def test_ways_that_there_are_not(balls):
    with pytest.raises(
        UserError, match=r"adapt\.name: no way called 'lora'; there are: full, linear, biases, low_rank"
    ):
        build_adaptation({"name": "lora"})
    with pytest.raises(UserError, match=r"adapt\.decay: 1\.5 must be at least 0 and at most 1"):
        build_adaptation({"decay": "1.5"})
    with pytest.raises(UserError, match=r"adapt\.rank: 0 must be at least 1"):
        build_adaptation({"name": "low_rank", "rank": "0"})
    with pytest.raises(UserError, match=r"finetune\.strategy: fsdp"):
        plan(read_recipe(balls / "recipe.yaml", [*LOW, "finetune.strategy=fsdp"]), open_store(balls / "store"))
