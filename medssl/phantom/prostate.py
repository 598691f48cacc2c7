"""A male pelvis with a known prostate, seen as T2w, ADC and high-b images on any grid.

World is RAS+ mm with the gland's centre near the origin. The gland is an ellipsoid; the transition zone is a smaller,
darker and knobbly ellipsoid at its front, the rest is the bright peripheral zone. A lesion is dark on T2w and ADC and
bright at high b.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medssl.phantom.texture import coil, ellipsoid, field, grid_points, rician, soft

B_VALUE = 1400.0
HIGH_B_GAIN = 5.0

SCANNER = {
    # gain, strength of the bias field, noise (share of the brightest tissue)
    "Delta MR": (620.0, 0.10, 0.020),
    "Epsilon MR": (1450.0, 0.20, 0.035),
}

TISSUES = {
    # T2w brightness (0 to 1), ADC in 1e-6 mm2/s, brightness without diffusion weighting
    "fat": (0.66, 250.0, 0.12),
    "muscle": (0.17, 1150.0, 0.22),
    "bladder": (0.95, 2700.0, 0.95),
    "wall": (0.33, 1300.0, 0.35),
    "gas": (0.03, 60.0, 0.01),
    "bone": (0.42, 450.0, 0.12),
    "transition": (0.40, 1350.0, 0.48),
    "peripheral": (0.78, 1800.0, 0.70),
    "lesion": (0.27, 750.0, 0.62),
    "mimic": (0.29, 1500.0, 0.66),
}


@dataclass(frozen=True, eq=False)
class Pelvis:
    """Where the organs of one patient are, RAS+ mm. `lesion_mm` is the lesion's radius, 0 without one, and `shows` how far
    its tissue differs from what is around it, 1 being all of a lesion. A mimic is a benign nodule that the T2w alone cannot
    tell from a lesion; its radius is `mimic_mm`, 0 without one.
    """

    gland: np.ndarray
    gland_radii: np.ndarray
    zone: np.ndarray
    zone_radii: np.ndarray
    lesion: np.ndarray
    lesion_mm: float
    rectum_mm: float
    body: np.ndarray
    seed: tuple[int, int]
    shows: float
    mimic: np.ndarray
    mimic_mm: float

    def texture(self) -> np.random.Generator:
        """The generator that draws this patient's tissue texture; the same for every series."""
        return np.random.default_rng(self.seed)


MIMIC_RATE = 0.5
"""Share of patients with a benign nodule, sick or not, where there are any."""


def pelvis(
    rng: np.random.Generator, with_lesion: bool, *, faintest: float = 1.0, clearest: float = 1.0, mimics: bool = False
) -> Pelvis:
    """A random patient. Lesions show from `faintest` to `clearest`; with `mimics`, some patients have a benign nodule."""
    gland = rng.normal(0, 4, 3)
    radii = np.array([24.0, 17.5, 20.0]) * rng.uniform(0.82, 1.2) * rng.uniform(0.94, 1.06, 3)
    zone = gland + np.array([0.0, 0.24, 0.05]) * radii
    side = 1 if rng.random() < 0.5 else -1
    spot = np.array([side * rng.uniform(0.35, 0.62), -rng.uniform(0.42, 0.56), rng.uniform(-0.35, 0.35)])
    size = float(rng.uniform(4.5, 7.0)) if with_lesion else 0.0
    wide, body, seed = (
        float(rng.uniform(10, 15)),
        rng.uniform(0.95, 1.08, 2),
        (int(rng.integers(2**31)), int(rng.integers(2**31))),
    )
    other = np.random.default_rng([*seed, 7])  # apart: whether mimics are asked for changes nothing else
    place = np.array([-side * other.uniform(0.35, 0.62), -other.uniform(0.42, 0.56), other.uniform(-0.35, 0.35)])
    return Pelvis(
        gland=gland,
        gland_radii=radii,
        zone=zone,
        zone_radii=radii * np.array([0.70, 0.62, 0.80]),
        lesion=gland + spot * radii,
        lesion_mm=size,
        rectum_mm=wide,
        body=body,
        seed=seed,
        shows=float(other.uniform(faintest, clearest)),
        mimic=gland + place * radii,
        mimic_mm=float(other.uniform(4.5, 7.0)) if mimics and other.random() < MIMIC_RATE else 0.0,
    )


def labels(anatomy: Pelvis, points: np.ndarray) -> np.ndarray:
    """The truth at world points (..., 3): 0 outside the prostate, 1 gland, 2 lesion (a part of the gland)."""
    inside = ellipsoid(points, anatomy.gland, anatomy.gland_radii) > 0
    hit = np.linalg.norm(points - anatomy.lesion, axis=-1) < anatomy.lesion_mm
    return (inside.astype(np.uint8) + (inside & hit)).astype(np.uint8)


