"""Stripes by hand, and what of a cross-shaped network follows from its geometry."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from medssl.errors import UserError
from medssl.trunks import build_trunk
from medssl.trunks.cswin import Attention, Block, attend, windows_of
from medssl.trunks.decoder import Decoder

CONV = {2: nn.Conv2d, 3: nn.Conv3d}


def stripes(grid, window):
    """The cells of each stripe, counted one after the other; the last ones are shorter where they do not divide."""
    cuts = [
        [range(first, min(first + (w or n), n)) for first in range(0, n, w or n)]
        for n, w in zip(grid, window, strict=True)
    ]
    return [list(itertools.product(*cut)) for cut in itertools.product(*cuts)]


def slow(qkv, window, place, head):
    """The twin of `attend`: one stripe, head, cell and neighbour at a time."""
    *grid, _, width = qkv.shape[1:]
    out = torch.zeros(len(qkv), *grid, width, dtype=qkv.dtype)
    for row, cells in itertools.product(range(len(qkv)), stripes(grid, window)):
        for cell in cells:
            for first in range(0, width, head):
                own = slice(first, first + head)
                q = qkv[(row, *cell, 0, own)]
                scores = torch.stack([(q * qkv[(row, *other, 1, own)]).sum() for other in cells]) / math.sqrt(head)
                share = scores.exp() / scores.exp().sum()
                out[(row, *cell, own)] = sum(s * qkv[(row, *c, 2, own)] for s, c in zip(share, cells, strict=True))
            out[(row, *cell)] += place.bias
            for shift in itertools.product((-1, 0, 1), repeat=len(grid)):
                other = tuple(c + s for c, s in zip(cell, shift, strict=True))
                if other in cells:
                    out[(row, *cell)] += place.weight[(slice(None), 0, *(s + 1 for s in shift))] * qkv[(row, *other, 2)]
    return out


@pytest.mark.parametrize(
    ("grid", "window"),
    [
        ((4, 6), (2, 0)),
        ((4, 6), (0, 3)),
        ((5, 4), (2, 0)),  # the last stripe is one row
        ((3, 5), (7, 2)),  # wider than the grid: all of it
        ((3, 2, 4), (2, 0, 0)),
        ((2, 3, 4), (2, 2, 0)),
        ((3, 3, 2), (2, 2, 1)),
        ((1, 3, 3), (2, 2, 2)),
    ],
    ids=str,
)
def test_a_stripe_is_the_slow_twins(grid, window):
    torch.manual_seed(0)
    place = CONV[len(grid)](4, 4, 3, padding=1, groups=4).double()
    qkv = torch.randn(2, *grid, 3, 4, dtype=torch.float64)
    assert torch.allclose(attend(qkv, window, place, 2), slow(qkv, window, place, 2), atol=1e-12)


@pytest.mark.parametrize("grid", [(5, 4), (3, 2, 4)], ids=["2D", "3D"])
@pytest.mark.parametrize("wide", ["extent", 0, 99])
def test_a_stripe_as_wide_as_the_grid_is_full_attention(grid, wide):
    torch.manual_seed(0)
    dims, head = len(grid), 8
    place = CONV[dims](16, 16, 3, padding=1, groups=16)
    qkv = torch.randn(2, *grid, 3, 16)
    q, k, v = (qkv[..., n, :].flatten(1, dims).unflatten(-1, (-1, head)).transpose(1, 2) for n in range(3))
    full = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).unflatten(1, grid)
    full = full + place(qkv[..., 2, :].movedim(-1, 1)).movedim(1, -1)
    for window in windows_of(grid if wide == "extent" else (wide,) * dims, "slab"):
        assert torch.allclose(attend(qkv, window, place, head), full, atol=1e-5)


def test_rows_and_columns_in_2d_slabs_and_bars_in_3d():
    assert windows_of((2, 3), "slab") == ((2, 0), (0, 3))
    assert windows_of((2, 3), "bar") == ((0, 3), (2, 0))
    assert windows_of((1, 2, 3), "slab") == ((1, 0, 0), (0, 2, 0), (0, 0, 3))
    assert windows_of((1, 2, 3), "bar") == ((0, 2, 3), (1, 0, 3), (1, 2, 0))


@pytest.mark.parametrize("shape", ["slab", "bar"])
@pytest.mark.parametrize(("grid", "width"), [((6, 7), (2, 3)), ((3, 5, 7), (1, 2, 3))], ids=["2D", "3D"])
def test_a_changed_cell_reaches_its_cross_in_one_block_and_no_other(grid, width, shape):
    torch.manual_seed(0)
    windows = windows_of(width, shape)
    block, x = Block(12, windows).double(), torch.randn(1, *grid, 12, dtype=torch.float64)
    for cell in [(0,) * len(grid), tuple(n // 2 for n in grid), tuple(n - 1 for n in grid)]:
        changed = x.clone()
        changed[(0, *cell)] += torch.randn(12, dtype=torch.float64)
        reached = (block(x) != block(changed)).any(-1)[0]
        cross = {c for window in windows for cells in stripes(grid, window) if cell in cells for c in cells}
        assert {tuple(c) for c in reached.nonzero().tolist()} == cross
        assert len(cross) < math.prod(grid)


def flat(conv):
    """A 3D convolution that makes of a single slice what `conv` makes of a picture; its weights of others are noise."""
    made = nn.Conv3d(len(conv.weight), len(conv.weight), 3, padding=1, groups=conv.groups)
    with torch.no_grad():
        made.weight.normal_()
        made.weight[:, :, 1] = conv.weight
        made.bias.copy_(conv.bias)
    return made


@pytest.mark.parametrize("window", [(2, 0), (0, 2), (0, 0)], ids=str)
def test_a_stripe_of_one_slice_is_that_of_the_picture(window):
    torch.manual_seed(0)
    place, qkv = nn.Conv2d(8, 8, 3, padding=1, groups=8), torch.randn(2, 5, 4, 3, 8)
    for depth in 0, 1, 3:
        deep = attend(qkv[:, None], (depth, *window), flat(place), 8)
        assert torch.allclose(deep[:, 0], attend(qkv, window, place, 8), atol=1e-6)


def test_the_last_stage_of_one_slice_is_that_of_the_picture():
    torch.manual_seed(0)
    shallow, deep = Block(12, ((0, 0),)), Block(12, ((0, 0, 0),))
    deep.attention.places[0] = flat(shallow.attention.places[0])
    told = {k: v for k, v in shallow.state_dict().items() if "places" not in k}
    assert set(deep.load_state_dict(told, strict=False).missing_keys) == {
        "attention.places.0.weight",
        "attention.places.0.bias",
    }
    x = torch.randn(2, 4, 5, 12)
    assert torch.allclose(deep(x[:, None])[:, 0], shallow(x), atol=1e-6)


def test_groups_of_channels_keep_to_their_own_stripes():
    """Before they are mixed, the first half of the channels knows its rows alone and the second its columns."""
    torch.manual_seed(0)
    attention, x = Attention(8, ((1, 0), (0, 1))), torch.randn(1, 4, 4, 8)
    attention.mix = nn.Identity()
    changed = x.clone()
    changed[0, 1, 2] += 1
    differs = (attention(x) != attention(changed))[0]
    rows, columns = differs[..., :4].any(-1), differs[..., 4:].any(-1)
    assert rows.any(1).tolist() == [False, True, False, False] and rows[1].all()
    assert columns.any(0).tolist() == [False, False, True, False] and columns[:, 2].all()


def test_thick_slices_keep_their_number_and_have_narrow_stripes():
    section = {"name": "cswin", "widths": ["12", "24", "24"], "depths": ["1", "2", "1"]}
    section["strides"] = [["4", "4", "1"], ["2", "2", "1"], ["2", "2", "2"]]
    section["stripes"] = [["1", "1", "2"], ["2", "2", "3"]]
    size = (32, 32, 10)
    trunk = build_trunk(section, size)
    assert trunk.strides == ((4, 4, 1), (8, 8, 1), (16, 16, 2))
    assert trunk.stages[0][0].attention.windows == ((1, 0, 0), (0, 1, 0), (0, 0, 2))
    features = trunk(torch.randn(1, 1, *size))
    assert [tuple(level.shape[2:]) for level in features.pyramid] == [(8, 8, 10), (4, 4, 10), (2, 2, 5)]
    assert Decoder(trunk)(features, size).shape[2:] == size


def test_a_flat_axis_is_not_convolved_by_the_stem():
    """Of stride 1 the stem's kernel is 1: slices are not mixed before they are thin enough to be pooled."""
    trunk = build_trunk({"name": "cswin", "widths": ["6", "6"], "depths": ["1", "1"],
                         "strides": [["4", "2", "1"], ["2", "2", "2"]]}, (16, 8, 4))  # fmt: skip
    assert [shrink.conv.kernel_size for shrink in trunk.shrinks] == [(7, 3, 1), (3, 3, 3)]


