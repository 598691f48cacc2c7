"""What makes a phantom look scanned: smooth random fields in world millimetres, soft edges, receive coils."""

from __future__ import annotations

import numpy as np


def grid_points(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """World millimetres (I, J, K, 3) of all voxel centres, RAS+."""
    index = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float64) for n in shape), indexing="ij"), axis=-1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def field(rng: np.random.Generator, points: np.ndarray, length_mm: float, waves: int = 16) -> np.ndarray:
    """A smooth random field at points (..., D), mean 0 and variance about 1, with structures of about `length_mm`.

    A sum of plane waves, so that series on different grids see the same texture when they draw from equal generators.
    """
    dims = points.shape[-1]
    direction = rng.normal(size=(waves, dims))
    direction *= (
        (2 * np.pi / length_mm) * rng.uniform(0.5, 1.2, (waves, 1)) / np.linalg.norm(direction, axis=1)[:, None]
    )
    phase = rng.uniform(0, 2 * np.pi, waves)
    total = np.zeros(points.shape[:-1])
    for wave, start in zip(direction, phase, strict=True):
        total += np.cos(points @ wave + start)
    return total * np.sqrt(2 / waves)


def soft(distance: np.ndarray, width: float) -> np.ndarray:
    """1 where `distance` is well above 0, 0 well below, and a smooth edge of about `width` between."""
    return 1 / (1 + np.exp(-np.clip(distance / width * 4, -30, 30)))


def ellipsoid(points: np.ndarray, centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Roughly the depth in mm below the surface of an ellipsoid at points (..., 3): positive inside."""
    level = np.sqrt((((points - centre) / radii) ** 2).sum(-1))
    return (1 - level) * float(np.min(radii))


def coil(rng: np.random.Generator, points: np.ndarray, strength: float) -> np.ndarray:
    """The bias field of a receive coil: positive, smooth, about 1 on average."""
    centred = points - points.reshape(-1, 3).mean(0)
    return np.exp(strength * field(rng, centred, 220.0, waves=6))


def rician(rng: np.random.Generator, signal: np.ndarray, noise: float) -> np.ndarray:
    """The magnitude of a signal with complex Gaussian noise: MR noise, never negative."""
    real = signal + rng.normal(0, noise, signal.shape)
    return np.hypot(real, rng.normal(0, noise, signal.shape))
