"""Transformer of cross-shaped stripes: a pyramid whose every layer looks along the axes at full extent.

Dong et al., CVPR 2022, arXiv:2107.00652: an overlapping convolution as stem, stages of blocks with a strided convolution
and a layer norm between them, attention inside stripes of one direction for each group of channels, positions by a
depthwise convolution of the values inside the stripe (LePE), and attention over everything in the last stage.
Differs: 3D by the same code, with a group of channels for each axis; stripes and strides are set for each axis, and a
stripe that the grid cuts off is a shorter one; torch's own initial weights; every level has a norm of its own
on its way out.
"""

# B batch, *S space, W width, R rows (batch and stripes), T tokens of a stripe, H heads, C channels of a head
from __future__ import annotations

import itertools
from typing import Literal, cast

import torch
from torch import nn
from torch.nn import functional

from medssl.errors import UserError
from medssl.recipe import Count, Share
from medssl.trunks.drop_path import DropPath, rising
from medssl.trunks.features import Features
from medssl.trunks.resenc import CONV, SAFE_BFLOAT16_EXTENT
from medssl.views.masks import spread

HEAD = 32
"""Most channels of an attention head; a group whose width it does not divide has the next smaller heads that do."""

STEM = 4
"""Voxels of a cell of the first level along each axis, by default."""

Shape = Literal["slab", "bar"]


