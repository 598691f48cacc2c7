"""A volume: numbers on a grid, and where that grid sits in the patient.

Axes are always (C, I, J, K). `affine` maps voxel indices (i, j, k) to RAS+ millimetres: x grows to the patient's right,
y to the front (anterior), z to the head (superior). A radiograph is a volume with K == 1. Which array axis is the slice
axis is a fact about a file, so the axes are called I, J, K and not depth, height, width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import nibabel as nib
import numpy as np
from nibabel import orientations as axes

Interpolation = Literal["linear", "nearest"]

AIR_HU = -1024.0
"""What lies outside a CT field of view, in Hounsfield units."""

MAXIMUM_VOXELS = 1_500_000_000
"""Largest grid that resampling will make; above it the request is a mistake or an attack."""

PAD_FILL = {"CT": AIR_HU}
"""Value of voxels that no scanner measured, by modality; 0 where it is not named."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels (C, I, J, K), their 4x4 affine to RAS+ mm, and what the numbers mean.

    `valid` (I, J, K) is False where a voxel was never measured (padding, outside the field of view); None means that
    every voxel is real. `spacing_source` says whether the millimetres come from the file ("header"), from a stated
    assumption ("nominal") or mean nothing ("unknown"). `oriented` is False where the world axes are the scanner's and
    not the patient's (OCT, PNG), so that left and right cannot be claimed.
    """

    voxels: np.ndarray
    affine: np.ndarray
    modality: str = "unknown"
    unit: str = "a.u."
    valid: np.ndarray | None = None
    spacing_source: str = "header"
    oriented: bool = True

    def __post_init__(self) -> None:
        if self.voxels.ndim != 4:
            raise ValueError(f"voxels have shape {self.voxels.shape}; a volume is (C, I, J, K): add the missing axes")
        affine = np.asarray(self.affine, dtype=np.float64)
        sound = affine.shape == (4, 4) and np.isfinite(affine).all() and np.allclose(affine[3], (0, 0, 0, 1))
        if not sound or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise ValueError(f"affine {affine.tolist()} is not an invertible 4x4 matrix; read it from the file again")
        if self.valid is not None and self.valid.shape != self.shape:
            raise ValueError(f"valid has shape {self.valid.shape}, the grid is {self.shape}; they must agree")
        object.__setattr__(self, "affine", affine)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.shape))
        spacing = "x".join(f"{mm:.3g}" for mm in self.spacing)
        return f"Volume({self.modality}, {self.unit}, {self.channels} x {size}, {spacing} mm, {self.orientation})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along I, J, K."""
        return self.voxels.shape[1], self.voxels.shape[2], self.voxels.shape[3]

    @property
    def channels(self) -> int:
        """Number of values a voxel holds."""
        return self.voxels.shape[0]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between neighbouring voxels along I, J, K (length of the affine's columns)."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def orientation(self) -> str:
        """Where I, J, K grow towards, e.g. "RAS"; "unknown" when the world is not the patient's."""
        return "".join(nib.aff2axcodes(self.affine)) if self.oriented else "unknown"

    def world(self, index: Sequence[float] | np.ndarray) -> np.ndarray:
        """Millimetres (..., 3) of voxel indices (..., 3)."""
        return np.asarray(index, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def flip(self, axis: Literal[0, 1, 2]) -> Volume:
        """The volume with one axis reversed; every voxel keeps its place in the world."""
        mirror = np.eye(4)
        mirror[axis, axis], mirror[axis, 3] = -1, self.shape[axis] - 1
        valid = None if self.valid is None else np.flip(self.valid, axis)
        return replace(self, voxels=np.flip(self.voxels, axis + 1), affine=self.affine @ mirror, valid=valid)

    def crop(self, start: Sequence[int], stop: Sequence[int]) -> Volume:
        """The box of voxels start <= index < stop, in its place. Raises when the box leaves the grid or is empty."""
        if any(not 0 <= a < b <= n for a, b, n in zip(start, stop, self.shape, strict=True)):
            raise ValueError(f"box {tuple(start)} to {tuple(stop)} is empty or leaves the grid {self.shape}; pad first")
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        valid = None if self.valid is None else self.valid[box]
        return replace(self, voxels=self.voxels[:, *box], affine=self.affine @ _shift(start), valid=valid)

    def pad(self, before: Sequence[int], after: Sequence[int], fill: float | None = None) -> Volume:
        """The volume with voxels added around it, marked as not valid.

        `fill` defaults to what the modality calls nothing: air for CT, 0 otherwise.
        """
        if min(*before, *after) < 0:
            raise ValueError(f"cannot pad by {tuple(before)} and {tuple(after)}: negative; use crop")
        width = list(zip(before, after, strict=True))
        value = PAD_FILL.get(self.modality, 0.0) if fill is None else fill
        voxels = np.pad(self.voxels, [(0, 0), *width], constant_values=self.voxels.dtype.type(value))
        real = np.ones(self.shape, bool) if self.valid is None else self.valid
        shifted = self.affine @ _shift([-n for n in before])
        return replace(self, voxels=voxels, affine=shifted, valid=np.pad(real, width))

    def reorient(self, codes: str = "RAS") -> Volume:
        """The volume with its axes permuted and flipped to grow towards `codes`; no voxel value is changed.

        An oblique grid takes the nearest of the 48 axis orders. Raises for a volume that is not oriented.
        """
        if not self.oriented:
            raise ValueError(
                f"cannot reorient to {codes}: this volume's world axes are the scanner's, not the patient's"
            )
        if sorted("RLAPSI".find(code) // 2 for code in codes) != [0, 1, 2]:
            raise ValueError(f"orientation {codes!r} is not three of R/L, A/P and S/I, one of each; e.g. RAS or LPS")
        change = axes.ornt_transform(axes.io_orientation(self.affine), axes.axcodes2ornt(codes))
        affine = self.affine @ axes.inv_ornt_aff(change, self.shape)
        voxels = np.stack([axes.apply_orientation(channel, change) for channel in self.voxels])
        valid = None if self.valid is None else axes.apply_orientation(self.valid, change)
        return replace(self, voxels=voxels, affine=affine, valid=valid)

    def resample(self, spacing: Sequence[float], order: Interpolation = "linear") -> Volume:
        """The volume on a grid of the given spacing (mm) with the same axes and the same outer box.

        The box is counted from voxel edge to voxel edge and rounded to whole voxels, so it moves by less than half a
        new voxel. Linear interpolation of a coarser grid averages over the new voxel first (no aliasing).
        """
        if min(spacing) <= 0:
            raise ValueError(f"spacing {tuple(spacing)} must be positive millimetres")
        old, new = np.array(self.spacing), np.array(spacing, dtype=np.float64)
        extent = np.array(self.shape) * old
        i, j, k = (max(1, int(n)) for n in np.round(extent / new))
        change = np.eye(4)
        change[:3, :3] = np.diag(new / old)
        change[:3, 3] = (extent - new * np.array([i, j, k])) / 2 / old + (new / old - 1) / 2
        return self.resample_to((i, j, k), self.affine @ change, order)

    def resample_to(
        self, shape: Sequence[int], affine: np.ndarray, order: Interpolation = "linear", fill: float | None = None
    ) -> Volume:
        """The volume's values on another grid (shape and affine to the same world); outside it is `fill`, not valid."""
        from medssl.resample import onto_grid  # SimpleITK is only loaded by those who resample

        if int(np.prod([int(n) for n in shape])) > MAXIMUM_VOXELS:
            raise ValueError(
                f"a grid of {tuple(shape)} voxels is above the limit of {MAXIMUM_VOXELS}; check the spacing"
            )
        value = PAD_FILL.get(self.modality, 0.0) if fill is None else fill
        voxels, valid = onto_grid(self, (int(shape[0]), int(shape[1]), int(shape[2])), affine, order, value)
        return replace(self, voxels=voxels, affine=affine, valid=valid)


def _shift(start: Sequence[int]) -> np.ndarray:
    """The 4x4 matrix that moves the origin to voxel `start`."""
    move = np.eye(4)
    move[:3, 3] = start
    return move
