"""Putting a volume's values on another grid: axis by axis where the grids are parallel, else by SimpleITK.

Interpolation depends only on the map from new voxel indices to old ones. Where every old axis follows one new axis, as
between all grids that differ by spacing, extent and turns of 90 degrees, smoothing and linear interpolation are one
sparse matrix an axis: the same values as by SimpleITK to rounding, in a fraction of the time. Other maps are handed to
SimpleITK as an affine transform between two unit grids, so sheared affines (a tilted CT gantry) work too: SimpleITK's
own images only hold orthonormal directions.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import SimpleITK as sitk

if TYPE_CHECKING:
    from medssl.volume import Interpolation, Volume

HALF_MAXIMUM_WIDTH = 2.355
"""Full width at half maximum of a Gaussian, in standard deviations."""

EDGE_TOLERANCE = 1e-6
"""Fraction of a voxel that rounding may push an index outside the grid and still count as on its edge."""


ROUNDING = 1e-9
"""Voxels by which an entry of the map may miss a whole number from rounding alone: the same grid gives the same values."""

BLOCK = 16
"""Planes that are turned at a time: as many values as a line of the processor's cache holds."""

SHARPEST_BLUR = 0.01
"""Standard deviation in old voxels below which smoothing changes nothing but rounding."""


class Line(NamedTuple):
    """The new axis that an old axis follows, and where on the old axis its centres lie, in old voxels."""

    axis: int
    centres: np.ndarray


Lines = list[Line]


def onto_grid(
    volume: Volume, shape: tuple[int, int, int], affine: np.ndarray, order: Interpolation, fill: float
) -> tuple[np.ndarray, np.ndarray | None]:
    """Voxels (C, *shape) at the new grid's centres, and which of them are real (None when all are).

    A new voxel is real when its centre lies inside the old grid's outer box and its nearest old voxel is real. Old
    voxels that are not real have no weight in a linear result, so padding does not bleed into what was measured.
    """
    to_old = np.linalg.inv(volume.affine) @ affine
    to_old = np.where(np.abs(to_old - np.round(to_old)) < ROUNDING, np.round(to_old), to_old)
    lines = _lines(shape, to_old)
    valid = _inside(volume.shape, shape, to_old) if lines is None else _between(volume.shape, lines)
    if volume.valid is not None:
        valid = valid & _nearest(volume.valid, shape, to_old, lines)
    if order == "linear":
        voxels = _linear(volume, shape, to_old, lines, valid)
    else:
        voxels = _together([_nearest(channel, shape, to_old, lines) for channel in volume.voxels])
    whole = bool(valid.all())
    if not whole:
        np.copyto(voxels, voxels.dtype.type(fill), where=~valid)
    return voxels, None if whole else valid


def _nearest(values: np.ndarray, shape: tuple[int, int, int], to_old: np.ndarray, lines: Lines | None) -> np.ndarray:
    """The nearest old value at each new centre, the upper one halfway; beyond the old grid, anything."""
    if lines is None:
        return _sample(_widen(values), shape, to_old, sitk.sitkNearestNeighbor).astype(values.dtype)
    wanted = [
        np.floor(line.centres + 0.5 + ROUNDING).clip(0, n - 1).astype(int)
        for line, n in zip(lines, values.shape, strict=True)
    ]
    order = np.argsort([-abs(step) for step in values.strides], kind="stable")  # as they lie in memory
    found = values.transpose(order)[np.ix_(*(wanted[a] for a in order))]
    return np.ascontiguousarray(found.transpose(np.argsort([lines[a].axis for a in order])))


def _linear(
    volume: Volume, shape: tuple[int, int, int], to_old: np.ndarray, lines: Lines | None, valid: np.ndarray
) -> np.ndarray:
    """Float32 voxels (C, *shape), each a mean of the real old voxels around it; where `valid` is False, anything."""
    blur = _blur(to_old)

    def at_centres(values: np.ndarray, real: np.ndarray | None = None) -> np.ndarray:
        if lines is not None:
            return _by_axes(values, lines, blur, real)
        known = values.astype(np.float32)
        if real is not None:
            np.copyto(known, 0, where=~real)
        return _sample(_smooth(known, blur), shape, to_old, sitk.sitkLinear)

    if volume.valid is None or volume.valid.all():
        return _together([at_centres(channel) for channel in volume.voxels])
    weight = at_centres(volume.valid)
    np.copyto(weight, 1, where=~valid)
    return _together([at_centres(channel, volume.valid) / weight for channel in volume.voxels])


