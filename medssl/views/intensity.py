"""What scanners do to a picture, as random changes of prepared intensities. Geometry is altered elsewhere.

Amplitudes are relative to a prepared volume, whose values have a spread of about one (MR, CT) or a range of one (OCT,
X-ray). Multiplicative speckle is the noise of coherent imaging (OCT); a smooth gain over the field is the coil's bias in
MR, whose magnitude has Rician noise; exposure changes gamma and noise in X-ray. A change may take away what a label says:
a window or an inversion takes away density, blur and thick slices take away small lesions. What makes the finding must
not be changed beyond what scanners do to it; that is why those are off unless a recipe asks for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from medssl.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """Largest amplitudes of the random changes; 0 switches a change off.

    Each change happens with probability `p` by itself. `noise`, `rician` and `exposure` are in quarters of the view's range,
    `blur` is a standard deviation in view voxels. `level_hu` and `width` move a CT window: its level in HU, its width as a
    share; `hu` is how many HU one prepared unit means (half of `prepare.ct_window`). `looks` is speckle of a gamma law of
    mean 1 and variance 1 / looks. `thick` is how many times as thick slices may become, across the view's last axis.
    `invert` is the probability that bright and dark are exchanged (MR only, where the contrast is the sequence's choice).
    """

    gain: float = 0.1
    offset: float = 0.1
    gamma: float = 0.2
    noise: float = 0.05
    bias: float = 0.0
    speckle: float = 0.0
    p: float = 1.0
    level_hu: float = 0.0
    width: float = 0.0
    hu: float = 1000.0
    rician: float = 0.0
    looks: float = 0.0
    exposure: float = 0.0
    blur: float = 0.0
    thick: float = 0.0
    invert: float = 0.0

    def __post_init__(self) -> None:
        for name in ("p", "invert"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"views.intensity.{name}: {getattr(self, name)} is no probability; give 0 to 1")
        for name in (
            "gain", "offset", "gamma", "noise", "bias", "speckle", "level_hu", "rician", "looks", "exposure", "blur"
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise UserError(f"views.intensity.{name}: {getattr(self, name)} is negative; give 0 (off) or more")
        if not 0 <= self.width < 1:
            raise UserError(f"views.intensity.width: {self.width} is not a share from 0 to below 1")
        if self.thick and self.thick < 1:
            raise UserError(
                f"views.intensity.thick: {self.thick} would make slices thinner; give 0 (off) or 1 and more"
            )
        if self.hu <= 0:
            raise UserError(
                f"views.intensity.hu: {self.hu}; give the HU of one prepared unit, half of prepare.ct_window"
            )

    def check(self, modalities: Iterable[str]) -> None:
        """Nothing; raises UserError when a change is asked for that means nothing for one of `modalities`."""
        for name, on, only in (
            ("invert", self.invert, "MR"), ("rician", self.rician, "MR"),
            ("level_hu", self.level_hu, "CT"), ("width", self.width, "CT"),
        ):  # fmt: skip
            others = sorted(set(modalities) - {only})
            if on and others:
                raise UserError(
                    f"views.intensity.{name}: {on} is for {only}, but there are volumes of {', '.join(others)}; "
                    f"set it to 0 or data.modality to {only}"
                )

    def apply(self, x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """`x` (C, *S) with changes drawn from `rng`; the draw depends on nothing else."""
        power = np.exp(rng.uniform(-self.gamma, self.gamma))
        gain, offset = 1 + rng.uniform(-self.gain, self.gain), rng.uniform(-self.offset, self.offset)
        low, high = x.aminmax()
        span = (high - low).clamp(min=1e-6)
        if self.gamma and self._happens(rng):
            x = ((x - low) / span).clamp_(min=1e-6).pow_(power).mul_(span).add_(low)
        if (self.gain or self.offset) and self._happens(rng):
            x = (x * gain).add_(offset * span / 4)
        if self.bias and self._happens(rng):
            x = x * _field(x, rng, self.bias)
        if self.speckle and self._happens(rng):
            x = x * (rng.uniform(0, self.speckle) * _noise(x, rng)).add_(1)
        if self.noise and self._happens(rng):
            x = torch.addcmul(x, rng.uniform(0, self.noise) * span / 4, _noise(x, rng))
        return self._by_scanner(x, low, span, rng)

    def _by_scanner(
        self, x: torch.Tensor, low: torch.Tensor, span: torch.Tensor, rng: np.random.Generator
    ) -> torch.Tensor:
        """The changes that are off unless asked for. Signal is what lies above `low`."""
        if (self.level_hu or self.width) and self._happens(rng):
            level = rng.uniform(-self.level_hu, self.level_hu) / self.hu
            x = window(x, level, 1 + rng.uniform(-self.width, self.width))
        if self.invert and rng.random() < self.invert:
            x = 2 * low + span - x
        if self.thick and self._happens(rng):
            x = thicken(x, rng.uniform(1, self.thick))
        if self.blur and self._happens(rng):
            x = smooth(x, rng.uniform(0, self.blur))
        if self.exposure and self._happens(rng):
            share = ((x - low) / span).clamp_(min=0).sqrt_()
            x = x + share.mul_(rng.uniform(0, self.exposure) * span / 4).mul_(_noise(x, rng))
        if self.looks and self._happens(rng):
            x = low + speckled(x - low, self.looks, rng)
        if self.rician and self._happens(rng):
            sigma = rng.uniform(0, self.rician) * float(span) / 4
            x = low + magnitude((x - low).clamp(min=0), sigma, rng)
        return x

    def _happens(self, rng: np.random.Generator) -> bool:
        return self.p == 1 or rng.random() < self.p


BY_MODALITY = {
    "MR": Intensity(bias=0.15),
    "CT": Intensity(gamma=0.0, noise=0.05),
    "OPT": Intensity(speckle=0.15),
    "DX": Intensity(gain=0.2, gamma=0.3),
    "CR": Intensity(gain=0.2, gamma=0.3),
    "MG": Intensity(gain=0.2, gamma=0.3),
    "OP": Intensity(gain=0.2, gamma=0.2),
}
"""The changes that fit a modality when the recipe names none."""

NORMAL = torch.special.ndtri((torch.arange(1 << 16, dtype=torch.float64) + 0.5) / (1 << 16)).float()
"""Standard normal numbers that are equally likely: the middles of 65,536 quantiles, of which none is beyond 4.4."""


def window(x: torch.Tensor, level: float, width: float) -> torch.Tensor:
    """Prepared CT values seen through a window `level` higher and `width` times as wide, from -1 to 1 again."""
    return ((x - level) / width).clamp_(-1, 1)


def magnitude(signal: torch.Tensor, sigma: float, rng: np.random.Generator) -> torch.Tensor:
    """The magnitude of a complex signal with Gaussian noise in both parts (Gudbjartsson and Patz, MRM 1995).

    Its mean where there is no signal is sigma sqrt(pi / 2), so air is not dark.
    """
    return torch.hypot(signal + _noise(signal, rng).mul_(sigma), _noise(signal, rng).mul_(sigma))


def speckled(signal: torch.Tensor, looks: float, rng: np.random.Generator) -> torch.Tensor:
    """Signal times a gamma variable of mean 1 and variance 1 / looks, which is what averaging `looks` frames leaves."""
    factor = rng.standard_gamma(looks, tuple(signal.shape), dtype=np.float32)
    return signal * torch.from_numpy(factor).div_(looks)


def smooth(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """`x` (C, *S) after a Gaussian of `sigma` voxels along every axis; its rim is continued."""
    reach = int(np.ceil(3 * sigma))
    if not reach:
        return x
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float32) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in range(1, x.ndim):
        if x.shape[axis] == 1:
            continue
        lines = x.movedim(axis, -1)
        flat = functional.pad(lines.reshape(1, -1, lines.shape[-1]), (reach, reach), mode="replicate")
        x = functional.conv1d(flat.movedim(1, 0), kernel[None, None]).reshape(lines.shape).movedim(-1, axis)
    return x.contiguous()


def thicken(x: torch.Tensor, factor: float) -> torch.Tensor:
    """`x` (C, *S) as if its slices across the last axis were `factor` times as thick: averaged, then interpolated."""
    slices = x.shape[-1]
    flat = x.reshape(1, -1, slices)
    few = functional.adaptive_avg_pool1d(flat, max(1, round(slices / factor)))
    return functional.interpolate(few, size=slices, mode="linear", align_corners=False).reshape(x.shape)


def _noise(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Standard normal numbers (*x), one of `NORMAL` each: torch's own take twice as long, numpy's six times."""
    bits = rng.integers(1 << 64, size=-(-x.numel() // 4), dtype=np.uint64).view(np.uint16)[: x.numel()]
    return NORMAL.index_select(0, torch.from_numpy(bits).int()).view(x.shape)


def _field(x: torch.Tensor, rng: np.random.Generator, amplitude: float) -> torch.Tensor:
    """A smooth positive gain over the view: the exponential of a coarse random grid, interpolated."""
    dims = x.ndim - 1
    coarse = torch.from_numpy(rng.uniform(-amplitude, amplitude, (1, 1, *[3] * dims)).astype(np.float32))
    mode = "trilinear" if dims == 3 else "bilinear"
    return functional.interpolate(coarse, size=x.shape[1:], mode=mode, align_corners=True)[0].exp()
