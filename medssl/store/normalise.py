"""Intensities that a network can use, by modality. Voxels that no scanner measured never enter a statistic.

CT           window in HU to [-1, 1]; absolute, the same for every scan
MR           clipped to percentiles of the foreground, then (x - median) / (IQR / 1.349); MR units mean nothing
ADC          as a channel of bpMRI: 0 to 4000e-6 mm2/s divided by 1000; a diffusion coefficient means the same everywhere
OPT maps     thickness of the nerve fibre layer, -2 to 350 um to [0, 1]; deviations of the visual field, -38 to 26 dB to
             [0, 2]; each by itself, and the same everywhere
OPT, DX, CR  the declared range (8 bit; a window that the reader applied) or the observed percentiles to [0, 1]

What was not measured (padding, outside the field of view, not a number) gets the lowest value of that scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medssl.volume import Volume

IQR_OF_UNIT_NORMAL = 1.349
"""Interquartile range of a normal distribution, in standard deviations."""

BACKGROUND_SHARE = 0.1
"""Air in MR: voxels below this share of the way from 0 (or p0.5, if that is negative) to p99.5 are coil noise."""

TIGHTEST = 1e-3
"""Share of the clipped range below which a spread is no spread: intensities would grow beyond float16."""

OBSERVED = (0.5, 99.5)
"""Percentiles that stand for lowest and highest where single voxels could be outliers."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How values became intensities: (clip(x, low, high) - offset) / scale."""

    low: float
    high: float
    offset: float
    scale: float


DIFFUSION = Scale(low=0.0, high=4000.0, offset=0.0, scale=1000.0)
"""Diffusion coefficients in 1e-6 mm2/s; free water at body heat has 3000, more than 4000 is noise."""

MAPS = {
    "um": ("rnfl", Scale(low=-2.0, high=350.0, offset=-2.0, scale=352.0)),
    "dB": ("visual field", Scale(low=-38.0, high=26.0, offset=-38.0, scale=32.0)),
}
"""Of channels in these units what they are of, and their scale: that of Luo et al. (Harvard-GDP, ICCV 2023), but for the
thickness, which is not left at 0 to 352.
"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The measured voxels before normalisation, in the volume's unit, and their share of all. nan where there are none."""

    mean: float
    std: float
    p0_5: float
    p99_5: float
    valid_fraction: float


@dataclass(frozen=True, kw_only=True)
class Normal:
    """A normalised volume's float32 voxels (C, I, J, K), the scale used, and what was measured before it.

    `reason` is a code of store.reasons where no normalisation is possible; the voxels are then all zero.
    """

    voxels: np.ndarray
    scale: Scale
    measured: Measured
    reason: str = ""


def normalise(
    volume: Volume,
    *,
    ct_window: tuple[float, float] = (-1000.0, 1000.0),
    clip_percentiles: tuple[float, float] = OBSERVED,
    stored_range: tuple[float, float] | None = None,
    fixed: Scale | None = None,
) -> Normal:
    """The volume's intensities on the scale of its modality; `stored_range` is what the values could be.

    `fixed` is a scale that stands before the modality's own, for values in a physical unit.

    A volume without any measured voxel, or with one value throughout, comes back as zeros with a reason.
    """
    voxels = np.asarray(volume.voxels, np.float32)
    real = np.isfinite(voxels)
    if volume.valid is not None:
        real &= volume.valid
    values = voxels.ravel() if real.all() else voxels[real]
    measured = _measure(values, real.size)
    if not values.size or values.min() == values.max():
        reason = "CONSTANT_IMAGE" if values.size else "NO_VALID_VOXELS"
        nan = float("nan")
        scale = Scale(low=nan, high=nan, offset=nan, scale=nan)
        return Normal(voxels=np.zeros_like(voxels), scale=scale, measured=measured, reason=reason)
    if fixed is not None:
        scale = fixed
    elif volume.modality == "CT":
        scale = _between(*ct_window, -1.0)
    elif volume.modality == "MR":
        scale = robust_scale(values, clip_percentiles)
    else:
        scale = _between(*(stored_range or _wide(values, measured.p0_5, measured.p99_5)), 0.0)
    normal = np.where(real, voxels, np.float32(scale.low))
    np.clip(normal, scale.low, scale.high, out=normal)  # in place: large arrays cost more to come by than to compute
    normal -= scale.offset
    normal /= scale.scale
    return Normal(voxels=normal, scale=scale, measured=measured)


def robust_scale(values: np.ndarray, percentiles: tuple[float, float] = OBSERVED) -> Scale:
    """The robust z-score of MR values: clip bounds, centre and spread of what is brighter than the empty coil.

    A foreground of one value has no quartiles apart: the spread is then its standard deviation, and at last its range.
    """
    bottom, top = _wide(values, *_percentiles(values, OBSERVED))
    bottom = min(bottom, 0.0)  # a magnitude image is never below 0: air is near 0, however dark the darkest tissue
    foreground = values[values > bottom + BACKGROUND_SHARE * (top - bottom)]
    low, high = _percentiles(foreground, percentiles)
    if low == high:
        low, high = float(values.min()), float(values.max())
    inside = np.clip(foreground, low, high)
    q1, q3 = _percentiles(inside, (25, 75))
    spreads = ((q3 - q1) / IQR_OF_UNIT_NORMAL, float(inside.std(dtype=np.float64)), high - low)
    spread = next(s for s in spreads if s >= TIGHTEST * (high - low))
    return Scale(low=low, high=high, offset=float(np.median(inside)), scale=spread)


def _measure(values: np.ndarray, of: int) -> Measured:
    nan = float("nan")
    if not values.size:
        return Measured(mean=nan, std=nan, p0_5=nan, p99_5=nan, valid_fraction=0.0)
    mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    low, high = _percentiles(values, OBSERVED)
    return Measured(mean=mean, std=std, p0_5=low, p99_5=high, valid_fraction=values.size / of)


def _percentiles(values: np.ndarray, at: tuple[float, float]) -> tuple[float, float]:
    low, high = np.percentile(values, at)
    return float(low), float(high)


def _wide(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """The percentiles, or the extremes where nearly all voxels hold one value and the percentiles coincide."""
    return (low, high) if high > low else (float(values.min()), float(values.max()))


def _between(low: float, high: float, bottom: float) -> Scale:
    """The scale that takes low to `bottom` and high to 1."""
    scale = (high - low) / (1.0 - bottom)
    return Scale(low=low, high=high, offset=low - bottom * scale, scale=scale)