def _together(channels: list[np.ndarray]) -> np.ndarray:
    """The channels (I, J, K) as one array (C, I, J, K); a single one is not copied."""
    return channels[0][None] if len(channels) == 1 else np.stack(channels)


def _lines(shape: tuple[int, int, int], to_old: np.ndarray) -> Lines | None:
    """Where the new centres lie along each old axis; None when an old axis follows several new ones."""
    turn = np.abs(to_old[:3, :3]) > 0
    if not (turn.sum(axis=0) == 1).all() or not (turn.sum(axis=1) == 1).all():
        return None
    along = turn.argmax(axis=1)
    return [Line(int(a), to_old[n, a] * np.arange(shape[a]) + to_old[n, 3]) for n, a in enumerate(along)]


def _between(old: tuple[int, int, int], lines: Lines) -> np.ndarray:
    """Which new voxels have their centre within the old grid, as `_inside`."""
    inside = [
        (line.centres >= -0.5 - EDGE_TOLERANCE) & (line.centres <= n - 0.5 + EDGE_TOLERANCE)
        for line, n in zip(lines, old, strict=True)
    ]
    i, j, k = (inside[n] for n in np.argsort([line.axis for line in lines]))
    return i[:, None, None] & j[:, None] & k


def _by_axes(values: np.ndarray, lines: Lines, blur: np.ndarray, real: np.ndarray | None = None) -> np.ndarray:
    """Float32 values at the new centres, C-ordered: each axis smoothed and interpolated by one matrix.

    Where `real` is False a value counts as 0. The axis whose neighbours lie next to each other in memory comes last:
    products run along whole rows.
    """
    strides = np.empty_like(values, np.float32).strides  # positive, in the order of the axes in memory
    order = [int(a) for a in np.argsort([-step for step in strides], kind="stable")]
    there, real = values.transpose(order), None if real is None else real.transpose(order)
    slow, middle, fast = (_matrix(lines[a], values.shape[a], blur[a]) for a in order)
    out = np.empty([len(line.centres) for line in sorted(lines, key=lambda line: line.axis)], np.float32)
    turned = order if fast is None else [order[0], order[2], order[1]]
    target = out.transpose([lines[a].axis for a in turned])
    planes = _planes(there, real, slow, middle)
    for block in _blocks(len(target)):
        few = islice(planes, block.stop - block.start)
        target[block] = [plane if fast is None else fast @ np.ascontiguousarray(plane.T) for plane in few]
    return out


def _planes(there: np.ndarray, real: np.ndarray | None, slow: Any, middle: Any) -> Iterator[np.ndarray]:
    """Each new plane with the two slower axes done, the one that shrinks more first.

    Only what has shrunk is ever held whole: moving it through memory takes longer than the sums.
    """

    def known(part: Any) -> np.ndarray:
        found = np.array(there[part], np.float32, order="C")
        if real is not None:
            np.copyto(found, 0, where=~real[part])
        return found

    count, rows, columns = there.shape
    if slow is None:
        for n in range(count):
            yield _times(middle, known(n))
    elif _growth(middle) < _growth(slow):
        half = np.empty((count, rows if middle is None else middle.shape[0], columns), np.float32)
        for n in range(count):
            # A round field of view is the same in every slice: what is valid need not be smoothed anew for each.
            again = n and there.dtype == bool and np.array_equal(there[n], there[n - 1])
            half[n] = half[n - 1] if again else _times(middle, known(n))
        for block in _blocks(slow.shape[0]):
            yield from _times(slow[block], half)
    else:
        half = np.empty((slow.shape[0], rows, columns), np.float32)
        for block in _blocks(rows):
            half[:, block] = _times(slow, known((slice(None), block)))
        for plane in half:
            yield _times(middle, plane)


