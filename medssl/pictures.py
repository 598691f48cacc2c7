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

    `images` are (R, *S) each; of a volume the middle of its last axis is shown. Each row of a kind keeps the grey
    scale of the first kind, so that input and rebuild can be compared.
    """
    planes = {name: _middle(values.detach().float().cpu().numpy()) for name, values in images.items()}
    rows = []
    for row in range(min(ROWS, *(len(values) for values in planes.values()))):
        first = next(iter(planes.values()))[row]
        low, high = np.percentile(first, [1, 99])
        rows.append(
            np.hstack(
                [
                    _frame(
                        plane[row] if "label" not in name else plane[row] / max(plane.max(), 1) * (high - low) + low,
                        low,
                        high,
                    )
                    for name, plane in planes.items()
                ]
            )
        )
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


def _middle(values: np.ndarray) -> np.ndarray:
    return values[..., values.shape[-1] // 2] if values.ndim == 4 else values


def _frame(plane: np.ndarray, low: float, high: float) -> np.ndarray:
    grey = np.clip((plane - low) / max(high - low, 1e-6), 0, 1) * 255
    # Arrays run right and up in the world; pictures run right and down.
    return np.pad(np.flipud(grey.T).astype(np.uint8), 1, constant_values=128)
