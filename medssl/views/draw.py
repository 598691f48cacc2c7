"""From rows of a store to batches of views. A batch is a function of (seed, step); nothing else is remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from medssl.store import Store
from medssl.views.crops import Crops
from medssl.views.geometry import bounding_box, sample
from medssl.views.intensity import BY_MODALITY, Intensity
from medssl.views.samplers import rows_of_step

CACHE_BYTES = 4 << 30
"""Decoded volumes kept in memory, over all views of a process."""


class Batch(NamedTuple):
    """What a method sees in one step. V views, B scans, C channels, *S the view's two or three axes."""

    x: torch.Tensor
    """Values (V, B, C, *S)."""
    to_mm: torch.Tensor
    """From view voxel to RAS+ mm (V, B, 4, 4), float64."""
    patient: torch.Tensor
    """A number for each patient (B,)."""
    scanner: torch.Tensor
    """A number for each scanner (B,); scans of an unknown scanner share one."""
    target: torch.Tensor
    """Label (B,) or label map (B, *S) of the first view; empty in pretraining."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """How many views of a scan are drawn, where (`crops`) and how they are altered (None: by modality)."""

    crops: Crops
    count: int = 2
    intensity: Intensity | None = None
    alter: bool = True


class Steps(Dataset[Batch]):
    """The batches of a run by step number, drawn from `rows` of a store.

    `target` is "" (none), "mask", or the name of a column of `rows`. `groups` names each row's group for batches that
    keep to one group (None: batches mix all rows).
    """

    def __init__(
        self,
        store: Store,
        rows: pd.DataFrame,
        views: Views,
        *,
        batch: int,
        seed: int,
        target: str = "",
        group: str = "",
    ) -> None:
        self.store, self.views, self.batch, self.seed, self.target = store, views, batch, seed, target
        self.ids = rows["volume_id"].tolist()
        self.modalities = rows["modality"].tolist()
        self.patients = pd.factorize(rows["patient_pid"])[0]
        self.scanners = pd.factorize(rows["scanner"])[0]
        self.groups: Sequence[object] = rows[group].tolist() if group else [""] * len(rows)
        self.labels = rows[target].to_numpy(np.float32) if target not in ("", "mask") else None
        self.cache: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()

    def __getitem__(self, step: int) -> Batch:
        rows = rows_of_step(step, self.groups, self.batch, self.seed)
        drawn = [
            [self._view(row, view, (self.seed, step, place, view)) for place, row in enumerate(rows)]
            for view in range(self.views.count)
        ]
        x = torch.stack([torch.stack([image for image, _, _ in view]) for view in drawn])
        to_mm = torch.stack([torch.stack([matrix for _, matrix, _ in view]) for view in drawn])
        masks = [mask for _, _, mask in drawn[0]]
        target = torch.stack([m for m in masks if m is not None]) if self.target == "mask" else torch.empty(0)
        if self.labels is not None:
            target = torch.from_numpy(self.labels[rows])
        return Batch(x, to_mm, torch.from_numpy(self.patients[rows]), torch.from_numpy(self.scanners[rows]), target)

    def _view(
        self, row: int, view: int, key: tuple[int, ...]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        rng = np.random.default_rng(key)
        volume_id, crops = self.ids[row], self.views.crops
        shape, affine = self.store.shape(volume_id), self.store.affine(volume_id)
        place = crops.draw(shape, affine, rng) if self.views.alter else crops.centred(shape, affine)
        image = self._cut(volume_id, "image", place)
        if self.views.alter:
            image = (self.views.intensity or BY_MODALITY.get(self.modalities[row], Intensity())).apply(image, rng)
        mask = self._cut(volume_id, "mask", place)[0].long() if self.target == "mask" and view == 0 else None
        return image, torch.from_numpy(affine @ place), mask

    def _cut(self, volume_id: str, name: str, place: np.ndarray) -> torch.Tensor:
        grid, dims = self.views.crops.grid, len(self.views.crops.size)
        start, stop = bounding_box(place, grid, self.store.shape(volume_id))
        shift = np.eye(4)
        shift[:3, 3] = -start
        box = self._whole(volume_id, name)[:, *(slice(a, b) for a, b in zip(start, stop, strict=True))]
        cut = sample(box, shift @ place, grid, "nearest" if name == "mask" else "bilinear")
        return cut if dims == 3 else cut[..., 0]

    def _whole(self, volume_id: str, name: str) -> np.ndarray:
        key = (volume_id, name)
        if key not in self.cache:
            self.cache[key] = self.store.read(volume_id, name)
            while sum(array.nbytes for array in self.cache.values()) > CACHE_BYTES and len(self.cache) > 1:
                self.cache.popitem(last=False)
        self.cache.move_to_end(key)
        return self.cache[key]