def _growth(matrix: Any) -> float:
    return 1.0 if matrix is None else matrix.shape[0] / matrix.shape[1]


def _blocks(size: int) -> Iterator[slice]:
    """The numbers up to `size`, BLOCK at a time."""
    return (slice(first, min(first + BLOCK, size)) for first in range(0, size, BLOCK))


def _times(matrix: Any, values: np.ndarray) -> np.ndarray:
    """The matrix (new, old) applied along the first axis of C-ordered values; the values where there is no matrix."""
    return values if matrix is None else (matrix @ values.reshape(len(values), -1)).reshape(-1, *values.shape[1:])


def _matrix(line: Line, size: int, sigma: float) -> Any:
    """The sparse matrix (new, old) that smooths and interpolates along an axis; None where it would change nothing."""
    from scipy.ndimage import gaussian_filter1d
    from scipy.sparse import csr_array

    if len(line.centres) == size and (line.centres == np.arange(size)).all():
        return None
    place = line.centres.clip(0, size - 1)
    low = np.minimum(place.astype(int), max(size - 2, 0))
    high, rows = np.minimum(low + 1, size - 1), np.arange(len(place))
    weights = np.zeros((len(place), size))
    np.add.at(weights, (rows, low), 1 - (place - low))
    np.add.at(weights, (rows, high), place - low)
    if sigma > SHARPEST_BLUR:
        weights = weights @ gaussian_filter1d(np.eye(size), sigma, axis=0, mode="nearest")
    return csr_array(weights.astype(np.float32))


def _inside(old: tuple[int, int, int], shape: tuple[int, int, int], to_old: np.ndarray) -> np.ndarray:
    """Which new voxels have their centre within the old grid, counted from voxel edge to voxel edge."""
    inside = np.ones(shape, bool)
    steps = [
        np.arange(n, dtype=np.float64).reshape([-1 if b == a else 1 for b in range(3)]) for a, n in enumerate(shape)
    ]
    for row, size in zip(to_old[:3], old, strict=True):
        index = row[3] + sum(row[a] * step for a, step in enumerate(steps) if row[a])
        inside &= (index >= -0.5 - EDGE_TOLERANCE) & (index <= size - 0.5 + EDGE_TOLERANCE)
    return inside


def _blur(to_old: np.ndarray) -> np.ndarray:
    """Standard deviation, in old voxels, that a coarser grid needs against aliasing; 0 along axes that get finer.

    The width of a new voxel along an old axis is the length of the row: right for turned grids too.
    """
    step = np.linalg.norm(to_old[:3, :3], axis=1)
    return np.sqrt(np.maximum(step**2 - 1, 0)) / HALF_MAXIMUM_WIDTH


def _smooth(values: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    if not (sigma > SHARPEST_BLUR).any():
        return values
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(values, np.where(sigma > SHARPEST_BLUR, sigma, 0), mode="nearest")


def _widen(channel: np.ndarray) -> np.ndarray:
    """The channel in a type that SimpleITK holds without loss (bool and float16 have none there)."""
    if channel.dtype == bool:
        return channel.astype(np.uint8)
    return channel.astype(np.float32) if channel.dtype == np.float16 else channel


def _sample(values: np.ndarray, shape: tuple[int, int, int], to_old: np.ndarray, method: int) -> np.ndarray:
    """Values (I, J, K) at the new grid's centres; beyond the old grid, 0 or the edge repeated."""
    # The outer half voxel belongs to the grid but lies beyond the last centre: repeat the edge so that it has values.
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.pad(values, 1, mode="edge").T))
    image.SetOrigin((-1.0, -1.0, -1.0))
    grid = sitk.ResampleImageFilter()
    grid.SetSize(shape)
    grid.SetInterpolator(method)
    grid.SetTransform(sitk.AffineTransform(to_old[:3, :3].ravel().tolist(), to_old[:3, 3].tolist()))
    return sitk.GetArrayFromImage(grid.Execute(image)).T
