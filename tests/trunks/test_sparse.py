"""A sparse trunk never sees what is hidden, nor that something is."""

import pytest
import torch
from torch import nn

from medssl.methods import build_method
from medssl.methods.rebuild import whitened
from medssl.trunks import build_trunk
from medssl.trunks.resenc import HalfInstance, ResEnc, _normed
from medssl.views.masks import spread

SIZES = {"2D": (16, 16), "3D": (16, 8, 16)}


NORMS = ["instance", "group", "ibn"]


def trunk_of(size, hide, norm="instance", depth=3, stem="false"):
    """Biases and scales are not what they start as: a bias of zero would hide a leak. Kernels are `depth` along axis 0."""
    torch.manual_seed(0)
    kernels = [[str(depth), *["3"] * (len(size) - 1)]] * 3
    section = {"widths": ["4", "6", "16"], "hide": hide, "norms": [norm] * 3, "kernels": kernels, "stem": stem}
    trunk = build_trunk(section, size)
    with torch.no_grad():
        for module in trunk.modules():
            if isinstance(module, nn.InstanceNorm2d | nn.InstanceNorm3d | nn.GroupNorm):
                module.bias.uniform_(0.5, 1)
                module.weight.uniform_(0.5, 1)
    return trunk


def half_hidden(size, trunk, rows=3):
    grid = [n // c for n, c in zip(size, trunk.cell, strict=True)]
    mask = torch.zeros(rows, *grid, dtype=torch.bool)
    mask.flatten(1)[:, ::2] = True
    return mask


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("hide", ["sparse", "token"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("depth", "stem"), [(1, "false"), (3, "false"), (5, "true")])
def test_after_every_layer_hidden_cells_are_zero(size, hide, norm, depth, stem):
    """Only in the sparse trunk: the same trunk with a token in their place fails this, so the test can fail."""
    trunk = trunk_of(size, hide, norm, depth, stem)
    mask, found = half_hidden(size, trunk), []

    def look(_, given, out):
        if given[0].ndim == out.ndim and all(n % g == 0 for n, g in zip(out.shape[2:], mask.shape[1:], strict=True)):
            hidden = spread(mask, tuple(given[0].shape[2:]))
            found.append(bool((given[0] * hidden == 0).all()))

    for module in trunk.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.AvgPool2d | nn.AvgPool3d | nn.LeakyReLU):
            module.register_forward_hook(look)
    trunk(torch.randn(3, 1, *size), mask)
    assert len(found) > 12
    assert all(found) == (hide == "sparse")


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("norm", NORMS)
def test_norms_are_those_of_the_seen_voxels_gathered(size, norm):
    trunk = trunk_of(size, "sparse", norm)
    mask, x = half_hidden(size, trunk), torch.randn(3, 1, *size)
    block = trunk.stages[0][0]
    seen = ~spread(mask, size)
    inside = block.body[0](x * seen) * seen
    norm = block.body[1]
    found = _normed(norm, inside, seen.float())
    assert (found * ~seen == 0).all()
    for row in range(3):
        gathered = inside[row][:, seen[row, 0]]  # (W, seen voxels)
        parts = norm.parts if isinstance(norm, HalfInstance) else [norm]
        plain = torch.cat([
            part(some[None])[0] if isinstance(part, nn.GroupNorm)
            else nn.functional.instance_norm(some[None], weight=part.weight, bias=part.bias, eps=part.eps)[0]
            for part, some in zip(parts, gathered.chunk(len(parts)), strict=True)
        ])  # fmt: skip
        assert torch.allclose(found[row][:, seen[row, 0]], plain, atol=1e-5)


def test_without_a_mask_it_is_the_ordinary_network():
    sparse, token = trunk_of((16, 16), "sparse"), trunk_of((16, 16), "token")
    token.load_state_dict({k: v for k, v in sparse.state_dict().items() if "hidden" not in k}, strict=False)
    x = torch.randn(2, 1, 16, 16)
    assert torch.equal(sparse(x).pooled, token(x).pooled)


@pytest.mark.parametrize("norm", NORMS)
def test_an_empty_mask_changes_nothing_but_rounding(norm):
    trunk = trunk_of((16, 16), "sparse", norm)
    x = torch.randn(2, 1, 16, 16)
    whole, masked = trunk(x), trunk(x, torch.zeros(2, 4, 4, dtype=torch.bool))
    for a, b in zip(whole.pyramid, masked.pyramid, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert torch.allclose(whole.pooled, masked.pooled, atol=1e-5)


def test_two_masks_in_one_step_do_not_meet():
    """Masks are arguments: a second forward, of another trunk or in another thread, leaves the first as it was."""
    one, other = trunk_of((16, 16), "sparse"), trunk_of((16, 16), "sparse")
    x, mask = torch.randn(3, 1, 16, 16), half_hidden((16, 16), one)
    before = one(x, mask).pooled
    other(x, ~mask)
    assert torch.equal(one(x, mask).pooled, before)


@pytest.mark.parametrize("values", [(1, 8, 8), (3, 32, 32)])
def test_rebuilding_nothing_costs_all_of_the_variance(values):
    """The loss of an all-zero guess of N whitened values is (N - 1) / N; .999674 for N = 3072."""
    channels, *cell = values
    torch.manual_seed(0)
    target = whitened(50 * torch.randn(2, channels, *(3 * n for n in cell)), tuple(cell))
    n = channels * cell[0] * cell[1]
    assert target.square().mean().item() == pytest.approx((n - 1) / n, abs=2e-6)
    assert whitened(torch.full((1, 1, 8, 8), 7.0), (4, 4)).abs().max() == 0


def test_what_is_seen_is_not_scored():
    method = build_method(
        {"rebuild": {"whiten": "true"}, "mask": {"ratio": "0.6"}},
        build_trunk({"widths": ["4", "4", "4"], "hide": "sparse"}, (16, 16)),
    )
    assert isinstance(method.trunk, ResEnc)
    from medssl.methods.method import Bank
    from medssl.views import Batch

    who = torch.arange(2)
    seen = Batch(torch.randn(2, 2, 1, 16, 16), torch.eye(4).expand(2, 2, 4, 4), who, who, torch.empty(0))
    bank = Bank(method, seen)
    dense = bank.dense(masked=True)
    dense.retain_grad()
    method.terms["rebuild"](bank).backward()
    kept = ~spread(bank.mask, (16, 16)).expand_as(dense)
    assert (dense.grad[kept] == 0).all()
    assert (dense.grad[~kept] != 0).any()
