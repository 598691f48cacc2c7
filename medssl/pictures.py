"""Pictures of a run: views before, hidden and after, side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from medssl.atomic import replacing

ROWS = 4
"""Scans shown in one picture."""


def tile(images: dict[str, torch.Tensor]) -> np.ndarray:
    """A grey picture (height, width) in 0..255: a row for each of the first scans, a column for each kind of image.

    `images` are (R, *S) each. Of a volume the middle plane across its shortest axis is shown: the slice of a stack, the
    B-scan of an OCT. A row keeps the grey scale of its first image, so that input and rebuild can be compared; label
    maps ("label ...") run from black to white.
    """
    arrays = {name: values.detach().float().cpu().numpy() for name, values in images.items()}
    rows = []
    for row in range(min(ROWS, *(len(values) for values in arrays.values()))):
        low, high = np.percentile(next(iter(arrays.values()))[row], [1, 99])
        frames = []
        for name, values in arrays.items():
            ends = (0.0, max(float(values.max()), 1.0)) if name.startswith("label") else (float(low), float(high))
            frames.append(_frame(values[row], *ends))
        rows.append(np.hstack(frames))
    return np.vstack(rows)


def save_picture(path: Path, images: dict[str, torch.Tensor]) -> np.ndarray:
    """The picture, which now also is the PNG file `path`."""
    from skimage.io import imsave

    picture = np.kron(tile(images), np.ones((2, 2), np.uint8))
    with replacing(path.with_suffix(".png")) as part:
        named = part.with_suffix(".png")
        imsave(named, picture, check_contrast=False)
        named.replace(part)
    return picture


def _frame(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """One plane as grey values with a thin frame, the way up that a reader expects."""
    axis = int(np.argmin(values.shape)) if values.ndim == 3 else -1
    plane = np.take(values, values.shape[axis] // 2, axis) if values.ndim == 3 else values
    grey = np.clip((plane.T - low) / max(high - low, 1e-6), 0, 1) * 255
    # Patient axes grow upwards, picture rows downwards; OCT depth and rows of radiographs already run down.
    upright = np.flipud(grey) if axis == 2 else grey
    return np.pad(upright.astype(np.uint8), 1, constant_values=128)
