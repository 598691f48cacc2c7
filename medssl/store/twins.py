"""Copies of one image under different names: identical voxels, and images that look the same.

A sketch is 64 bits: the signs, against their median, of an image's lowest cosine frequencies (a perceptual hash; Zauner,
"Implementation and benchmarking of perceptual image hash functions", 2010), here in two or three dimensions. It stays
nearly the same when an image is scaled, compressed or windowed differently. Sketches only propose: two images are told as
near-duplicates when their thumbnails, too, are correlated like copies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

THUMBNAIL = {2: 32, 3: 16}
"""Edge of the thumbnail of a picture and of a volume, in pixels."""

LOWEST = {2: 8, 3: 4}
"""How many frequencies of each axis enter the sketch: 64 in all."""

BITS, MAXIMUM_DISTANCE = 64, 8
"""Length of a sketch, and how many bits those of two copies may differ in."""

COPY_CORRELATION = 0.98
"""Of the thumbnails of two copies, at least. `python benchmarks/twins.py` measures both sides of this bar: different images
reach .96 (chest radiographs) and .86 (hippocampus MR), copies scaled, compressed or windowed .986 and more. A copy that
was also cropped by 2 % is mostly missed.
"""


@dataclass(frozen=True, eq=False)
class Sketch:
    """What is kept of an image to find its copies: 64 bits, and a thumbnail of mean 0 and length 1."""

    bits: int
    thumbnail: np.ndarray


def sketch(image: np.ndarray) -> Sketch | None:
    """The sketch of the first channel of an image (C, I, J, K), where K == 1 is a picture. None for a constant one."""
    from scipy.fft import dctn

    values = image[0].astype(np.float64)
    values = values[..., 0] if values.shape[-1] == 1 else values
    for axis in range(values.ndim):
        values = _averaged(values, axis, THUMBNAIL[values.ndim])
    values -= values.mean()
    length = np.linalg.norm(values)
    if not length > 0:
        return None
    low = dctn(values, norm="ortho")[(slice(LOWEST[values.ndim]),) * values.ndim].ravel()
    bits = np.packbits(low > np.median(low))
    return Sketch(int.from_bytes(bits.tobytes(), "big"), (values / length).astype(np.float32))


def _averaged(values: np.ndarray, axis: int, size: int) -> np.ndarray:
    """The means of `values` in `size` equal pieces of an axis, whose borders may cut through voxels."""
    values = np.moveaxis(values, axis, -1)
    n = values.shape[-1]
    sums = np.concatenate([np.zeros((*values.shape[:-1], 1)), np.cumsum(values, -1)], -1)
    edges = np.linspace(0, n, size + 1)
    below = np.minimum(edges.astype(int), n - 1)
    at = sums[..., below] + (edges - below) * values[..., below]
    return np.moveaxis(np.diff(at, axis=-1) * size / n, -1, axis)


def near_duplicates(sketches: Sequence[Sketch]) -> Iterator[tuple[int, int, float]]:
    """Each pair of images that look like copies, once, with the correlation of their thumbnails.

    Exact: sketches that differ in at most 8 bits agree in at least one of 9 bands, so only those are compared.
    """
    bands = MAXIMUM_DISTANCE + 1
    edges = np.linspace(0, BITS, bands + 1).astype(int)
    seen = set()
    for low, high in pairwise(edges):
        same = defaultdict(list)
        for number, one in enumerate(sketches):
            same[one.thumbnail.ndim, one.bits >> int(low) & ((1 << int(high - low)) - 1)].append(number)
        for numbers in same.values():
            for first, second in combinations(numbers, 2):
                if (first, second) in seen or not _are_near(sketches[first], sketches[second]):
                    continue
                seen.add((first, second))
                alike = float(np.vdot(sketches[first].thumbnail, sketches[second].thumbnail))
                if alike >= COPY_CORRELATION:
                    yield first, second, alike


def _are_near(first: Sketch, second: Sketch) -> bool:
    return (first.bits ^ second.bits).bit_count() <= MAXIMUM_DISTANCE
