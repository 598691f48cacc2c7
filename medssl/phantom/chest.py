"""A thorax in Hounsfield units at any world point: CT slices and radiographs of the same anatomy.

World is RAS+ mm, x to the patient's right, origin in the middle of the chest. The heart lies to the patient's left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medssl.phantom.texture import ellipsoid, field, grid_points, soft

AIR, LUNG, FAT, MUSCLE, BLOOD, BONE, SPONGE = -1000.0, -860.0, -100.0, 45.0, 40.0, 620.0, 230.0
CT_NOISE_HU = {"Zeta CT": 14.0, "Eta CT": 26.0}
FILM_MM = 410.0
FILM_PIXELS = 128
FILM_MAXIMUM = 4095
FILM_LOOK = {"Theta DX": (1.0, 0.006), "Iota DX": (1.35, 0.012)}
"""Exponent of the display curve and noise (share of full scale) of each X-ray machine."""


@dataclass(frozen=True, eq=False)
class Thorax:
    """One patient's chest, RAS+ mm. `nodule_mm` is the radius of a lung nodule, 0 without one."""

    body_radii: np.ndarray
    lung_radii: np.ndarray
    heart: np.ndarray
    heart_radii: np.ndarray
    dome_mm: float
    nodule: np.ndarray
    nodule_mm: float
    seed: tuple[int, int]


def thorax(rng: np.random.Generator, with_nodule: bool, front_beam: bool = False) -> Thorax:
    """A random patient; `front_beam` widens the heart and raises the diaphragm as in an AP film of a lying patient."""
    size = rng.uniform(0.92, 1.08)
    heart_scale = rng.uniform(0.9, 1.1) * (1.15 if front_beam else 1.0)
    side = 1 if rng.random() < 0.5 else -1
    return Thorax(
        body_radii=np.array([172.0, 112.0]) * size * rng.uniform(0.95, 1.05, 2),
        lung_radii=np.array([58.0, 78.0, 140.0]) * size,
        heart=np.array([-24.0, 22.0, -48.0]) + rng.normal(0, 3, 3),
        heart_radii=np.array([56.0, 46.0, 56.0]) * heart_scale,
        dome_mm=float(rng.uniform(-98, -80) + (18 if front_beam else 0)),
        nodule=np.array([side * rng.uniform(55, 95), rng.uniform(-35, 35), rng.uniform(-30, 45)]),
        nodule_mm=float(rng.uniform(8, 15)) if with_nodule else 0.0,
        seed=(int(rng.integers(2**31)), int(rng.integers(2**31))),
    )


