"""Residual convolutional encoder with an anisotropic pyramid.

The layout of the residual encoders of nnU-Net (Isensee et al., MICCAI 2024, arXiv:2404.09556): stages of residual blocks,
each after the first opened by a strided convolution, and before them nnU-Net's stem if asked for. Strides are given for
each axis, so that thick slices are not pooled before the plane is; kernels likewise, so that they are not mixed before.
Differs: pre-activation is not used and the norm is followed by a leaky ReLU throughout, in 2D and 3D alike.
"""

# B batch, W width, *S space
from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import nn

from medssl.errors import UserError
from medssl.recipe import Count, Whole
from medssl.trunks.features import Features
from medssl.trunks.seen_conv import Seen
from medssl.trunks.seen_norm import norm_of_seen
from medssl.views.masks import spread

CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
INSTANCE: dict[int, Any] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
POOL: dict[int, Any] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}

GROUP = 16
"""Most channels that share a mean and a variance, where the norm is by group; fewer if it does not divide the width."""

Norm = Literal["instance", "group", "ibn"]

SAFE_BFLOAT16_EXTENT = 3
"""Extent in voxels of the output below which a CPU convolution runs in float32: with torch 2.13 the bfloat16 weight gradient
of a 3D convolution is then garbage for some channels and kernels (relative error 1 or nan, where other extents have 0.003),
and that of a strided one writes past its memory, which ends the process. With kernels of 1 along some axes too."""


