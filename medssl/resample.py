"""Putting a volume's values on another grid, by SimpleITK.

Interpolation depends only on the map from new voxel indices to old ones. That map is handed to SimpleITK as an affine
transform between two unit grids, so sheared affines (a tilted CT gantry) work too: SimpleITK's own images only hold
orthonormal directions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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

SHARPEST_BLUR = 0.01
"""Standard deviation in old voxels below which smoothing changes nothing but rounding."""


def onto_grid(
    volume: Volume, shape: tuple[int, int, int], affine: np.ndarray, order: Interpolation, fill: float
) -> tuple[np.ndarray, np.ndarray | None]:
    """Voxels (C, *shape) at the new grid's centres, and which of them are real (None when all are).

    A new voxel is real when its centre lies inside the old grid's outer box and its nearest old voxel is real. Old
    voxels that are not real have no weight in a linear result, so padding does not bleed into what was measured.
    """
    to_old = np.linalg.inv(volume.affine) @ affine
    to_old = np.where(np.abs(to_old - np.round(to_old)) < ROUNDING, np.round(to_old), to_old)
    valid = _inside(volume.shape, shape, to_old)
    if volume.valid is not None:
        valid &= _sample(volume.valid.astype(np.uint8), shape, to_old, sitk.sitkNearestNeighbor).astype(bool)
    if order == "linear":
        voxels = _linear(volume, shape, to_old, valid)
    else:
        nearest = [_sample(_widen(channel), shape, to_old, sitk.sitkNearestNeighbor) for channel in volume.voxels]
        voxels = np.stack(nearest).astype(volume.voxels.dtype)
    voxels[:, ~valid] = fill
    return voxels, None if valid.all() else valid


def _linear(volume: Volume, shape: tuple[int, int, int], to_old: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Float32 voxels (C, *shape), each a mean of the real old voxels around it; where `valid` is False, anything."""
    blur = _blur(to_old)
    if volume.valid is None or volume.valid.all():
        channels = [_smooth(channel.astype(np.float32), blur) for channel in volume.voxels]
        return np.stack([_sample(channel, shape, to_old, sitk.sitkLinear) for channel in channels])
    weight = _sample(_smooth(volume.valid.astype(np.float32), blur), shape, to_old, sitk.sitkLinear)
    weight[~valid] = 1
    channels = [_smooth(np.where(volume.valid, c, 0).astype(np.float32), blur) for c in volume.voxels]
    return np.stack([_sample(channel, shape, to_old, sitk.sitkLinear) / weight for channel in channels])


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
