"""The prepared channels of a case: one for most volumes, T2w, ADC and high-b on one grid for a bpMRI study, one for each
unit of a map.

Partners are put on the first channel's grid through the world, by their headers alone: same study, same frame. What lies
outside a partner's field of view is not valid in its channel. The diffusion images' own distortion is not undone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from medssl.store.grids import without_nan
from medssl.store.normalise import DIFFUSION, MAPS, Normal, normalise
from medssl.store.reasons import Unusable
from medssl.store.settings import MODALITIES, Preparation
from medssl.volume import Volume

DIFFUSION_UNITS = {
    "1e-6 mm2/s": (100.0, 10_000.0, 1.0),
    "1e-3 mm2/s": (0.1, 10.0, 1e3),
    "mm2/s": (1e-4, 1e-2, 1e6),
}
"""Units of ADC maps: between what the median of tissue lies, and what makes 1e-6 mm2/s of them."""


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One channel on the prepared grid: normalised voxels (1, I, J, K) and which of them are real (None: all)."""

    role: str
    normal: Normal
    valid: np.ndarray | None

    def facts(self) -> dict[str, object]:
        """What was measured and done, for the row of a case of several channels."""
        return {
            "role": self.role,
            **asdict(self.normal.measured),
            "offset": self.normal.scale.offset,
            "scale": self.normal.scale.scale,
        }


def by_unit(image: Volume) -> list[Volume]:
    """A volume for each unit that the channels of one are in; what one of them lacks, the others need not."""
    units = image.unit.split(", ")
    if len(units) == 1:
        return [image]
    return [replace(image, voxels=image.voxels[n : n + 1], unit=unit) for n, unit in enumerate(units)]


def own_channel(grid: Volume, image: Volume, settings: Preparation, role: str = "") -> Channel:
    """The channel of a volume on its own grid; `image` is the volume as read. Raises Unusable."""
    if image.unit in MAPS:
        name, scale = MAPS[image.unit]
        return _usable(Channel(role=name, normal=normalise(grid, fixed=scale), valid=grid.valid))
    normal = normalise(
        grid,
        ct_window=settings.ct_window,
        clip_percentiles=settings.clip_percentiles,
        stored_range=declared_range(image),
    )
    return _usable(Channel(role=role, normal=normal, valid=grid.valid))


def partner_channel(image: Volume, role: str, grid: Volume, settings: Preparation) -> Channel:
    """The channel of a volume on another one's `grid`: a high-b image as MR, an ADC map in its unit. Raises Unusable."""
    there = without_nan(image).resample_to(grid.shape, grid.affine)
    if there.valid is not None and not there.valid.any():
        raise Unusable("FOV_MISMATCH")
    if role == "adc":
        normal = normalise(in_micro_units(there), fixed=DIFFUSION)
    else:
        normal = normalise(there, clip_percentiles=settings.clip_percentiles)
    return _usable(Channel(role=role, normal=normal, valid=there.valid))


def _usable(channel: Channel) -> Channel:
    if channel.normal.reason:
        raise Unusable(channel.normal.reason)
    return channel


def in_micro_units(adc: Volume) -> Volume:
    """The ADC map in 1e-6 mm2/s: by its unit, or by the median of what is above 0. Raises Unusable."""
    if adc.unit in DIFFUSION_UNITS:
        factor = DIFFUSION_UNITS[adc.unit][2]
    else:
        values = adc.voxels if adc.valid is None else adc.voxels[:, adc.valid]
        tissue = values[values > 0]
        middle = float(np.median(tissue)) if tissue.size else 0.0
        factors = [factor for low, high, factor in DIFFUSION_UNITS.values() if low <= middle <= high]
        if not factors:
            raise Unusable("ADC_UNITS_UNKNOWN")
        factor = factors[0]
    return replace(adc, voxels=adc.voxels * np.float32(factor), unit="1e-6 mm2/s")


def declared_range(image: Volume) -> tuple[float, float] | None:
    """What the values could be by their type: 8-bit pictures, and radiographs that their reader windowed to 0..1."""
    if image.voxels.dtype == np.uint8:
        return 0.0, 255.0
    windowed = MODALITIES[image.modality] == "xray" and image.voxels.dtype.kind == "f"
    return (0.0, 1.0) if windowed and image.voxels.min() >= 0 and image.voxels.max() <= 1 else None


def valid_mask(channels: Sequence[Channel], shape: tuple[int, int, int]) -> np.ndarray | None:
    """Which voxels of each channel (C, I, J, K) were measured, uint8; None when all were."""
    if all(channel.valid is None for channel in channels):
        return None
    return np.stack([np.ones(shape, bool) if c.valid is None else c.valid for c in channels]).astype(np.uint8)
