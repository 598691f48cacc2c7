"""A map over the volume that it is of: the planes through its highest voxel, in true proportions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medssl.atomic import replacing

PLANES = ("sagittal", "coronal", "axial")
"""Across the axes of a volume in RAS+ order."""

STRENGTH = 0.6
"""Opacity of the map where it is highest."""


def draw(path: Path, image: np.ndarray, found: np.ndarray, mask: np.ndarray, affine: np.ndarray, title: str) -> None:
    """Nothing; the PNG `path` shows the planes of `image` (I, J, K) through the highest voxel of `found` (I, J, K), where
    that is as colour, and the outline of `mask` (I, J, K; zeros: none). A flat map is shown through the middle.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    peak = np.unravel_index(found.argmax(), found.shape) if found.any() else tuple(n // 2 for n in found.shape)
    axes_shown = [axis for axis in range(3) if all(n > 1 for a, n in enumerate(image.shape) if a != axis)]
    low, high = np.percentile(image, [0.5, 99.5])
    figure, panels = pyplot.subplots(1, len(axes_shown), figsize=(3.4 * len(axes_shown), 3.6), squeeze=False)
    for panel, axis in zip(panels[0], axes_shown, strict=True):
        across, up = (other for other in range(3) if other != axis)
        cut = [np.take(values, peak[axis], axis).T for values in (image, found, mask)]
        shown = {"origin": "lower", "aspect": spacing[up] / spacing[across]}
        panel.imshow(cut[0], cmap="gray", vmin=low, vmax=max(high, low + 1e-6), **shown)
        panel.imshow(cut[1], cmap="inferno", vmin=0, vmax=1, alpha=STRENGTH * cut[1], **shown)
        if cut[2].any():
            panel.contour(cut[2] > 0, levels=[0.5], colors="cyan", linewidths=0.8)
        panel.set_title(f"{PLANES[axis]} {peak[axis]}", fontsize=8)
        panel.set_axis_off()
    figure.suptitle(title, fontsize=9, parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        figure.savefig(part, dpi=110, format="png", bbox_inches="tight")
    pyplot.close(figure)
