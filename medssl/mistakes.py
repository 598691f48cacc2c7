"""Pictures of the worst segmentations: planes through the largest mistake, with the outlines of reference and answer."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medssl.atomic import replacing

MOST_PICTURES = 20
"""Cases that are drawn, the worst ones; who wants to see all opens the label maps."""

MOST_TOLD = 3
"""Structures of a case whose numbers stand above its picture."""

PLANES = ("sagittal", "coronal", "axial")
"""Across the axes of a volume in RAS+ order."""

REFERENCE = {"colors": "#ffe066", "linestyles": "solid", "linewidths": 1.4}
FOUND = {"colors": "#d6006c", "linestyles": "dashed", "linewidths": 1.4}
"""Light and whole, dark and dashed: told apart in grey and by who sees no red."""


class Worst:
    """The pictures of the worst of the segmentations shown to it, of at most MOST_PICTURES; the others are not kept."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, float, str, bytes]] = []

    def show(
        self,
        case: str,
        image: np.ndarray,
        outlines: tuple[np.ndarray, np.ndarray],
        columns: Mapping[str, float],
        spacing: Sequence[float],
    ) -> None:
        """Nothing; the case is drawn if it is among the worst so far, by mean Dice, then by mean HD95.

        `image` (I, J, K), `outlines` the label maps (I, J, K) of the reference and of what was found, `columns` what
        was measured. A case without anything, where nothing was found, has no mistake and is never drawn.
        """
        dice, far = columns["dice_mean"], columns["hd95_mean"]
        if np.isnan(dice):
            return
        if len(self._kept) < MOST_PICTURES or (dice, -far, case) < self._kept[-1][:3]:
            drawn = draw(image, *outlines, spacing, title_of(case, columns))
            self._kept = sorted([*self._kept, (dice, -far, case, drawn)])[:MOST_PICTURES]

    def save(self, folder: Path) -> list[Path]:
        """The pictures in `folder`, worst first, as worst_01_CASE.png; those of an earlier model there are removed."""
        folder.mkdir(parents=True, exist_ok=True)
        for former in folder.glob("worst_*.png"):  # they would be taken for this model's
            former.unlink()
        paths = []
        for rank, (_, _, case, drawn) in enumerate(self._kept, 1):
            paths.append(folder / f"worst_{rank:02d}_{case}.png")
            with replacing(paths[-1]) as part:
                part.write_bytes(drawn)
        return paths


def title_of(case: str, columns: Mapping[str, float]) -> str:
    """The case and how far off it is: of several structures the mean and the worst ones."""
    names = [
        name.removeprefix("dice_") for name, value in columns.items() if name[:5] == "dice_" and not np.isnan(value)
    ]
    names = sorted({*names} - {"mean"}, key=lambda name: (columns[f"dice_{name}"], name))
    names = [*(["mean"] if len(names) > 1 else []), *names[:MOST_TOLD]]
    told = [f"{name}: Dice {columns[f'dice_{name}']:.2f}, HD95 {columns[f'hd95_{name}']:.1f} mm" for name in names]
    return "\n".join([case, *told])


def draw(image: np.ndarray, truth: np.ndarray, found: np.ndarray, spacing: Sequence[float], title: str) -> bytes:
    """A PNG of the planes of `image` (I, J, K) through the largest mistake, in true proportions, with both outlines.

    Shown is what surrounds the structures, as much on each side as they are wide. Of a plane (K == 1) there is one.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke

    place = largest_mistake(truth, found, spacing)
    shown = surroundings((truth > 0) | (found > 0))
    axes = [axis for axis in range(3) if all(n > 1 for other, n in enumerate(image.shape) if other != axis)]
    low, high = np.percentile(image, [0.5, 99.5])
    figure = Figure(figsize=(3.4 * max(len(axes), 1), 4.2), layout="constrained")
    panels = figure.subplots(1, max(len(axes), 1), squeeze=False)[0]
    for panel, axis in zip(panels, axes, strict=False):
        across, up = (other for other in range(3) if other != axis)
        plane, *outlines = [np.take(values, place[axis], axis).T for values in (image, truth, found)]
        panel.imshow(
            plane,
            cmap="gray",
            vmin=low,
            vmax=max(high, low + 1e-6),
            origin="lower",
            aspect=spacing[up] / spacing[across],
        )
        for labels, style in zip(outlines, (REFERENCE, FOUND), strict=True):
            halo = withStroke(linewidth=2.4, foreground="black" if style is REFERENCE else "white")
            for number in np.unique(labels[labels > 0]):
                if not (labels == number).all():
                    panel.contour(labels == number, levels=[0.5], **style).set(path_effects=[halo])
        panel.set_xlim(*shown[across])
        panel.set_ylim(*shown[up])
        panel.set_title(f"{PLANES[axis]} {place[axis]}", fontsize=8)
        panel.set_axis_off()
    lines = [
        Line2D([], [], color=style["colors"], ls=style["linestyles"], label=name)
        for name, style in (("reference", REFERENCE), ("found", FOUND))
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=2, fontsize=8, facecolor="0.5")
    figure.suptitle(title, fontsize=8, parse_math=False)
    out = io.BytesIO()
    figure.savefig(out, dpi=110, format="png", metadata={"Software": None})
    return out.getvalue()


def largest_mistake(truth: np.ndarray, found: np.ndarray, spacing: Sequence[float]) -> tuple[int, ...]:
    """The voxel that is deepest inside what is wrong; without mistakes, inside the reference; without that, the middle.

    Depth is the distance in mm to the nearest voxel that is right: a thin rim of many voxels is less than a lump.
    """
    from scipy.ndimage import distance_transform_edt

    for mask in (truth != found, truth > 0):
        if mask.any():
            # What lies at the edge of the volume ends there, but a plane has no depth across itself.
            rim = [(int(length > 1),) * 2 for length in mask.shape]
            deep = distance_transform_edt(np.pad(mask, rim), sampling=spacing)
            place = np.unravel_index(int(deep.argmax()), deep.shape)
            return tuple(int(at) - before for at, (before, _) in zip(place, rim, strict=True))
    return tuple(length // 2 for length in truth.shape)


def surroundings(mask: np.ndarray) -> list[tuple[float, float]]:
    """Along each axis the ends of what is shown: the mask's box, thrice as wide, within the volume; all if it is empty."""
    ends = []
    for axis, length in enumerate(mask.shape):
        there = np.flatnonzero(mask.any(tuple(other for other in range(mask.ndim) if other != axis)))
        first, last = (int(there[0]), int(there[-1])) if there.size else (0, length - 1)
        wide = last - first + 1
        ends.append((max(first - wide, 0) - 0.5, min(last + wide, length - 1) + 0.5))
    return ends
