import pytest
import torch

from medssl import checkpoint
from medssl.errors import UserError


def trained(steps):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(steps):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def test_weights_optimizer_and_step_come_back(tmp_path):
    path = tmp_path / "last.safetensors"
    model, optimizer = trained(3)
    checkpoint.save(path, model, optimizer, 3)
    other, its_optimizer = trained(0)
    assert checkpoint.restore(path, other, its_optimizer) == 3
    for pair in (model, optimizer), (other, its_optimizer):
        pair[0](torch.ones(1, 3)).square().sum().backward()
        pair[1].step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_nothing_saved_is_step_zero(tmp_path):
    model, optimizer = trained(0)
    assert checkpoint.restore(tmp_path / "none", model, optimizer) == 0
    with pytest.raises(UserError, match="no such checkpoint"):
        checkpoint.read(tmp_path / "none")


def test_an_optimizer_that_has_its_weights_in_another_order_is_refused(tmp_path):
    path = tmp_path / "last.safetensors"
    model, optimizer = trained(2)
    checkpoint.save(path, model, optimizer, 2)
    turned = torch.optim.AdamW([model.bias, model.weight])
    with pytest.raises(UserError, match="its optimizer has the weights in another order"):
        checkpoint.restore(path, model, turned)


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "last.safetensors"
    model, optimizer = trained(1)
    checkpoint.save(path, model, optimizer, 1)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"last\.safetensors: not a whole safetensors file"):
        checkpoint.restore(path, model, optimizer)
    path.write_bytes(b"\x00" * 10)
    with pytest.raises(UserError, match="not a checkpoint of ours"):
        checkpoint.steps_done(path)


def test_weights_of_one_part(tmp_path):
    path = tmp_path / "last.safetensors"
    model = torch.nn.ModuleDict({"trunk": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 1)})
    checkpoint.save(path, model, torch.optim.AdamW(model.parameters()), 0)
    assert set(checkpoint.weights(path, "trunk.")) == {"weight", "bias"}


def test_weights_that_are_not_finite_never_replace_a_checkpoint(tmp_path):
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoint.save(tmp_path / "last.safetensors", model, optimizer, 1)
    before = (tmp_path / "last.safetensors").read_bytes()
    with torch.no_grad():
        model.weight[0, 1] = float("nan")
    with pytest.raises(UserError, match=r"step 2: model\.weight holds numbers that are not finite"):
        checkpoint.save(tmp_path / "last.safetensors", model, optimizer, 2)
    assert (tmp_path / "last.safetensors").read_bytes() == before