def hounsfield(anatomy: Thorax, points: np.ndarray) -> np.ndarray:
    """Hounsfield units at world points (..., 3)."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    wide, deep = anatomy.body_radii
    shoulders = 1 - 0.35 * soft(z - 120, 60)
    level = np.sqrt((x / (wide * shoulders)) ** 2 + (y / (deep * shoulders)) ** 2)
    depth = (1 - level) * deep
    value = AIR + (FAT - AIR) * soft(depth, 3)
    value += (MUSCLE - FAT) * soft(depth - 14, 3)
    lung = _lungs(anatomy, points)
    vessels = 0.5 * (1 + np.tanh(3 * (field(np.random.default_rng(anatomy.seed), points, 26.0, 24) - 1.4)))
    air = LUNG + 420 * vessels * np.exp(-((np.abs(x) / 75) ** 2)) + 40 * (y < -20)
    value = value * (1 - lung) + air * lung
    ribs = _ribs(level, depth, x, y, z)
    value = value * (1 - ribs) + BONE * ribs
    for bone, spongy in _spine_and_sternum(deep, x, y, z):
        value = value * (1 - bone) + (BONE * (1 - spongy) + SPONGE * spongy) * bone
    if anatomy.nodule_mm > 0:
        spot = soft(anatomy.nodule_mm - np.linalg.norm(points - anatomy.nodule, axis=-1), 3)
        value = value * (1 - spot) + 30 * spot
    return value


def ct(
    rng: np.random.Generator, anatomy: Thorax, affine: np.ndarray, shape: tuple[int, int, int], scanner: str
) -> np.ndarray:
    """Hounsfield units (I, J, K) on a grid, with reconstruction noise."""
    from scipy.ndimage import gaussian_filter, zoom

    fine = affine.copy()
    fine[:3, :2] /= 2
    fine[:3, 3] -= affine[:3, :2].sum(1) / 4
    double = hounsfield(anatomy, grid_points((shape[0] * 2, shape[1] * 2, shape[2]), fine))
    image = double.reshape(shape[0], 2, shape[1], 2, shape[2]).mean((1, 3))
    coarse = zoom(rng.normal(0, 1, tuple(-(-n // 2) for n in shape)), 2, order=1)[: shape[0], : shape[1], : shape[2]]
    noise = gaussian_filter(rng.normal(0, 1, shape), (0.5, 0.5, 0)) * 1.6 + 0.5 * coarse
    return image + CT_NOISE_HU[scanner] * noise


def radiograph(rng: np.random.Generator, anatomy: Thorax, scanner: str) -> np.ndarray:
    """A frontal film (rows top to bottom, columns from the patient's right to left), 0 to FILM_MAXIMUM, bone bright."""
    from scipy.ndimage import gaussian_filter

    step = FILM_MM / FILM_PIXELS
    across = FILM_MM / 2 - (np.arange(FILM_PIXELS) + 0.5) * step
    along = np.linspace(-125, 125, 44)
    points = np.stack(np.meshgrid(across, along, across + 18, indexing="ij"), axis=-1)
    density = np.clip(hounsfield(anatomy, points) / 1000 + 1, 0, None)
    path_cm = density.sum(1).T * (along[1] - along[0]) / 10
    exponent, noise = FILM_LOOK[scanner]
    bright = np.clip(path_cm / 30, 0, 1.3) ** (0.8 * exponent)
    bright = gaussian_filter(bright, 0.4) / 1.3 + noise * rng.normal(0, 1, bright.shape)
    return np.clip(np.round(bright * FILM_MAXIMUM), 0, FILM_MAXIMUM).astype(np.uint16)


def _lungs(anatomy: Thorax, points: np.ndarray) -> np.ndarray:
    """1 inside the lungs, 0 outside; heart and mediastinum are cut out, the diaphragm is a dome."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    mirrored = np.stack([np.abs(x), y, z], axis=-1)
    middle = np.array([anatomy.lung_radii[0] + 22, 0.0, -5.0])
    whole = soft(ellipsoid(mirrored, middle, anatomy.lung_radii), 4)
    dome = anatomy.dome_mm + 12 * (x > 0) - 0.006 * (mirrored[..., 0] - 70) ** 2 - 0.005 * (y - 15) ** 2
    heart = soft(ellipsoid(points, anatomy.heart, anatomy.heart_radii), 4)
    arch = soft(ellipsoid(points, np.array([-20.0, -8.0, 45.0]), np.array([20.0, 34.0, 22.0])), 4)
    return whole * soft(z - dome, 5) * (1 - heart) * (1 - arch)


def _ribs(level: np.ndarray, depth: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """1 inside a rib: bars on a shell under the muscle that slope down from the spine to the front."""
    shell = soft(5.0 - np.abs(depth - 20), 3)
    drop = 0.45 * (y + 60)
    beat = np.abs((z + drop) % 27.0 - 13.5)
    caged = soft(145 - np.abs(z), 10) * soft(np.where(y > 0, np.abs(x) - 45, 20), 8)
    return shell * soft(4.0 - beat, 2.5) * caged * (level < 1)


def _spine_and_sternum(deep: float, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(1 inside the bone, 1 in its spongy part) of the vertebrae and of the breastbone."""
    back = -deep * 0.58
    round_mm = np.hypot(x, (y - back) * 1.15)
    disc = soft(np.abs(z % 28.0 - 14.0) - 2.5, 1.5)
    arch = soft(5 - np.abs(np.hypot(x, y - back + 26) - 13), 3) * disc
    body = soft(19 - round_mm, 2) * disc
    plate = soft(np.minimum(20 - np.abs(x), 6 - np.abs(y - deep + 24)), 2) * soft(80 - np.abs(z - 20), 5)
    return [(body, soft(15.5 - round_mm, 2)), (arch, np.zeros_like(x)), (plate, soft(4 - np.abs(y - deep + 24), 2))]
