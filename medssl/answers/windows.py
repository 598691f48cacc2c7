"""A volume judged window by window, of which no more is held than what further windows still add to.

Windows overlap, and what they say of a voxel is averaged with Gaussian weights: places, weights and result are those of
MONAI's sliding_window_inference, which holds the whole volume, all sums and all weights instead.
"""

# B windows, C classes, I, J, K voxels of a volume
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, combinations, product
from typing import NamedTuple

import numpy as np
import torch
from monai.data.utils import compute_importance_map

SIGMA = 0.125
"""Standard deviation of the weights, as a share of a window's extent (nnU-Net's, and MONAI's)."""

AT_ONCE = 1 << 19
"""Voxels judged together: many small windows keep a device busy, a large one does so alone."""

Grid = tuple[int, int, int]


class Window(NamedTuple):
    """The first voxel of a window, negative where it sticks out of the volume, and the axes along which it is mirrored."""

    start: Grid
    mirrored: tuple[int, ...] = ()


class Slab(NamedTuple):
    """Planes along `axis`, from number `first` on, to which nothing is added any more: (C, I, J, K)."""

    axis: int
    first: int
    values: torch.Tensor

    def of(self, whole: np.ndarray) -> np.ndarray:
        """Its part of an array (I, J, K)."""
        planes = slice(self.first, self.first + self.values.shape[self.axis + 1])
        return whole[(*[slice(None)] * self.axis, planes)]


def ways(flips: Sequence[int]) -> list[tuple[int, ...]]:
    """Every way to mirror along some of the axes `flips`, none at all first."""
    return [*chain.from_iterable(combinations(sorted(set(flips)), n) for n in range(len(set(flips)) + 1))]


def windows(shape: Grid, size: Grid, overlap: float, flips: Sequence[int] = ()) -> list[Window]:
    """Windows of `size` that cover a volume, and for each way to mirror it those of the mirrored volume.

    A volume that is smaller than a window lies in its middle.
    """
    starts = [_starts(*axis, overlap) for axis in zip(shape, size, strict=True)]
    found = []
    for mirrored in ways(flips):
        there = [
            [n - width - start for start in some] if axis in mirrored else some
            for axis, (n, width, some) in enumerate(zip(shape, size, starts, strict=True))
        ]
        found += [Window((i, j, k), mirrored) for i, j, k in product(*there)]
    return found


def blended(
    view: Callable[[Grid], torch.Tensor], answer: Callable[[torch.Tensor], torch.Tensor], shape: Grid, size: Grid,
    *, overlap: float, flips: Sequence[int] = (),
) -> Iterator[Slab]:  # fmt: skip
    """What `answer` says of a volume of `shape`, slab after slab along the axis along which the least is held.

    `view` gives the window (channels, *size) that begins at a voxel, `answer` (B, C, *size) for windows (B, channels,
    *size). A slab is overwritten when the next one is asked for. With `flips`, windows are judged as they are and mirrored
    along these axes in all ways, each at the places that it has in the volume mirrored likewise: a mirrored volume gives
    the mirrored answer.
    """
    axis = min(range(3), key=lambda a: size[a] / shape[a])
    todo = sorted(windows(shape, size, overlap, flips), key=lambda one: one.start[axis])
    many = max(1, AT_ONCE // math.prod(size))
    weight, sums, first = torch.empty(0), torch.empty(0), 0
    for number in range(0, len(todo), many):
        few = todo[number : number + many]
        found = answer(torch.stack([turned(view(one.start), one.mirrored) for one in few])).float()
        if not sums.numel():
            held = [min(n, width) if a == axis else n for a, (n, width) in enumerate(zip(shape, size, strict=True))]
            sums = found.new_zeros(found.shape[1] + 1, *held)  # the weights come last
            weight = weights(size).to(found.device)
        for one, said in zip(few, found, strict=True):
            low = max(one.start[axis], 0)
            if low > first:
                yield _finished(sums, axis, first, low - first)
                _move_on(sums, axis, low - first)
                first = low
            inside, there = _meet(one.start, size, shape, axis, first)
            sums[(slice(-1), *there)] += (turned(said, one.mirrored) * weight)[(slice(None), *inside)]
            sums[-1][there] += weight[inside]
    yield _finished(sums, axis, first, shape[axis] - first)


def weights(size: Grid) -> torch.Tensor:
    """How much what a window says of each of its voxels counts, (*size): least at its rim, never nothing."""
    dims = size[:2] if size[2] == 1 else size
    return torch.as_tensor(compute_importance_map(dims, "gaussian", SIGMA)).reshape(size)


def turned(x: torch.Tensor, mirrored: tuple[int, ...]) -> torch.Tensor:
    """Values (..., I, J, K) mirrored along axes."""
    return x.flip([axis + x.ndim - 3 for axis in mirrored]) if mirrored else x


def _starts(n: int, width: int, overlap: float) -> list[int]:
    if n <= width:
        return [-((width - n) // 2)]
    step = max(1, int(width * (1 - overlap)))
    return [min(start, n - width) for start in range(0, n - width + step, step)]


def _meet(start: Grid, size: Grid, shape: Grid, axis: int, first: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """What of a window lies in the volume, and where among the sums, which begin at plane `first`."""
    inside, there = [], []
    for a, (begin, width, n) in enumerate(zip(start, size, shape, strict=True)):
        low, high, origin = max(begin, 0), min(begin + width, n), first if a == axis else 0
        inside.append(slice(low - begin, high - begin))
        there.append(slice(low - origin, high - origin))
    return tuple(inside), tuple(there)


def _finished(sums: torch.Tensor, axis: int, first: int, planes: int) -> Slab:
    done = sums.narrow(axis + 1, 0, planes)
    return Slab(axis, first, done[:-1].div_(done[-1:]))


def _move_on(sums: torch.Tensor, axis: int, planes: int) -> None:
    """Nothing; the sums begin so many planes later."""
    left = sums.shape[axis + 1] - planes
    if left:
        sums.narrow(axis + 1, 0, left).copy_(sums.narrow(axis + 1, planes, left).clone())
    sums.narrow(axis + 1, left, planes).zero_()