class ResEnc(nn.Module):
    """A pyramid of `len(widths)` levels. `strides` has one entry a level, of a number for each axis; the first is 1.
    `kernels` likewise, odd numbers, 3 by default: where slices are thick, (3, 3, 1) until the plane is pooled to their
    thickness, which `medssl plan` writes.

    What a hidden cell held cannot reach any feature. `hide` "token" puts `hidden`, a learned value, in its place before
    the first convolution. "sparse" (SparK: Tian et al., ICLR 2023, arXiv:2301.03580) computes on seen cells alone, as if
    hidden ones were zero after every layer, with norms whose statistics are of seen voxels, and puts a learned vector for
    each level there at the end: the network never sees the mask's pattern as an image, and what it learns of norms is true
    where nothing is hidden. Differs from SparK: the norms are of single scans; the decoder's own convolutions make the
    levels dense. The mask's cells are those of the coarsest level.

    `norms` has one entry a level; without, all are "instance", which takes every channel's own mean off, as nnU-Net does:
    learns fast from labels, but the mean over a channel, which is what `pooled` holds, then says little until labels teach
    it to. "group" (Wu and He, ECCV 2018, arXiv:1803.08494) takes the mean of several channels off and leaves how they
    differ: frozen features tell more, and learning from labels alone is slower. Fine levels by instance and coarse ones by
    group is the mean of both: appearance goes early, what was seen stays. "ibn" mixes within a level (IBN-a: Pan et al.,
    ECCV 2018, arXiv:1807.09441, who use it in all levels but the last): the first norm of each block is by instance for the
    first half of the channels and by group for the others, the norms that meet the shortcut are by group. Differs: by group
    and not by batch, as batches of volumes are small. Where a voxel's value is the signal, as in CT, take none by instance.

    A level has `blocks` blocks after the one that opens it, or, counted in all, as many as `depths` says. `stem` puts a
    convolution before the first level. With it and depths (1, 3, 4, 6, 6, 6), widths (32, 64, 128, 256, 320, 320), it
    computes what nnU-Net's ResEnc-L encoder does, but for biases that its norms take off again, and can have its weights.
    """

    def __init__(
        self,
        *,
        size: tuple[int, ...],
        channels: Count = 1,
        widths: tuple[Count, ...] = (16, 32, 64, 128),
        strides: tuple[tuple[Count, ...], ...] = (),
        blocks: Whole = 1,
        hide: Literal["token", "sparse"] = "token",
        norms: tuple[Norm, ...] = (),
        kernels: tuple[tuple[Count, ...], ...] = (),
        depths: tuple[Count, ...] = (),
        stem: bool = False,
    ) -> None:
        super().__init__()
        if not widths:
            raise UserError("trunk.widths: empty; give the channels of each level, e.g. [32, 64, 128]")
        self.dims, self.channels, self.widths, self.dim = len(size), channels, widths, widths[-1]
        steps = strides or tuple((1 if level == 0 else 2,) * self.dims for level in range(len(widths)))
        if len(steps) != len(widths) or any(len(step) != self.dims for step in steps):
            raise UserError(f"trunk.strides: {steps} needs one entry of {self.dims} numbers for each of {widths}")
        self.kernels = kernels or tuple((3,) * self.dims for _ in widths)
        odd = all(len(kernel) == self.dims and all(n > 0 and n % 2 for n in kernel) for kernel in self.kernels)
        if len(self.kernels) != len(widths) or not odd:
            raise UserError(f"trunk.kernels: {kernels} needs one entry of {self.dims} odd numbers for each of {widths}")
        kinds: list[Norm] = [*norms] or ["instance" for _ in widths]
        if len(kinds) != len(widths):
            raise UserError(f"trunk.norms: {list(norms)} needs one entry for each of the {len(widths)} levels {widths}")
        counts = depths or (blocks + 1,) * len(widths)
        if len(counts) != len(widths) or min(counts) < 1:
            raise UserError(f"trunk.depths: {depths} needs one entry, 1 or more, for each of the {len(widths)} levels")
        self.strides = tuple(
            tuple(int(torch.tensor([s[a] for s in steps[: n + 1]]).prod()) for a in range(self.dims))
            for n in range(len(steps))
        )
        self.cell, self.sparse, self.norms = self.strides[-1], hide == "sparse", kinds
        self.fills = not self.sparse
        self._check(size)
        tokens = [nn.init.trunc_normal_(torch.zeros(width), std=0.02) for width in widths] if self.sparse else []
        self.hidden = nn.ParameterList(tokens or [torch.zeros(channels)])
        self.stem = Stem(self.dims, channels, widths[0], kinds[0], self.kernels[0]) if stem else None
        before = (widths[0] if stem else channels, *widths[:-1])
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    Residual(
                        self.dims, a if n == 0 else b, b, tuple(step) if n == 0 else (1,) * self.dims, norm, kernel
                    )
                    for n in range(count)
                )
            )
            for a, b, step, norm, kernel, count in zip(before, widths, steps, kinds, self.kernels, counts, strict=True)
        )

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> Features:
        """Features of views (B, C, *S); `mask` (B, *S / cell) hides whole cells."""
        self._check(tuple(x.shape[2:]))
        if mask is None:
            return self._dense(x)
        there = ~mask.to(x.device)
        if not self.sparse:
            return self._dense(_filled(x, there, self.hidden[0]))
        return self._of_seen(x, there)

    def _check(self, size: tuple[int, ...]) -> None:
        """Nothing; raises UserError where an instance norm would have the spread of a single voxel to divide by."""
        for step, norm in zip(self.strides, self.norms, strict=True):
            if norm != "group" and all(n <= one for n, one in zip(size, step, strict=True)):
                raise UserError(
                    f"trunk.strides: {step} in all leave one voxel of a view of {size}, which has no spread to norm by; "
                    "enlarge views.size (or views.small.size), use fewer levels or strides, or group in trunk.norms there"
                )

    def _dense(self, x: torch.Tensor) -> Features:
        x = x if self.stem is None else self.stem(x)
        pyramid = []
        for stage in self.stages:
            x = stage(x)
            pyramid.append(x)
        return Features(tuple(pyramid), x.flatten(2).mean(2))

    def _of_seen(self, x: torch.Tensor, there: torch.Tensor) -> Features:
        seen = Seen(there)
        x = seen.gathered(x)
        x = x if self.stem is None else self.stem(x, seen)
        pyramid = []
        for stage, hidden in zip(self.stages, self.hidden, strict=True):
            for block in cast(nn.Sequential, stage):
                x = block(x, seen)
            pyramid.append(seen.placed(x, hidden))
        # The coarsest level has one voxel a cell.
        total = seen.placed(x, torch.zeros_like(self.hidden[-1])).flatten(2).sum(2)
        return Features(tuple(pyramid), total / there.flatten(1).sum(1)[:, None])