def t2w(
    rng: np.random.Generator, anatomy: Pelvis, affine: np.ndarray, shape: tuple[int, int, int], scanner: str
) -> np.ndarray:
    """A T2w image (I, J, K) on a grid, float and never negative."""
    points = grid_points(shape, affine)
    clean = _paint(anatomy, points, 0, knobbly=0.22)
    gain, bias, noise = SCANNER[scanner]
    gain *= float(np.exp(rng.normal(0, 0.15)))
    return gain * rician(rng, clean * coil(rng, points, bias), noise)


def diffusion(
    rng: np.random.Generator, anatomy: Pelvis, affine: np.ndarray, shape: tuple[int, int, int], scanner: str
) -> tuple[np.ndarray, np.ndarray]:
    """ADC (1e-6 mm2/s) and the high-b image at B_VALUE, (I, J, K) each."""
    points = grid_points(shape, affine)
    adc = _paint(anatomy, points, 1, knobbly=0.06)
    proton = _paint(anatomy, points, 2, knobbly=0.0)
    gain, bias, noise = SCANNER[scanner]
    signal = proton * np.exp(-B_VALUE * adc * 1e-6)
    high_b = gain * HIGH_B_GAIN * rician(rng, signal * coil(rng, points, bias), noise / 3)
    unsure = 60 / np.clip(proton, 0.05, None)
    return np.clip(adc + rng.normal(0, 1, shape) * np.clip(unsure, 0, 500), 0, 4000), high_b


def _paint(anatomy: Pelvis, points: np.ndarray, column: int, knobbly: float) -> np.ndarray:
    """One property of the tissue at every point, organs laid over one another with soft edges."""
    rng = anatomy.texture()
    fine, coarse = field(rng, points, 5.0, 20), field(rng, points, 11.0, 20)
    value = np.full(points.shape[:-1], TISSUES["fat"][column]) * (1 + 0.05 * coarse)
    for tissue, depth in _organs(anatomy, points):
        cover = soft(depth, 1.2) * (anatomy.shows if tissue == "lesion" else 1.0)
        rough = knobbly * (fine + 0.7 * coarse) if tissue == "transition" else 0.3 * knobbly * fine
        value = value * (1 - cover) + TISSUES[tissue][column] * np.clip(1 + rough, 0.3, 2) * cover
    return value


def _organs(anatomy: Pelvis, points: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """(tissue, depth in mm below its surface) in painting order."""
    gland, radii = anatomy.gland, anatomy.gland_radii
    wide = anatomy.body[0]
    mirrored = np.stack([np.abs(points[..., 0] - gland[0]), points[..., 1], points[..., 2]], axis=-1)
    rectum = gland + np.array([0.0, -radii[1] - anatomy.rectum_mm - 1.5, 0.0])
    tube = np.hypot((points[..., 0] - rectum[0]) / 1.15, points[..., 1] - rectum[1] + 0.18 * points[..., 2])
    bladder = gland + np.array([0.0, 6.0, radii[2] + 20.0])
    pubis = np.array([0.0, gland[1] + radii[1] + 19.0, gland[2] - 12.0])
    obturator = np.array([44.0 * wide, 8.0, 0.0])
    levator = np.array([radii[0] + 5.0, gland[1] - 4.0, gland[2] - 8.0])
    found = [
        ("muscle", ellipsoid(mirrored, obturator, np.array([11.0, 34.0, 60.0]))),
        ("bone", ellipsoid(mirrored, np.array([58.0 * wide, 14.0, 0.0]), np.array([11.0, 30.0, 70.0]))),
        ("muscle", ellipsoid(mirrored, levator, np.array([3.6, 24.0, 30.0]))),
        ("bone", ellipsoid(mirrored, pubis + np.array([13.0, 0.0, 0.0]), np.array([12.0, 9.0, 20.0]))),
        ("wall", anatomy.rectum_mm - tube),
        ("gas", anatomy.rectum_mm - 4.0 - tube),
        ("wall", ellipsoid(points, bladder, np.array([31.0, 24.0, 22.0]))),
        ("bladder", ellipsoid(points, bladder, np.array([28.0, 21.0, 19.0]))),
        ("muscle", ellipsoid(points, gland, radii + 1.3)),
        ("peripheral", ellipsoid(points, gland, radii)),
        ("muscle", ellipsoid(points, anatomy.zone, anatomy.zone_radii + 1.0)),
        ("transition", ellipsoid(points, anatomy.zone, anatomy.zone_radii)),
    ]
    if anatomy.mimic_mm > 0:
        found.append(("mimic", anatomy.mimic_mm - np.linalg.norm(points - anatomy.mimic, axis=-1)))
    if anatomy.lesion_mm > 0:
        found.append(("lesion", anatomy.lesion_mm - np.linalg.norm(points - anatomy.lesion, axis=-1)))
    return found
