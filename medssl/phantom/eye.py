"""An OCT volume of the optic nerve head with known layers, and what glaucoma does to it.

Axes: B-scan (row 0 is inferior), depth (row 0 is vitreous), A-scan (column 0 is the patient's right). Lengths in the
names: mm across the retina, um in depth. The field is 6 x 6 mm and 2 mm deep.

Glaucoma of severity s (0 to 1) thins the retinal nerve fibre layer (RNFL) everywhere by DIFFUSE * s and in an arcuate
wedge by WEDGE * s more, and widens the cup. In a muted eye all three are multiplied by MUTED_EFFECT and the speckle is
coarser (MUTED_LOOKS instead of LOOKS averages).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medssl.phantom.texture import field, soft

SHAPE = (24, 96, 64)
FIELD_MM = 6.0
DEPTH_MM = 2.0
DEPTH_STEP_UM = DEPTH_MM * 1000 / SHAPE[1]

DIFFUSE = 0.26
WEDGE = 0.55
MUTED_EFFECT = 0.30
LOOKS = 4.0
MUTED_LOOKS = 2.0
THINNING_PER_YEAR = 0.002
DISC_MM = 0.85
LAYER_SPREAD = 0.06
"""How much the thickness of the other layers differs between eyes (standard deviation of its logarithm)."""

LAYERS_UM = {"gcl": 75.0, "inl": 38.0, "opl": 28.0, "onl": 75.0, "ez": 22.0, "os": 18.0, "rpe": 27.0, "choroid": 230.0}
REFLECT = {"gcl": 0.42, "inl": 0.17, "opl": 0.36, "onl": 0.10, "ez": 0.85, "os": 0.22, "rpe": 1.3, "choroid": 0.42}
RNFL_REFLECT = 1.0
VITREOUS = 0.004
SCLERA = 0.05

LOOK_OF_SCANNER = {
    # floor of noise, contrast (grey values a factor of e), offset (grey value of reflectivity 1), blur (pixels)
    "Alpha OCT": (0.020, 40.0, 205.0, 0.4),
    "Beta OCT": (0.035, 46.0, 190.0, 0.8),
    "Gamma OCT": (0.028, 34.0, 220.0, 0.6),
}


@dataclass(frozen=True, eq=False)
class EyeTruth:
    """What the volume was made from. Maps are (B-scan, A-scan)."""

    rnfl_um: np.ndarray
    ilm_um: np.ndarray
    rpe_um: np.ndarray
    radius_mm: np.ndarray
    cup_mm: float
    severity: float

    @property
    def ring_rnfl_um(self) -> float:
        """Mean RNFL thickness in the ring of 1.1 to 2.2 mm around the disc: the clinical measurement."""
        ring = (self.radius_mm > 1.1) & (self.radius_mm < 2.2)
        return float(self.rnfl_um[ring].mean())


def oct_eye(
    rng: np.random.Generator,
    severity: float,
    *,
    age_years: float = 62,
    laterality: str = "R",
    scanner: str = "Alpha OCT",
    muted: bool = False,
    thickness: float = 1.0,
) -> tuple[np.ndarray, EyeTruth]:
    """An OCT volume (B-scan, depth, A-scan) of uint8 and its truth.

    `thickness` multiplies the patient's RNFL, so that two eyes of one person are alike. Sex is not an argument: it has
    no effect.
    """
    temporal, up = _retina_mm(rng, laterality)
    radius, angle = np.hypot(temporal, up), np.arctan2(up, temporal)
    effect = severity * (MUTED_EFFECT if muted else 1.0)
    ageing = 1 - THINNING_PER_YEAR * (age_years - 60)
    rnfl = healthy_rnfl(rng, radius, angle) * thickness * ageing * share_left(rng, effect, radius, angle)
    cup = DISC_MM * float(np.clip(rng.normal(0.48, 0.07) + 0.16 * effect, 0.2, 0.9))
    rpe = _rpe_um(rng, temporal, up)
    layers = {name: np.full(radius.shape, um * np.exp(rng.normal(0, LAYER_SPREAD))) for name, um in LAYERS_UM.items()}
    layers["gcl"] = layers["gcl"] * ageing * (1 - 0.5 * DIFFUSE * effect)
    dip = (330 + 130 * effect) * soft(cup - radius, 0.5)
    ilm = rpe - rnfl - sum(layers[n] for n in ("gcl", "inl", "opl", "onl", "ez", "os")) + dip
    truth = EyeTruth(rnfl, ilm, rpe, radius, cup, severity)
    reflect = _reflectivity(rng, truth, layers) * _shadows(rng, temporal, up, truth)
    return _scan(rng, reflect, scanner, MUTED_LOOKS if muted else LOOKS), truth


def _retina_mm(rng: np.random.Generator, laterality: str) -> tuple[np.ndarray, np.ndarray]:
    """Millimetres from the disc's centre towards the fovea and upwards, (B-scan, A-scan) each."""
    bscans, _, ascans = SHAPE
    up = (np.arange(bscans) + 0.5) / bscans * FIELD_MM - FIELD_MM / 2
    right_to_left = (np.arange(ascans) + 0.5) / ascans * FIELD_MM - FIELD_MM / 2
    centre = rng.normal(0, 0.15, 2)
    temporal = (right_to_left if laterality == "L" else -right_to_left) - centre[0]
    return np.broadcast_to(temporal, (bscans, ascans)), np.broadcast_to((up - centre[1])[:, None], (bscans, ascans))