def _filled(x: torch.Tensor, seen: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`x` (B, W, *S) with `value` (W,) wherever a cell of `seen` (B, *grid) is False."""
    return torch.where(spread(seen, tuple(x.shape[2:])), x, value.view(1, -1, *[1] * (x.ndim - 2)).to(x.dtype))


class Stem(nn.Module):
    """A convolution at full resolution, a norm and a leaky ReLU."""

    def __init__(self, dims: int, before: int, after: int, norm: Norm, kernel: tuple[int, ...]) -> None:
        super().__init__()
        margin = tuple(n // 2 for n in kernel)
        self.body = nn.Sequential(
            CONV[dims](before, after, kernel, padding=margin, bias=False), _norm(norm, dims, after), nn.LeakyReLU(0.01)
        )

    def forward(self, x: torch.Tensor, seen: Seen | None = None) -> torch.Tensor:
        """The stem's output (B, after, *S); x may be the blocks of `seen` (N, before, *p), and then so is it."""
        if x.device.type == "cpu" and min(x.shape[2:]) < SAFE_BFLOAT16_EXTENT and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return self.forward(x.float(), seen)
        return self.body(x) if seen is None else _on_seen(self.body, x, seen)


class Residual(nn.Module):
    """Two convolutions, 3x3 by default, beside a shortcut; the first may stride, and then the shortcut averages."""

    def __init__(
        self,
        dims: int,
        before: int,
        after: int,
        stride: tuple[int, ...],
        norm: Norm = "instance",
        kernel: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        conv, self.stride = CONV[dims], stride
        kernel = kernel or (3,) * dims
        margin = tuple(n // 2 for n in kernel)
        met: Norm = "group" if norm == "ibn" else norm
        self.body = nn.Sequential(
            conv(before, after, kernel, stride, margin, bias=False),
            _norm(norm, dims, after),
            nn.LeakyReLU(0.01),
            conv(after, after, kernel, padding=margin, bias=False),
            _norm(met, dims, after),
        )
        shrink: nn.Module = POOL[dims](stride, stride) if max(stride) > 1 else nn.Identity()
        # Without a norm here the scanner's brightness would run past every norm of the body, straight into the features.
        widen = [conv(before, after, 1, bias=False), _norm(met, dims, after)] if before != after else []
        self.shortcut = nn.Sequential(shrink, *widen)
        self.act = nn.LeakyReLU(0.01)

    def forward(self, x: torch.Tensor, seen: Seen | None = None) -> torch.Tensor:
        """The block's output (B, after, *S / stride); x may be the blocks of `seen` (N, before, *p), and then so is it."""
        least = min(-(-n // step) for n, step in zip(x.shape[2:], self.stride, strict=True))
        if x.device.type == "cpu" and least < SAFE_BFLOAT16_EXTENT and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return self.forward(x.float(), seen)
        if seen is None:
            return self.act(self.body(x) + self.shortcut(x))
        return self.act(_on_seen(self.body, x, seen) + _on_seen(self.shortcut, x, seen))


class HalfInstance(nn.Module):
    """The first half of the channels normed by instance, the others by group."""

    def __init__(self, dims: int, width: int) -> None:
        super().__init__()
        self.widths = (width // 2, width - width // 2)
        self.parts = nn.ModuleList([_norm("instance", dims, self.widths[0]), _norm("group", dims, self.widths[1])])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, W, *S), normed."""
        return torch.cat([norm(half) for norm, half in zip(self.parts, x.split(self.widths, 1), strict=True)], 1)


NORMS = nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm, HalfInstance


def _norm(kind: Norm, dims: int, width: int) -> nn.Module:
    if kind == "ibn":
        return HalfInstance(dims, width)
    if kind == "group":
        shared = max(n for n in range(1, GROUP + 1) if width % n == 0)
        return nn.GroupNorm(width // shared, width)
    return cast(nn.Module, INSTANCE[dims](width, affine=True))


def _on_seen(layers: nn.Sequential, x: torch.Tensor, seen: Seen) -> torch.Tensor:
    """What the layers make of seen cells (N, W, *p): of nothing else."""
    for layer in layers:
        if isinstance(layer, NORMS):
            x = _normed(layer, x, seen)
        elif isinstance(layer, nn.Conv2d | nn.Conv3d):
            x = seen.convolved(x, layer)
        else:
            x = layer(x)
    return x


def _normed(norm: nn.Module, x: torch.Tensor, seen: Seen) -> torch.Tensor:
    """The norm by the mean and variance of what is seen of a row. InstanceNorm is of groups of one."""
    if isinstance(norm, HalfInstance):
        halves = zip(norm.parts, x.split(norm.widths, 1), strict=True)
        return torch.cat([_normed(part, half, seen) for part, half in halves], 1)
    groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else x.shape[1]
    return norm_of_seen(x, seen, groups, norm.weight, norm.bias, norm.eps)  # type: ignore[arg-type]
