"""The grid a volume is prepared on, and its label map on that same grid."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np

from medssl.store.reasons import Unusable
from medssl.store.settings import MODALITIES, Preparation
from medssl.volume import AIR_HU, MAXIMUM_VOXELS, Volume

SHEAR_TOLERANCE = 1e-3
"""Cosine between two axes above which a grid counts as sheared (a tilted CT gantry) and is put on a straight one."""


NOISE_HU = 100.0
"""How far below air noise may reach; what is lower was never measured (scanners and converters write -2000 or -3024)."""

NEVER_TISSUE_HU = -1000.0
"""The highest value that may fill the corners of a round field of view."""


def put_on_grid(volume: Volume, settings: Preparation) -> Volume:
    """The volume turned and resampled as its modality asks; float32. Raises Unusable."""
    flat = volume.shape[2] == 1
    if MODALITIES[volume.modality] == "xray" and not flat:
        raise Unusable("NOT_FLAT")
    volume = without_nan(volume)
    if MODALITIES[volume.modality] == "ct":
        volume = without_padding(volume)
    if flat:
        return letterbox(volume, settings.xray_pixels)
    if volume.spacing_source == "unknown":
        raise Unusable("SPACING_UNKNOWN")
    spacing = settings.spacing(volume.modality)
    if np.prod(np.array(volume.shape) * volume.spacing / spacing) > MAXIMUM_VOXELS:
        raise Unusable("TOO_LARGE")
    if volume.oriented and MODALITIES[volume.modality] in ("ct", "mr"):
        volume = volume.reorient(settings.mr_orientation)
    return straighten(volume, spacing) if is_sheared(volume.affine) else volume.resample(spacing)


def without_nan(volume: Volume) -> Volume:
    """The volume with voxels that are not finite marked as not measured, so that no interpolation uses them."""
    if volume.voxels.dtype.kind != "f":
        return volume
    finite = np.isfinite(volume.voxels).all(axis=0)
    if finite.all():
        return volume
    return replace(volume, valid=finite if volume.valid is None else finite & volume.valid)


def without_padding(ct: Volume) -> Volume:
    """The CT with padding marked as not measured, so that no interpolation mixes it with tissue.

    Padding is what is thinner than air can be, and the one value that fills all of a square slice beyond its inscribed
    circle, from the left and right edges as far in as it goes on.
    """
    values = ct.voxels[0]
    thinnest = AIR_HU - NOISE_HU
    # Whole numbers are compared with a whole number: with a fraction, each would be made a 64-bit float first.
    valid = values >= (math.ceil(thinnest) if values.dtype.kind in "iu" else thinnest)
    width, height, _ = ct.shape
    i, j = (np.arange(n)[:, None] - (n - 1) / 2 for n in (width, height))
    outside = np.hypot(i, j.T) > max(width, height) / 2
    fill = values[0, 0, 0] if width == height and outside.any() else np.inf
    if thinnest <= fill <= NEVER_TISSUE_HU and (values[outside] == fill).all():
        same = values == fill
        valid &= ~np.logical_and.accumulate(same, axis=0)
        valid &= ~np.logical_and.accumulate(same[::-1], axis=0)[::-1]
    if valid.all():
        return ct
    return replace(ct, valid=valid if ct.valid is None else ct.valid & valid)


def letterbox(volume: Volume, pixels: int) -> Volume:
    """The flat volume centred in a square of `pixels`, its longest side filling it; what is added is not valid.

    Proportions are kept in millimetres where the pixel size is known and in pixels where it is not.
    """
    size = np.array(volume.shape[:2], dtype=np.float64)
    step = np.array(volume.spacing[:2]) if volume.spacing_source != "unknown" else np.ones(2)
    factor = (size * step).max() / pixels / step
    change = np.eye(4)
    change[0, 0], change[1, 1] = factor
    change[:2, 3] = (size - 1) / 2 - factor * (pixels - 1) / 2
    return volume.resample_to((pixels, pixels, 1), volume.affine @ change)


def is_sheared(affine: np.ndarray) -> bool:
    """Whether two of the grid's axes are not at a right angle."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > SHEAR_TOLERANCE)


def straighten(volume: Volume, spacing: tuple[float, float, float]) -> Volume:
    """The sheared volume on a grid with right angles that holds all of it: I kept, K along the slices' normal."""
    axes, lengths = np.linalg.qr(volume.affine[:3, :3])
    axes = axes * np.sign(np.diag(lengths))
    corners = np.array(list(product(*((-0.5, n - 0.5) for n in volume.shape))))
    along = volume.world(corners) @ axes
    low, high = along.min(axis=0), along.max(axis=0)
    shape = np.maximum(1, np.round((high - low) / spacing)).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = axes @ ((low + high) / 2 - np.array(spacing) * (shape - 1) / 2)
    return volume.resample_to(shape.tolist(), affine)


def mask_on_grid(mask: Volume, *, image: Volume, grid: Volume) -> np.ndarray:
    """The label map (1, I, J, K) uint8 on the prepared grid, nearest neighbour through the world. Raises Unusable.

    `image` is the volume as read, `grid` as prepared. Where the image's millimetres mean nothing, the label map must
    have the image's shape and is taken voxel by voxel.
    """
    if mask.channels != 1 or not is_label_map(mask.voxels):
        raise Unusable("MASK_VALUES")
    if image.spacing_source == "unknown":
        if mask.shape != image.shape:
            raise Unusable("MASK_MISPLACED")
        mask = replace(mask, affine=image.affine)
    labels = replace(mask, voxels=mask.voxels.astype(np.uint8), modality="MASK", unit="label", valid=None)
    there = labels.resample_to(grid.shape, grid.affine, "nearest", 0)
    outside = there.valid is not None and not there.valid.any()
    if outside or (labels.voxels.any() and not _meets(labels, image)):
        raise Unusable("MASK_MISPLACED")
    return there.voxels


def is_label_map(voxels: np.ndarray) -> bool:
    """Whether all values are whole numbers that fit in 8 bits."""
    if voxels.dtype.kind not in "biuf" or not np.isfinite(voxels).all() or voxels.min() < 0 or voxels.max() > 255:
        return False
    return voxels.dtype.kind != "f" or bool((voxels == np.round(voxels)).all())


def _meets(labels: Volume, image: Volume) -> bool:
    """Whether any labelled voxel has its centre within the image."""
    places = np.argwhere(labels.voxels[0])
    index = (labels.world(places) - image.affine[:3, 3]) @ np.linalg.inv(image.affine[:3, :3]).T
    return bool(((index >= -0.5) & (index <= np.array(image.shape) - 0.5)).all(axis=1).any())