@pytest.mark.parametrize("size", [(16, 16), (16, 8, 16)], ids=["2D", "3D"])
def test_views_of_another_size_are_welcome(size):
    section = {"name": "cswin", "widths": ["12", "24"], "depths": ["1", "1"], "strides": [["2"] * len(size)] * 2}
    trunk, larger = build_trunk(section, size), tuple(2 * n for n in size)
    assert trunk(torch.randn(1, 1, *larger)).pyramid[-1].shape == (1, 24, *(n // 4 for n in larger))


def test_an_export_takes_any_number_of_views():
    """Stripes that the grid cuts off have a mask for each view, of which there may be more than when it was exported."""
    torch.manual_seed(0)
    section = {"name": "cswin", "widths": ["12", "24"], "depths": ["1", "1"]}
    section |= {"strides": [["2"] * 3] * 2, "stripes": [["3"] * 3]}
    trunk, views = build_trunk(section, (16, 12, 8)).eval(), torch.export.Dim("views")
    dynamic = {"x": {0: views}, "mask": None}
    made = torch.export.export(trunk, (torch.zeros(2, 1, 16, 12, 8), None), dynamic_shapes=dynamic).module()
    for count in (1, 3):
        x = torch.randn(count, 1, 16, 12, 8)
        assert torch.allclose(made(x, None).pooled, trunk(x).pooled, atol=1e-5)


@pytest.mark.parametrize("size", [(16, 8, 8), (8, 16, 16), (24, 24, 24)], ids=str)
def test_bfloat16_gradients_are_those_of_float32(size):
    """Grids of one and two cells and stripes of one: convolutions of such extents go wrong in bfloat16 on a CPU."""
    torch.manual_seed(0)
    section = {"name": "cswin", "widths": ["48", "96"], "depths": ["1", "1"], "strides": [["4"] * 3, ["2"] * 3]}
    trunk, x = build_trunk(section, size), torch.randn(4, 1, *size)
    gradients = []
    for half in (False, True):
        trunk.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            features = trunk(x)
        sum((y.float() * torch.linspace(-1, 1, y.numel()).view_as(y)).sum() for y in features.pyramid).backward()
        gradients.append({n: p.grad.clone() for n, p in trunk.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, exact in gradients[0].items():
        if name.endswith(("conv.weight", "places.0.weight", "places.1.weight", "places.2.weight")):
            assert (exact - gradients[1][name]).norm() < 0.1 * exact.norm(), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": ["12", "20", "24"]}, "trunk.widths: 20 .* each of 3 axes; use 21"),
        ({"depths": ["1", "1"]}, "trunk.depths"),
        ({"depths": ["1", "0", "1"]}, "trunk.depths"),
        ({"stripes": [["1", "1", "1"]]}, "trunk.stripes: .* needs 2 entries of 3 numbers"),
        ({"stripes": [["1", "1", "1"], ["2", "0", "2"]]}, "1 or more"),
        ({"strides": [["4", "4"], ["2", "2"], ["2", "2"]]}, "trunk.strides: .* needs 3 entries of 3 numbers"),
        ({"shape": "cross"}, "trunk.shape: 'cross' is not one of slab, bar"),
    ],
    ids=str,
)
def test_a_cswin_that_cannot_be_built_says_why(changes, message):
    section = {"name": "cswin", "widths": ["12", "24", "24"], "depths": ["1", "1", "1"], **changes}
    with pytest.raises(UserError, match=message):
        build_trunk(section, (16, 16, 16))
