"""Convolutions of seen cells: their values and slopes are those of a dense convolution times the mask."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medssl.trunks.seen_conv import Seen
from medssl.views.masks import spread

CONV = {2: nn.Conv2d, 3: nn.Conv3d}


@st.composite
def cases(draw):
    """A convolution, the voxels of a cell, whole steps of its stride, and where cells are seen."""
    dims = draw(st.integers(2, 3))
    axes = [
        (draw(st.sampled_from([1, 3, 5])), stride := draw(st.integers(1, 3)), stride * draw(st.integers(1, 3)))
        for _ in range(dims)
    ]
    kernel, stride, cell = zip(*axes, strict=True)
    grid = draw(st.tuples(st.integers(1, 2), *[st.integers(1, 3)] * dims))
    seen = draw(st.lists(st.booleans(), min_size=math.prod(grid), max_size=math.prod(grid)))
    conv = CONV[dims](2, 3, kernel, stride, [n // 2 for n in kernel], bias=draw(st.booleans())).double()
    return conv, cell, torch.tensor([True, *seen[1:]]).view(grid)


@given(cases())
@settings(max_examples=60, deadline=None)
def test_values_and_slopes_are_those_of_a_dense_convolution_times_the_mask(case):
    conv, cell, mask = case
    size, seen = tuple(n * g for n, g in zip(cell, mask.shape[1:], strict=True)), Seen(mask)
    x = torch.randn(len(mask), 2, *size, dtype=torch.float64, requires_grad=True)
    token = torch.randn(3, dtype=torch.float64, requires_grad=True)
    found = seen.placed(seen.convolved(seen.gathered(x), conv), token)
    plain = conv(x * spread(mask, size))
    there = spread(mask, tuple(plain.shape[2:]))
    plain = plain * there + token.view(1, -1, *[1] * len(cell)) * ~there
    assert torch.allclose(found, plain)
    towards, given = torch.randn(plain.shape, dtype=torch.float64), [x, token, *conv.parameters()]
    for a, b in zip(*(torch.autograd.grad(y, given, towards) for y in (found, plain)), strict=True):
        assert torch.allclose(a, b)


def test_blocks_are_those_of_the_seen_cells_row_by_row():
    x = torch.arange(2 * 4 * 6.0).view(2, 1, 4, 6)
    mask = torch.zeros(2, 2, 2, dtype=torch.bool)
    mask[0, 1, 0] = mask[1, 0, 1] = mask[1, 1, 1] = True
    seen = Seen(mask)
    blocks = seen.gathered(x)
    assert seen.row.tolist() == [0, 1, 1]
    assert torch.equal(blocks, torch.stack([x[0, :, 2:, :3], x[1, :, :2, 3:], x[1, :, 2:, 3:]]))
    assert torch.equal(seen.placed(blocks, torch.full((1,), -1)), x.masked_fill(~spread(mask, (4, 6)), -1))
    assert torch.equal(seen.summed(blocks.flatten(1)), torch.stack([blocks[0], blocks[1:].sum(0)]).flatten(1))


def test_cells_that_are_not_whole_are_named():
    with pytest.raises(ValueError, match="axis 1: 6 voxels do not divide into 4 cells"):
        Seen(torch.ones(1, 2, 4, dtype=torch.bool)).gathered(torch.zeros(1, 1, 4, 6))
