"""From rows of a store to batches of views. A batch is a function of (seed, step); nothing else is remembered."""

from __future__ import annotations

import difflib
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from medssl.errors import UserError
from medssl.manifest.demographics import UNKNOWN
from medssl.store import Store
from medssl.views.crops import Crops
from medssl.views.geometry import bounding_box, sample
from medssl.views.intensity import BY_MODALITY, Intensity
from medssl.views.samplers import balanced_rows, rows_of_step, share_of

CACHE_BYTES = 4 << 30
"""Decoded volumes kept in memory, over all views of a process."""

KEPT = 64
"""Volumes of which more than so many would not fit are not kept: only the box that a step needs is read."""

SMALL = 1000
"""The number of the first small view in the keys of random numbers."""


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
    where: torch.Tensor = torch.empty(0)
    """Where the middle of each view is in its volume, from 0 to 1 along each axis (V, B, 3)."""
    small: torch.Tensor = torch.empty(0)
    """Values (L, B, C, *s) of small views that lie within the others; empty when the recipe asks for none."""
    facts: Mapping[str, torch.Tensor] = MappingProxyType({})
    """Further facts by name, a number for each value (B,); -1 where it is unknown. None unless a method asks for them."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """How many views of a scan are drawn, where (`crops`) and how they are altered (None: by modality); and how many
    small views within them, in turn, as `small` says.
    """

    crops: Crops
    count: int = 2
    small: Crops | None = None
    small_count: int = 0
    intensity: Intensity | None = None
    alter: bool = True


class Steps(Dataset[Batch]):
    """The batches of a run by step number, drawn from `rows` of a store.

    `target` is "" (none), "mask", or the name of a column of `rows`. `group` is a column of which a batch holds one value
    only, `balance` one (or a label) whose values come equally often, and `facts` are those that batches tell as numbers.
    `share` is (rank, world): of the `batch` scans of a step, this process draws its slice. The slices of all together are,
    bit for bit, what one process draws.
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
        balance: str = "",
        facts: Sequence[str] = (),
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.store, self.views, self.batch, self.seed, self.target = store, views, batch, seed, target
        self.ids = rows["volume_id"].tolist()
        self.modalities = rows["modality"].tolist()
        if views.intensity is not None and views.alter:
            views.intensity.check(self.modalities)
        self.patients = pd.factorize(rows["patient_pid"])[0]
        self.scanners = pd.factorize(rows["scanner"])[0]
        self.groups: Sequence[object] = rows[group].tolist() if group else [""] * len(rows)
        self.classes = _numbers(store, rows, balance).tolist() if balance else []
        self.places = share_of(batch, *share)
        self.facts = {name: _numbers(store, rows, name) for name in facts}
        self.labels = rows[target].to_numpy(np.float32) if target not in ("", "mask") else None
        self.cache: OrderedDict[tuple[str, str], np.ndarray] = OrderedDict()

    def __getitem__(self, step: int) -> Batch:
        rows = self._rows(step)
        scans = [self._scan(rows[place], (self.seed, step, place)) for place in self.places]
        rows = rows[self.places]
        views, small, to_mm, where, masks = zip(*scans, strict=True)
        target = torch.stack(masks) if self.target == "mask" else torch.empty(0)
        if self.labels is not None:
            target = torch.from_numpy(self.labels[rows])
        return Batch(
            x=torch.stack(views, 1), to_mm=torch.stack(to_mm, 1), patient=torch.from_numpy(self.patients[rows]),
            scanner=torch.from_numpy(self.scanners[rows]), target=target, where=torch.stack(where, 1),
            small=torch.stack(small, 1) if self.views.small_count else torch.empty(0),
            facts={name: torch.from_numpy(values[rows]) for name, values in self.facts.items()},
        )  # fmt: skip

    def _rows(self, step: int) -> np.ndarray:
        if self.classes:
            return balanced_rows(step, self.classes, self.groups, self.batch, self.seed)
        return rows_of_step(step, self.groups, self.batch, self.seed)

    def view_of(self, row: int) -> torch.Tensor:
        """The first view (C, *S) of a row, outside of any step."""
        return self._scan(row, (self.seed, 0, row))[0][0]

    def _scan(self, row: int, key: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        """A scan's views, small views, matrices to mm, places in the volume, and the label map of the first view.

        All places are drawn first; then one box of the volume that holds them all is read and all views are cut from it.
        """
        volume_id, views = self.ids[row], self.views
        shape, affine = self.store.shape(volume_id), self.store.affine(volume_id)
        rngs = [np.random.default_rng((*key, view)) for view in range(views.count)]
        small_rngs = [np.random.default_rng((*key, SMALL + view)) for view in range(views.small_count)]
        if views.alter:
            places = views.crops.draw_views(shape, affine, rngs)
        else:
            places = [views.crops.centred(shape, affine)] * views.count
        crops = views.small or views.crops
        inside = [
            crops.draw_inside(shape, affine, rng, views.crops, places[n % views.count])
            for n, rng in enumerate(small_rngs)
        ]
        boxes = [bounding_box(place, views.crops.grid, shape) for place in places]
        boxes += [bounding_box(place, crops.grid, shape) for place in inside]
        start, stop = np.min([box[0] for box in boxes], axis=0), np.max([box[1] for box in boxes], axis=0)
        image, change = self._box(volume_id, "image", start, stop), self._change(row)
        cut = [self._view(image, place, start, views.crops) for place in places]
        cut_small = [self._view(image, place, start, crops) for place in inside]
        if views.alter:
            cut = [change.apply(x, rng) for x, rng in zip(cut, rngs, strict=True)]
            cut_small = [change.apply(x, rng) for x, rng in zip(cut_small, small_rngs, strict=True)]
        mask = torch.empty(0)
        if self.target == "mask":
            labels = self._box(volume_id, "mask", start, stop)
            mask = self._view(labels, places[0], start, views.crops, "nearest")[0].long()
        where = [(views.crops.middle(place) + 0.5) / np.array(shape) for place in places]
        return (
            torch.stack(cut), torch.stack(cut_small) if cut_small else mask,
            torch.from_numpy(np.stack([affine @ place for place in places])), torch.from_numpy(np.stack(where)), mask,
        )  # fmt: skip

    def _change(self, row: int) -> Intensity:
        return self.views.intensity or BY_MODALITY.get(self.modalities[row], Intensity())

    def _view(
        self,
        box: np.ndarray,
        place: np.ndarray,
        start: np.ndarray,
        crops: Crops,
        order: Literal["bilinear", "nearest"] = "bilinear",
    ) -> torch.Tensor:
        """A view of the volume of which `box` begins at voxel `start`."""
        shift = np.eye(4)
        shift[:3, 3] = -start
        low, high = bounding_box(shift @ place, crops.grid, box.shape[1:])
        shift[:3, 3] -= low
        part = box[:, *(slice(a, b) for a, b in zip(low, high, strict=True))]
        cut = sample(part, shift @ place, crops.grid, order)
        return cut if len(crops.size) == 3 else cut[..., 0]

    def _box(self, volume_id: str, name: str, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """The box of a volume; a volume that is small enough to keep is read whole, once."""
        shape = self.store.shape(volume_id)
        if 2 * math.prod(shape) > CACHE_BYTES // KEPT:
            return self.store.read(volume_id, name, start.tolist(), stop.tolist())
        return self._whole(volume_id, name)[:, *(slice(a, b) for a, b in zip(start, stop, strict=True))]

    def _whole(self, volume_id: str, name: str) -> np.ndarray:
        key = (volume_id, name)
        if key not in self.cache:
            self.cache[key] = self.store.read(volume_id, name)
            while sum(array.nbytes for array in self.cache.values()) > CACHE_BYTES and len(self.cache) > 1:
                self.cache.popitem(last=False)
        self.cache.move_to_end(key)
        return self.cache[key]


def _numbers(store: Store, rows: pd.DataFrame, name: str) -> np.ndarray:
    """A number for each value of a column, or of a label, of `rows` (N,), -1 where it is unknown."""
    if name in rows:
        values = rows[name].astype(object)
    else:
        labels = store.labels[store.labels["name"] == name]
        if labels.empty:
            known = [*map(str, rows.columns), *store.labels["name"].unique()]
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
            raise UserError(f"{name}: the store has no column and no label of that name; {hint}")
        values = rows["volume_id"].map(labels.set_index("volume_id")["value"]).astype(object)
    return pd.factorize(values.where(~values.isin(["", UNKNOWN]), None))[0]
