"""Blocks that are computed again on the way back: the same numbers, and little is kept."""

import pytest
import torch

from medssl import checkpoint
from medssl.errors import UserError
from medssl.heads import build_head
from medssl.learners import Supervised
from medssl.methods import build_method
from medssl.recipe import read_recipe
from medssl.train import pretrain
from medssl.trunks import build_trunk
from medssl.trunks.recompute import recompute
from tests.methods.test_every_method import batch, stopped_after

SIZE = (16, 16, 16)
TRUNKS = {
    "resenc": {"name": "resenc", "widths": ["8", "16", "24"], "blocks": "2"},
    "sparse": {"name": "resenc", "widths": ["8", "16", "24"], "blocks": "2", "hide": "sparse"},
    "cswin": {"name": "cswin", "widths": ["24", "48"], "depths": ["4", "4"], "strides": [["2", "2", "2"]] * 2},
    "vit": {"name": "vit", "width": "48", "depth": "8", "heads": "4", "patch": ["4", "4", "4"]},
}
METHODS = {
    "rebuild": {"rebuild": {}},
    "taught": {"dino": {"prototypes": "32"}, "rebuild": {}, "teacher_half_life": "0.1"},
}


def kept(run):
    """What `run` gives, and the bytes that it keeps for the way back, weights aside: each piece of memory once."""
    pieces = {}

    def pack(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            pieces[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no other piece gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run()
    return out, sum(count for count, _ in pieces.values())


def gradients(model, run, half):
    """The loss, every gradient by name, and the bytes kept."""
    model.zero_grad()
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        losses, count = kept(run)
    loss = sum(losses.values())
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, count


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("trunk", TRUNKS)
def test_gradients_are_the_same_and_less_than_a_third_is_kept(trunk, method, half):
    torch.manual_seed(0)
    model, seen = build_method(METHODS[method], build_trunk(TRUNKS[trunk], SIZE)), batch(SIZE)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = gradients(model, lambda: model(seen), half)
    model.load_state_dict(state)  # centres have moved
    recompute(model)
    assert model.state_dict().keys() == state.keys()
    after = gradients(model, lambda: model(seen), half)
    assert after[0] == before[0]
    assert after[1].keys() == before[1].keys()
    for name, gradient in before[1].items():
        assert (after[1][name] - gradient).norm() <= 1e-6 * gradient.norm(), name
    assert all(p.grad is None for p in model.teacher.parameters()) if model.teacher else True
    assert 0 < after[2] <= 0.3 * before[2]


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_head_on_a_trunk_keeps_less_likewise(trunk):
    torch.manual_seed(0)
    body = build_trunk(TRUNKS[trunk], SIZE)
    model = Supervised(body, build_head({"name": "segment", "structures": ["a"]}, body))
    seen = batch(SIZE)
    seen = seen._replace(target=(seen.x[0, :, 0] > 0).long())
    before = gradients(model, lambda: model(seen), half=False)
    recompute(model)
    recompute(model)  # twice is as once
    after = gradients(model, lambda: model(seen), half=False)
    assert all(torch.equal(after[1][name], gradient) for name, gradient in before[1].items())
    assert 0 < after[2] <= 0.3 * before[2]


def test_without_gradients_nothing_is_computed_again_or_kept():
    model = build_trunk(TRUNKS["resenc"], SIZE)
    calls = []
    model.stages[0][0].body.register_forward_hook(lambda *_: calls.append(1))
    recompute(model)
    x = torch.randn(1, 1, *SIZE)
    with torch.no_grad():
        model(x)
    assert len(calls) == 1
    model(x).pooled.sum().backward()
    assert len(calls) == 3


def test_a_model_without_blocks_says_so():
    with pytest.raises(UserError, match="recompute: true, but the trunk has no blocks"):
        recompute(torch.nn.Linear(2, 2))


def test_a_training_ends_in_the_same_bits_resumed_or_not_with_or_without(balls, tmp_path):
    changes = ["pretrain.steps=4", "pretrain.save_every=2", "method.teacher_half_life=0.1"]
    changes += ["method.contrast={teacher: true, weight: 0.1}", "pretrain.precision=bf16-mixed"]
    plain = pretrain(read_recipe(balls / "recipe.yaml", changes), balls / "store", tmp_path / "plain")
    recipe = read_recipe(balls / "recipe.yaml", [*changes, "pretrain.recompute=true"])
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, balls / "store", tmp_path / "light", progress=stopped_after(2))
    light = pretrain(recipe, balls / "store", tmp_path / "light")
    first, second = (checkpoint.read(run / checkpoint.NAME) for run in (plain, light))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