class CSWin(nn.Module):
    """A pyramid of `len(widths)` levels of `depths` blocks. `strides` has one entry a level, for each axis.

    `stripes` has one entry for each level but the last, the stripe's width in cells along each axis; in the last level every
    cell attends to every other. By default it is 1 in the first level and doubles with each.
    `shape` says what a stripe is in 3D. "slab": the whole extent of two axes and the stripe's width along the third; the
    three groups of channels differ in the third. "bar": the whole extent of one axis and the stripe's width along the two
    others; nearer to a cross, and the cost of a cell does not grow with the area of a plane. In 2D both are the
    paper's rows and columns.

    `drop_path` is the share of scans for which the last block is left out in training (see drop_path.py).

    What a hidden cell held cannot reach any feature: `hidden`, a learned value, stands in its place before the stem. The
    mask's cells are those of the coarsest level. Positions come from convolutions alone, so that views may have any size.
    """

    def __init__(
        self,
        *,
        size: tuple[int, ...],
        channels: Count = 1,
        widths: tuple[Count, ...] = (48, 96, 192, 384),
        depths: tuple[Count, ...] = (1, 2, 4, 1),
        strides: tuple[tuple[Count, ...], ...] = (),
        stripes: tuple[tuple[int, ...], ...] = (),
        shape: Shape = "slab",
        drop_path: Share = 0.0,
    ) -> None:
        super().__init__()
        if not widths:
            raise UserError("trunk.widths: empty; give the channels of each level, e.g. [32, 64, 128]")
        self.dims, self.channels, self.widths, self.dim = len(size), channels, widths, widths[-1]
        steps = strides or tuple((2 if level else STEM,) * self.dims for level in range(len(widths)))
        wide = stripes or tuple((2**level,) * self.dims for level in range(len(widths) - 1))
        _check("strides", steps, len(widths), self.dims)
        _check("stripes", wide, len(widths) - 1, self.dims)
        if len(depths) != len(widths) or min(depths) < 1:
            raise UserError(f"trunk.depths: {list(depths)} needs a number of blocks for each of {list(widths)}")
        for width in widths[:-1]:
            if width % self.dims:
                raise UserError(
                    f"trunk.widths: {width} does not divide into a group of channels for each of {self.dims} axes; "
                    f"use {-(-width // self.dims) * self.dims}"
                )
        self.strides = tuple(itertools.accumulate(steps, lambda a, b: tuple(x * y for x, y in zip(a, b, strict=True))))
        self.cell, self.kernels = self.strides[-1], ((3,) * self.dims,) * len(widths)
        self.fills = True
        self.hidden = nn.Parameter(torch.zeros(channels))
        before = (channels, *widths[:-1])
        self.shrinks = nn.ModuleList(Shrink(a, b, step) for a, b, step in zip(before, widths, steps, strict=True))
        windows = [*(windows_of(sw, shape) for sw in wide), ((0,) * self.dims,)]
        shares = iter(rising(drop_path, sum(depths)))
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(width, seen, next(shares)) for _ in range(depth)))
            for width, depth, seen in zip(widths, depths, windows, strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> Features:
        """Features of views (B, C, *S); `mask` (B, *S / cell) hides whole cells."""
        if mask is not None:
            seen = spread(~mask.to(x.device), tuple(x.shape[2:]))
            x = torch.where(seen, x, self.hidden.to(x.dtype).view(1, -1, *[1] * self.dims))
        pyramid = []
        for shrink, stage, norm in zip(self.shrinks, self.stages, self.norms, strict=True):
            x = shrink(x)
            x = stage(x.movedim(1, -1)).movedim(-1, 1)
            pyramid.append(norm(x.movedim(1, -1)).movedim(-1, 1))
        return Features(tuple(pyramid), pyramid[-1].flatten(2).mean(2))


class Shrink(nn.Module):
    """Cells (B, W, *S / step) of overlapping surroundings: 2 step - 1 voxels along each axis, 7 for 4 and 3 for 2."""

    def __init__(self, before: int, after: int, step: tuple[int, ...]) -> None:
        super().__init__()
        self.conv = CONV[len(step)](before, after, tuple(2 * n - 1 for n in step), step, tuple(n // 2 for n in step))
        self.norm = nn.LayerNorm(after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The cells of x (B, before, *S), normed."""
        return self.norm(safely(self.conv, x).movedim(1, -1)).movedim(-1, 1)


class Block(nn.Module):
    """Attention and then a perceptron of four times the width, each on what is normed and added to what was; in training
    not for `dropped` of the scans.
    """

    def __init__(self, width: int, windows: tuple[tuple[int, ...], ...], dropped: float = 0.0) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, windows)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = DropPath(dropped)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As many cells (B, *S, W) as there were."""
        x = x + self.drop(self.attention(self.before(x)))
        return x + self.drop(self.mlp(self.between(x)))


class Attention(nn.Module):
    """Channels in as many groups as there are `windows`, each attending inside windows of its own shape."""

    def __init__(self, width: int, windows: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        own, dims = width // len(windows), len(windows[0])
        self.windows, self.head = windows, max(n for n in range(1, HEAD + 1) if own % n == 0)
        self.triple = nn.Linear(width, 3 * width)
        self.places = nn.ModuleList(CONV[dims](own, own, 3, padding=1, groups=own) for _ in windows)
        self.mix = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What each cell (B, *S, W) gathers from its stripes."""
        groups = self.triple(x).unflatten(-1, (3, len(self.windows), -1)).unbind(-2)
        found = [
            attend(group, window, place, self.head)
            for group, window, place in zip(groups, self.windows, self.places, strict=True)
        ]
        return cast(torch.Tensor, self.mix(torch.cat(found, dim=-1)))


def attend(qkv: torch.Tensor, window: tuple[int, ...], place: nn.Module, head: int) -> torch.Tensor:
    """Attention inside windows, plus `place` of the values: (B, *S, W) of queries, keys and values (B, *S, 3, W).

    An extent of 0 in `window`, or one larger than the grid, is the whole axis. Where windows do not tile an axis the last
    one is shorter: what lies outside the grid is no key, and a zero value to `place`.
    """
    grid = tuple(qkv.shape[1:-2])
    window = tuple(min(w or n, n) for w, n in zip(window, grid, strict=True))
    over = [-n % w for n, w in zip(grid, window, strict=True)]
    inside = None
    if any(over):
        # functional.pad counts axes from the last.
        margins = [0, 0, 0, 0, *(m for n in reversed(over) for m in (0, n))]
        there = functional.pad(torch.ones(1, *grid, 1, 1, dtype=torch.bool, device=qkv.device), margins)
        inside = _cut(there, window).flatten(1)[:, None, None]  # (stripes, 1, 1, T)
        inside = inside.repeat(qkv.shape[0], 1, 1, 1)  # len() would tie an export to its number of views
        qkv = functional.pad(qkv, margins)
    padded = tuple(qkv.shape[1:-2])
    rows = _cut(qkv, window)  # (R, *window, 3, W)
    q_RHTC, k_RHTC, v_RHTC = rows.flatten(1, -3).unflatten(-1, (-1, head)).permute(2, 0, 3, 1, 4)
    gathered = functional.scaled_dot_product_attention(q_RHTC, k_RHTC, v_RHTC, attn_mask=inside)
    y = gathered.transpose(1, 2).flatten(2).unflatten(1, window)
    y = y + safely(place, rows[..., 2, :].movedim(-1, 1)).movedim(1, -1)
    whole = _joined(y, window, padded)
    for axis, n in enumerate(grid):
        whole = whole.narrow(axis + 1, 0, n)
    return whole


def windows_of(width: tuple[int, ...], shape: Shape) -> tuple[tuple[int, ...], ...]:
    """The window of each group of channels, one for each axis; 0 is the axis' whole extent."""
    axes = range(len(width))
    if shape == "slab":
        return tuple(tuple(width[a] if a == narrow else 0 for a in axes) for narrow in axes)
    return tuple(tuple(0 if a == along else width[a] for a in axes) for along in axes)


def safely(conv: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What a convolution makes of x (B, W, *S), in float32 where a CPU's bfloat16 gradients cannot be trusted."""
    least = min(-(-n // step) for n, step in zip(x.shape[2:], cast(tuple[int, ...], conv.stride), strict=True))
    if x.device.type == "cpu" and least < SAFE_BFLOAT16_EXTENT and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return cast(torch.Tensor, conv(x.float()))
    return cast(torch.Tensor, conv(x))


def _cut(x: torch.Tensor, window: tuple[int, ...]) -> torch.Tensor:
    """Windows (B * windows, *window, ...) of x (B, *S, ...), which they tile."""
    dims = len(window)
    for axis, extent in enumerate(window):
        x = x.unflatten(1 + 2 * axis, (-1, extent))
    outer, inner = range(1, 1 + 2 * dims, 2), range(2, 2 + 2 * dims, 2)
    return x.permute(0, *outer, *inner, *range(1 + 2 * dims, x.ndim)).flatten(0, dims)


def _joined(y: torch.Tensor, window: tuple[int, ...], grid: tuple[int, ...]) -> torch.Tensor:
    """The inverse of `_cut`: (B, *grid, W) of windows (B * windows, *window, W)."""
    dims, counts = len(window), [n // w for n, w in zip(grid, window, strict=True)]
    y = y.unflatten(0, (-1, *counts))
    order = [axis for pair in zip(range(1, 1 + dims), range(1 + dims, 1 + 2 * dims), strict=True) for axis in pair]
    y = y.permute(0, *order, 1 + 2 * dims)
    for axis in range(dims):
        y = y.flatten(1 + axis, 2 + axis)
    return y


def _check(name: str, entries: tuple[tuple[int, ...], ...], levels: int, dims: int) -> None:
    """Nothing; raises UserError for entries that are not one a level, of one positive number an axis."""
    if len(entries) != levels or any(len(entry) != dims or min(entry) < 1 for entry in entries):
        raise UserError(f"trunk.{name}: {entries} needs {levels} entries of {dims} numbers, 1 or more, one a level")