def _bump(angle: np.ndarray, at_deg: float, width_deg: float) -> np.ndarray:
    away = np.angle(np.exp(1j * (angle - np.deg2rad(at_deg))))
    return np.exp(-0.5 * (away / np.deg2rad(width_deg)) ** 2)


def healthy_rnfl(rng: np.random.Generator, radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Thickness in um: two humps above and below the disc, thinner towards the fovea, the nose and with distance."""
    tops = rng.normal(0, 6, 2)
    around = 92 + 100 * _bump(angle, 78 + tops[0], 32) + 110 * _bump(angle, -78 + tops[1], 32)
    outwards = np.exp(-np.clip(radius - DISC_MM, 0, None) / 3.5)
    rim = np.clip(radius / DISC_MM, 0.05, 1) ** 2
    places = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return around * outwards * rim * (1 + 0.06 * field(rng, places, 2.5))


def share_left(rng: np.random.Generator, effect: float, radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """The share of the RNFL that glaucoma leaves: less everywhere, least in a wedge that bends towards the fovea."""
    side = -1 if rng.random() < 0.6 else 1
    at = side * rng.uniform(50, 80)
    width = rng.uniform(14, 20) + 10 * effect
    bent = angle + side * np.deg2rad(9) * np.clip(radius - DISC_MM, 0, None)
    return (1 - DIFFUSE * effect) * (1 - WEDGE * effect * _bump(bent, at, width))


def _rpe_um(rng: np.random.Generator, temporal: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Depth of the pigment epithelium: a tilted, curved surface with small waves."""
    tilt = rng.normal(0, 25, 2)
    curve = rng.uniform(6, 16)
    waves = 8 * field(rng, np.stack([temporal, up], axis=-1), 4.0)
    return 1180 + rng.normal(0, 70) + tilt[0] * temporal + tilt[1] * up - curve * (temporal**2 + up**2) + waves


def _reflectivity(rng: np.random.Generator, truth: EyeTruth, layers: dict[str, np.ndarray]) -> np.ndarray:
    """Reflectivity (B-scan, depth, A-scan): retina outside the disc, nerve tissue inside it."""
    depth = ((np.arange(SHAPE[1]) + 0.5) * DEPTH_STEP_UM)[None, :, None]
    edge = 1.5 * DEPTH_STEP_UM
    value, surface = VITREOUS, truth.ilm_um
    retina = np.full(SHAPE, VITREOUS)
    for name in ("rnfl", *layers, "sclera"):
        new = {"rnfl": RNFL_REFLECT, "sclera": SCLERA, **REFLECT}[name]
        retina += (new - value) * soft(depth - surface[:, None, :], edge)
        value = new
        surface = surface + (truth.rnfl_um if name == "rnfl" else layers.get(name, 0.0))
    below_ilm = depth - truth.ilm_um[:, None, :]
    nerve = VITREOUS + 0.55 * soft(below_ilm, edge) * np.exp(-np.clip(below_ilm, 0, None) / 260)
    in_disc = soft(DISC_MM - truth.radius_mm, 0.3)[:, None, :]
    b, d, a = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in SHAPE), indexing="ij")
    mottle = np.exp(0.25 * field(rng, np.stack([b * 2, d, a], axis=-1), 14.0, waves=8))
    return (retina * (1 - in_disc) + nerve * in_disc) * mottle


def _shadows(rng: np.random.Generator, temporal: np.ndarray, up: np.ndarray, truth: EyeTruth) -> np.ndarray:
    """What vessels in the RNFL leave of the light below them, (B-scan, depth, A-scan)."""
    dark = np.zeros(temporal.shape)
    along = np.linspace(0.15, 4.2, 60)
    for number in range(8):
        start = (70 if number % 2 else -70) + rng.normal(0, 28)
        bend = rng.uniform(5, 22) * (-1 if number % 2 else 1)
        turn = np.deg2rad(start + bend * along)
        path = np.stack([along * np.cos(turn), along * np.sin(turn)])
        away = np.hypot(temporal[..., None] - path[0], up[..., None] - path[1]).min(-1)
        dark = np.maximum(dark, rng.uniform(0.5, 0.8) * soft(rng.uniform(0.05, 0.11) - away, 0.08))
    depth = ((np.arange(SHAPE[1]) + 0.5) * DEPTH_STEP_UM)[None, :, None]
    below = soft(depth - (truth.ilm_um + 0.4 * truth.rnfl_um)[:, None, :], 60)
    return 1 - dark[:, None, :] * below


def _scan(rng: np.random.Generator, reflect: np.ndarray, scanner: str, looks: float) -> np.ndarray:
    """Grey values 0 to 255 as the scanner shows them: speckle, noise floor, logarithm, gain."""
    from scipy.ndimage import gaussian_filter1d

    floor, contrast, offset, blur = LOOK_OF_SCANNER[scanner]
    floor *= float(np.exp(rng.normal(0, 0.25)))
    offset += float(rng.normal(0, 8))
    sharp = gaussian_filter1d(reflect, blur, axis=1)
    fading = 1 - 0.25 * np.linspace(-1, 1, SHAPE[2]) ** 2
    power = sharp * fading * rng.standard_gamma(looks, SHAPE) / looks + floor * rng.standard_gamma(looks, SHAPE) / looks
    return np.clip(np.round(offset + contrast * np.log(power)), 0, 255).astype(np.uint8)
