"""What scanners do to a picture, as random changes of prepared intensities. Geometry is altered elsewhere.

Amplitudes are relative to a prepared volume, whose values have a spread of about one (MR, CT) or a range of one (OCT,
X-ray). Multiplicative speckle is the noise of coherent imaging (OCT); a smooth gain over the field is the coil's bias in
MR; exposure changes gamma and noise in X-ray.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """Largest amplitudes of the random changes; 0 switches a change off."""

    gain: float = 0.1
    offset: float = 0.1
    gamma: float = 0.2
    noise: float = 0.05
    bias: float = 0.0
    speckle: float = 0.0

    def apply(self, x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """`x` (C, *S) with changes drawn from `rng`; the draw depends on nothing else."""
        power = np.exp(rng.uniform(-self.gamma, self.gamma))
        gain, offset = 1 + rng.uniform(-self.gain, self.gain), rng.uniform(-self.offset, self.offset)
        low, high = x.min(), x.max()
        span = (high - low).clamp(min=1e-6)
        x = low + span * ((x - low) / span).clamp(min=1e-6) ** power
        x = x * gain + offset * span / 4
        if self.bias:
            x = x * _field(x, rng, self.bias)
        if self.speckle:
            x = x * (1 + rng.uniform(0, self.speckle) * _noise(x, rng))
        if self.noise:
            x = x + rng.uniform(0, self.noise) * span / 4 * _noise(x, rng)
        return x


BY_MODALITY = {
    "MR": Intensity(bias=0.15),
    "CT": Intensity(gamma=0.0, noise=0.05),
    "OPT": Intensity(speckle=0.15),
    "DX": Intensity(gain=0.2, gamma=0.3),
    "CR": Intensity(gain=0.2, gamma=0.3),
    "MG": Intensity(gain=0.2, gamma=0.3),
}
"""The changes that fit a modality when the recipe names none."""


def _noise(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(x.shape), dtype=np.float32))


def _field(x: torch.Tensor, rng: np.random.Generator, amplitude: float) -> torch.Tensor:
    """A smooth positive gain over the view: the exponential of a coarse random grid, interpolated."""
    dims = x.ndim - 1
    coarse = torch.from_numpy(rng.uniform(-amplitude, amplitude, (1, 1, *[3] * dims)).astype(np.float32))
    mode = "trilinear" if dims == 3 else "bilinear"
    return functional.interpolate(coarse, size=x.shape[1:], mode=mode, align_corners=True)[0].exp()
