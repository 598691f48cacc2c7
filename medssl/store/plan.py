"""From a fingerprint to a recipe: voxel size, view size, and where a convolutional trunk pools.

The rules are those published for nnU-Net (Isensee et al., Nature Methods 2021, doi:10.1038/s41592-020-01008-z,
supplementary note 2): the median voxel size, but the 10th percentile along the coarse axis of thick slices; a view as
large as a budget of voxels allows, shaped like the median volume; an axis is pooled while it is long enough and its
voxels are within a factor 2 of the finest ones. Differs: the budget is counted in voxels, not in a network's memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medssl.errors import UserError
from medssl.recipe import read_recipe
from medssl.shipped import shipped
from medssl.store.settings import GROUPS, MODALITIES

ANISOTROPIC = 3.0
"""Ratio of the coarsest to the next voxel size (and of the sizes in voxels) above which slices are thick."""

POOLED_TOGETHER = 2.0
"""Ratio of voxel sizes below which two axes are pooled, and convolved, alike."""

DEFAULT = "pipelines/methods/default.yaml"
"""The recipe whose method a plan proposes."""

LEAST_SCANS = 2
"""Scans of a step: a method that compares scans needs another one."""

LEAST_CELLS = 4
"""Voxels that every axis keeps at the coarsest level."""

MOST_LEVELS = 6
FIRST_WIDTH, LAST_WIDTH = 32, 320
"""Channels of the first level, doubled at each following one up to the last."""

VOXELS = 128 * 128 * 64
"""Voxels of a view that a GPU of 10 GB trains with, two at a time."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A voxel size in mm, a view's size in voxels, and stride and kernel of each of a trunk's levels, by axis.

    `batch` is how many scans a step takes. `group` is the group of volumes that makes a case's channels, "" for one channel.
    """

    modality: str
    channels: int
    spacing: tuple[float, ...]
    size: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    batch: int
    group: str = ""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(min(FIRST_WIDTH * 2**level, LAST_WIDTH) for level in range(len(self.strides)))

    def recipe(self) -> dict[str, Any]:
        """A recipe to pretrain by, with the method of DEFAULT and its steps, and to fine-tune by once a `head` is added."""
        kind = MODALITIES[self.modality]
        prepare: dict[str, Any] = {"modalities": [self.modality]}
        if len(self.spacing) == 3:
            prepare[f"{kind}_spacing"] = list(self.spacing)
        else:
            prepare["xray_pixels"] = max(self.size)
        if self.group:
            prepare["groups"] = self.group
        default = read_recipe(shipped(DEFAULT))
        steps = int(default["pretrain"]["steps"])
        return {
            "prepare": prepare,
            "data": {"modality": self.modality},
            "views": {"size": list(self.size)},
            "trunk": {
                "name": "resenc",
                "channels": self.channels,
                "widths": list(self.widths),
                "strides": [list(stride) for stride in self.strides],
                "kernels": [list(kernel) for kernel in self.kernels],
                # Norms by instance take off each channel's mean, of which pooled features are made.
                "norms": [*["instance"] * (len(self.widths) - 1), "group"],
            },
            "method": default["method"],
            "pretrain": {"steps": steps, "batch": self.batch},
            "finetune": {"steps": steps, "batch": self.batch},
        }


def plan(fingerprint: dict[str, Any], *, modality: str = "", voxels: int = VOXELS) -> Plan:
    """The plan for a modality of a fingerprint, the most frequent one by default. Raises UserError where there is none.

    Flat volumes (radiographs) get a view in two dimensions of the size they were prepared with.
    """
    there = fingerprint["modalities"]
    if not there:
        raise UserError("fingerprint: the store has no volume; see why in volumes.parquet, or prepare other modalities")
    modality = modality or max(sorted(there), key=lambda name: there[name]["volumes"])
    if modality not in there:
        raise UserError(f"modality: the store has no {modality!r}; it has: {', '.join(there)}")
    facts = there[modality]
    if len(facts["channels"]) != 1:
        raise UserError(f"modality {modality}: volumes of {facts['channels']} channels; prepare them into two stores")
    middle = facts["percentiles"].index(50)
    spacing: tuple[float, ...] = (1.0, 1.0)
    if facts["prepared_shape"][2][-1] == 1:
        flat = tuple(int(axis[middle]) for axis in facts["prepared_shape"][:2])
        size = view_size(flat, spacing, voxels)
    else:
        shape = [axis[middle] for axis in facts["shape"]]
        step = [axis[middle] for axis in facts["spacing_mm"]]
        fine = [axis[facts["percentiles"].index(10)] for axis in facts["spacing_mm"]]
        spacing = target_spacing(step, fine, shape)
        extent = np.array(shape) * step / spacing
        size = view_size(tuple(max(1, round(n)) for n in extent), spacing, voxels)
    strides, kernels = levels(size, spacing)
    group = next((name for name, roles in GROUPS.items() if set(roles) == set(facts["intensity"])), "")
    return Plan(
        modality=modality,
        channels=facts["channels"][0],
        spacing=spacing,
        size=size,
        strides=strides,
        kernels=kernels,
        batch=scans(size, voxels),
        group=group if facts["channels"][0] > 1 else "",
    )


def scans(size: Sequence[int], voxels: int = VOXELS) -> int:
    """Scans of a step whose views of `size` take no more memory than one of `voxels` voxels would, if LEAST_SCANS allows; at
    most as many as the default recipe takes.
    """
    most = int(read_recipe(shipped(DEFAULT))["pretrain"]["batch"])
    return min(max(voxels // int(np.prod(size)), LEAST_SCANS), most)


def target_spacing(median: Sequence[float], tenth: Sequence[float], shape: Sequence[float]) -> tuple[float, ...]:
    """The voxel size in mm to resample to: `median`, but along the axis of thick slices its `tenth` percentile.

    Never finer there than along the other axes: slices that thin exist, but most volumes would be invented voxels.
    """
    coarse = int(np.argmax(median))
    others = [axis for axis in range(len(median)) if axis != coarse]
    next_mm, fewest = max(median[a] for a in others), min(shape[a] for a in others)
    spacing = list(median)
    if median[coarse] > ANISOTROPIC * next_mm and shape[coarse] * ANISOTROPIC < fewest:
        spacing[coarse] = max(tenth[coarse], next_mm)
    return tuple(float(f"{mm:.4g}") for mm in spacing)


def view_size(shape: Sequence[int], spacing: Sequence[float], voxels: int = VOXELS) -> tuple[int, ...]:
    """A view of at most `voxels` voxels in the proportions of a volume of `shape`, and no larger than it by a cell.

    Sizes are multiples of what the trunk pools. Raises UserError for a budget that holds no view at all.
    """
    if voxels < LEAST_CELLS ** len(shape):
        raise UserError(f"voxels: {voxels} is no room for a view; give {LEAST_CELLS ** len(shape)} or more")
    size = [max(LEAST_CELLS, n) for n in shape]
    while True:
        cell = np.prod(levels(size, spacing)[0], axis=0).astype(int)
        whole = [int(-(-n // c) * c) for n, c in zip(size, cell, strict=True)]
        if np.prod(whole) <= voxels:
            return tuple(whole)
        # The axis that covers most of its volume gives way, by one cell; an equal one with longer extent first.
        shares = [(w / n, n, axis) for axis, (w, n) in enumerate(zip(whole, shape, strict=True)) if w > LEAST_CELLS]
        axis = max(shares)[2]
        size[axis] = max(LEAST_CELLS, whole[axis] - int(cell[axis]))


def levels(
    size: Sequence[int], spacing: Sequence[float]
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """Strides and kernels of each level for a view of `size` voxels of `spacing` mm; the first stride is 1.

    An axis is halved while both halves keep LEAST_CELLS and its voxels are within POOLED_TOGETHER of the finest axis
    that can still be halved. It is convolved with 1 until its voxels are that near to the finest, and with 3 from then.
    """
    cells, step = np.array(size, dtype=float), np.array(spacing, dtype=float)
    strides, kernels = [(1,) * len(size)], [_kernel(step)]
    while len(strides) < MOST_LEVELS:
        long = cells >= 2 * LEAST_CELLS
        if not long.any():
            break
        halved = long & (step < POOLED_TOGETHER * step[long].min())
        cells, step = np.where(halved, np.ceil(cells / 2), cells), np.where(halved, step * 2, step)
        strides.append(tuple(2 if yes else 1 for yes in halved))
        kernels.append(_kernel(step))
    return tuple(strides), tuple(kernels)


def _kernel(step: np.ndarray) -> tuple[int, ...]:
    return tuple(3 if mm < POOLED_TOGETHER * step.min() else 1 for mm in step)
