"""A T1-like MR image of a head: skull, folded grey and white matter, ventricles, in RAS+ mm."""

from __future__ import annotations

import numpy as np

from medssl.phantom.texture import coil, ellipsoid, field, grid_points, rician, soft

LOOK = {"Delta MR": (400.0, 0.08, 0.02), "Epsilon MR": (900.0, 0.18, 0.035)}
"""Gain, strength of the bias field and noise of each scanner."""


def t1w(rng: np.random.Generator, affine: np.ndarray, shape: tuple[int, int, int], scanner: str) -> np.ndarray:
    """A T1-like image (I, J, K) on a grid, float and never negative."""
    points = grid_points(shape, affine)
    size = np.array([70.0, 86.0, 72.0]) * rng.uniform(0.93, 1.05)
    folds = field(rng, points, 16.0, 24)
    mirrored = np.stack([np.abs(points[..., 0]), points[..., 1], points[..., 2]], axis=-1)
    horn = ellipsoid(mirrored, np.array([10.0, 2.0, 6.0]), np.array([7.0, 30.0, 12.0]) * rng.uniform(0.8, 1.5))
    gap = np.abs(points[..., 0]) - 1.5 + 20 * (points[..., 2] < 10)
    value = np.zeros(shape)
    layers = [
        (0.75, ellipsoid(points, np.zeros(3), size + 14)),
        (0.06, ellipsoid(points, np.zeros(3), size + 8)),
        (0.18, ellipsoid(points, np.zeros(3), size + 2)),
        (0.50, np.minimum(ellipsoid(points, np.zeros(3), size) - 1.5 * np.abs(folds), gap)),
        (0.82, np.minimum(ellipsoid(points, np.zeros(3), size) - 9 - 5 * folds, gap - 3)),
        (0.15, horn),
    ]
    for bright, depth in layers:
        cover = soft(depth, 2.0)
        value = value * (1 - cover) + bright * cover
    gain, bias, noise = LOOK[scanner]
    return gain * rician(rng, value * coil(rng, points, bias), noise)
