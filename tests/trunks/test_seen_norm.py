"""The norm of seen voxels: its values are those of the voxels gathered, its slopes those of numbers and of autograd."""

import pytest
import torch

from medssl.trunks.seen_conv import Seen
from medssl.trunks.seen_norm import norm_of_seen
from medssl.views.masks import spread


def given(groups, dtype=torch.float64):
    torch.manual_seed(0)
    there = torch.ones(2, 3, 4, dtype=torch.bool)
    there[0, :2, 1:] = there[1, 0] = False  # not as many in each row
    x = torch.randn(2, 4, 3, 8, dtype=dtype, requires_grad=True)
    weight, bias = (torch.randn(4, dtype=dtype, requires_grad=True) for _ in range(2))
    return x, there, groups, weight, bias


def found_of(x, there, groups, weight, bias, eps):
    """The norm of what is seen of x (B, C, *S), zero elsewhere."""
    seen = Seen(there)
    return seen.placed(norm_of_seen(seen.gathered(x), seen, groups, weight, bias, eps), torch.zeros(x.shape[1]))


def written_out(x, there, groups, weight, bias, eps):
    """The same, row by row and group by group, of gathered voxels, for autograd."""
    rows = []
    for one, (mask,) in zip(x, spread(there, x.shape[2:]), strict=True):
        some = one[:, mask]  # (C, seen)
        normed = [
            (part - part.mean()) / (part.var(unbiased=False) + eps).sqrt() for part in some.unflatten(0, (groups, -1))
        ]
        full = torch.zeros_like(one)
        full[:, mask] = torch.cat(normed) * weight[:, None] + bias[:, None]
        rows.append(full)
    return torch.stack(rows)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_values_and_slopes_are_those_of_gathered_voxels(groups):
    x, there, groups, weight, bias = given(groups)
    slope = torch.randn(2, 4, 3, 8, dtype=torch.float64)  # also where nothing is seen
    found, plain = (f(x, there, groups, weight, bias, 1e-5) for f in (found_of, written_out))
    assert torch.allclose(found, plain, atol=1e-12)
    for mine, theirs in zip(*(torch.autograd.grad(y, (x, weight, bias), slope) for y in (found, plain)), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12)


@pytest.mark.parametrize("groups", [2, 4])
def test_slopes_are_those_of_small_steps(groups):
    x, there, groups, weight, bias = given(groups)
    assert torch.autograd.gradcheck(lambda *a: found_of(a[0], there, groups, a[1], a[2], 1e-5), (x, weight, bias))


def test_half_precision_is_normed_in_single():
    x, there, groups, weight, bias = given(4, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        half = found_of(x.bfloat16(), there, groups, weight, bias, 1e-5)
    assert half.dtype == torch.bfloat16
    whole = found_of(x.bfloat16().float(), there, groups, weight, bias, 1e-5)
    assert torch.equal(half, whole.bfloat16())
    half.float().sum().backward()
    assert x.grad.dtype == weight.grad.dtype == torch.float32
