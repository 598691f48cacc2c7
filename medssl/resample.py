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


def onto_grid(
    volume: Volume, shape: tuple[int, int, int], affine: np.ndarray, order: Interpolation, fill: float
) -> tuple[np.ndarray, np.ndarray | None]:
    """Voxels (C, *shape) at the new grid's centres, and which of them are real (None when all are).

    A new voxel is real when its centre lies inside the old grid's outer box and its nearest old voxel is real.
    """
    to_old = np.linalg.inv(volume.affine) @ affine
    real = np.ones(volume.shape, np.uint8) if volume.valid is None else volume.valid.astype(np.uint8)
    valid = _sample(real, shape, to_old, sitk.sitkNearestNeighbor, 0.0).astype(bool)
    method = sitk.sitkLinear if order == "linear" else sitk.sitkNearestNeighbor
    blur = _blur(to_old) if order == "linear" else np.zeros(3)
    channels = []
    for channel in volume.voxels:
        values = channel.astype(np.float32) if order == "linear" else _widen(channel)
        channels.append(_sample(_smooth(values, blur), shape, to_old, method, fill))
    voxels = np.stack(channels)
    voxels[:, ~valid] = fill
    return voxels.astype(np.float32 if order == "linear" else volume.voxels.dtype), None if valid.all() else valid


def _blur(to_old: np.ndarray) -> np.ndarray:
    """Standard deviation, in old voxels, that a coarser grid needs against aliasing; 0 along axes that get finer."""
    step = np.abs(to_old[:3, :3]).max(axis=1)
    return np.sqrt(np.maximum(step**2 - 1, 0)) / HALF_MAXIMUM_WIDTH


def _smooth(values: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    if not (sigma > 0).any():
        return values
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(values, sigma, mode="nearest")


def _widen(channel: np.ndarray) -> np.ndarray:
    """The channel in a type that SimpleITK holds without loss (bool and float16 have none there)."""
    if channel.dtype == bool:
        return channel.astype(np.uint8)
    return channel.astype(np.float32) if channel.dtype == np.float16 else channel


def _sample(
    values: np.ndarray, shape: tuple[int, int, int], to_old: np.ndarray, method: int, fill: float
) -> np.ndarray:
    # The outer half voxel belongs to the grid but lies beyond the last centre: repeat the edge so that it has values.
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.pad(values, 1, mode="edge").T))
    image.SetOrigin((-1.0, -1.0, -1.0))
    transform = sitk.AffineTransform(to_old[:3, :3].ravel().tolist(), to_old[:3, 3].tolist())
    grid = sitk.ResampleImageFilter()
    grid.SetSize(shape)
    grid.SetInterpolator(method)
    grid.SetTransform(transform)
    grid.SetDefaultPixelValue(float(fill))
    sampled = sitk.GetArrayFromImage(grid.Execute(image)).T
    inside = np.ones(shape, bool)
    for row, size in zip(to_old[:3], values.shape, strict=True):
        index = row[3] + sum(
            row[a] * np.arange(n).reshape([-1 if b == a else 1 for b in range(3)]) for a, n in enumerate(shape)
        )
        inside &= (index >= -0.5 - EDGE_TOLERANCE) & (index <= size - 0.5 + EDGE_TOLERANCE)
    return np.where(inside, sampled, sampled.dtype.type(fill))
