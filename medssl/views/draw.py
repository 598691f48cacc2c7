"""From rows of a store to batches of views. A batch is a function of (seed, step); nothing else is remembered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from medssl.store import Store
from medssl.views.crops import STRAIGHT, Crops
from medssl.views.geometry import bounding_box, joined, sample
from medssl.views.history import NOTHING, History, Told, values_of
from medssl.views.intensity import BY_MODALITY, Intensity
from medssl.views.partners import Kind, days_of, mirrored, partners
from medssl.views.samplers import balanced_rows, rows_of_step, share_of

CACHE_BYTES = 4 << 30
"""Decoded volumes kept in memory, over all views of a process, for good: of the others only the box that a step needs is
read."""

KEPT = 64
"""Volumes of which no more than so many would fit are not kept."""

PARTNER = 999
"""The number in the keys of random numbers of the choice among a scan's partners."""

SMALL = 1000
"""The number of the first small view in the keys of random numbers."""


Target = str | tuple[str, ...]
"""What a batch is to be answered with: "" nothing, "mask" a label map, else a label by its name, or several."""


class Batch(NamedTuple):
    """What a method sees in one step. V views, B scans, C channels, *S the view's two or three axes."""

    x: torch.Tensor
    """Values (V, B, C, *S); of series of T visits (V, B, T, C, *S), the oldest first, zeros where there were fewer."""
    to_mm: torch.Tensor
    """From view voxel, bent where there is a bend, to RAS+ mm (V, B, 4, 4), float64."""
    patient: torch.Tensor
    """A number for each patient (B,)."""
    scanner: torch.Tensor
    """A number for each scanner (B,); scans of an unknown scanner share one."""
    target: torch.Tensor
    """Label (B,), labels (B, L) with nan where unknown, or label map (B, *S) of the first view; empty in pretraining."""
    where: torch.Tensor = torch.empty(0)
    """Where the middle of each view is in its volume, from 0 to 1 along each axis (V, B, 3)."""
    small: torch.Tensor = torch.empty(0)
    """Values (L, B, C, *s) of small views that lie within the others; empty when the recipe asks for none."""
    facts: Mapping[str, torch.Tensor] = MappingProxyType({})
    """Further facts by name, a number for each value (B,); -1 where it is unknown. None unless a method asks for them."""
    to_share: torch.Tensor = torch.empty(0)
    """As `to_mm`, but to shares of the volume's extent, from 0 to 1 along each of its axes (V, B, 4, 4), float64."""
    bend: torch.Tensor = torch.empty(0)
    """Control points of the views' bends (V, B, 3, G, G, G), float64 (see bend.py); empty when the recipe asks for none."""
    told: Told = NOTHING
    """Numbers beside the scans."""
    days: torch.Tensor = torch.empty(0)
    """How many days after its patient's first study the volume of each view was taken (V, B); nan where it is unknown."""


class Spot(NamedTuple):
    """Where in a volume a view is, and how it is bent."""

    crops: Crops
    place: np.ndarray
    bend: torch.Tensor


class Seen(NamedTuple):
    """One view, as `Batch` holds many."""

    x: torch.Tensor
    to_mm: torch.Tensor
    to_share: torch.Tensor
    where: torch.Tensor
    bend: torch.Tensor
    days: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Views:
    """How many views of a scan are drawn, where (`crops`) and how they are altered (None: by modality); and how many
    small views within them, in turn, as `small` says. With `partner`, every second view is of another visit of the
    patient, or of the other eye, mirrored, where there is one. "visit" draws it anywhere; "follow_up" is of another day, and
    drawn where the view before it is, as a share of the volume, and turned, zoomed and bent alike.
    """

    crops: Crops
    count: int = 2
    small: Crops | None = None
    small_count: int = 0
    intensity: Intensity | None = None
    alter: bool = True
    partner: Kind = "none"


class Steps(Dataset[Batch]):
    """The batches of a run by step number, drawn from `rows` of a store.

    `target` is "" (none), "mask", the name of a column of `rows`, or those of several. `group` is a column of which a batch
    holds one value only, `balance` one (or a label, or several crossed, a*b) whose values come equally often, and `facts`
    are those that batches tell as numbers. `history` is what is told beside the rows' own volumes; the visits of a series
    are cut at the same place, and altered each in its own way.
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
        target: Target = "",
        group: str = "",
        balance: str = "",
        facts: Sequence[str] = (),
        history: History | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.store, self.views, self.batch, self.seed, self.target = store, views, batch, seed, target
        self.ids = rows["volume_id"].tolist()
        self.history = history or History([(name,) for name in self.ids], NOTHING)
        self.modalities = rows["modality"].tolist()
        if views.intensity is not None and views.alter:
            views.intensity.check(self.modalities)
        self.patients = pd.factorize(rows["patient_pid"])[0]
        self.scanners = pd.factorize(rows["scanner"])[0]
        self.groups: Sequence[object] = rows[group].tolist() if group else [""] * len(rows)
        self.classes = classes_of(store, rows, balance).tolist() if balance else []
        self.places = share_of(batch, *share)
        self.mates, self.days = partners(rows, views.partner), torch.tensor(days_of(rows))
        self.facts = {name: classes_of(store, rows, name) for name in facts}
        columns = target if isinstance(target, str) else [*target]
        self.labels = rows[columns].to_numpy(np.float32) if target not in ("", "mask") else None
        self.forget()

    def __getitem__(self, step: int) -> Batch:
        rows = self._rows(step)
        scans = [self._scan(rows[place], (self.seed, step, place)) for place in self.places]
        rows = rows[self.places]
        whole, small, masks = zip(*scans, strict=True)
        target = torch.stack(masks) if self.target == "mask" else torch.empty(0)
        if self.labels is not None:
            target = torch.from_numpy(self.labels[rows])
        return Batch(
            x=_stacked(whole, "x"), to_mm=_stacked(whole, "to_mm"), patient=torch.from_numpy(self.patients[rows]),
            scanner=torch.from_numpy(self.scanners[rows]), target=target, where=_stacked(whole, "where"),
            small=_stacked(small, "x") if self.views.small_count else torch.empty(0),
            facts={name: torch.from_numpy(values[rows]) for name, values in self.facts.items()},
            to_share=_stacked(whole, "to_share"),
            bend=_stacked(whole, "bend") if self.views.crops.bend_mm and self.views.alter else torch.empty(0),
            told=self.history.told.of(torch.from_numpy(rows)), days=_stacked(whole, "days"),
        )  # fmt: skip

    def _rows(self, step: int) -> np.ndarray:
        if self.classes:
            return balanced_rows(step, self.classes, self.groups, self.batch, self.seed)
        return rows_of_step(step, self.groups, self.batch, self.seed)

    def view_of(self, row: int) -> torch.Tensor:
        """The first view (C, *S) of a row, outside of any step."""
        return self._scan(row, (self.seed, 0, row))[0][0].x

    def forget(self) -> None:
        """Nothing; no volume is kept in memory any more."""
        self.kept: dict[tuple[str, str], np.ndarray] = {}
        self.kept_bytes = 0

    def _scan(self, row: int, key: tuple[int, ...]) -> tuple[list[Seen], list[Seen], torch.Tensor]:
        """A scan's views, its small views, and the label map of the first view.

        Every second view is of the scan's partner, if it has one.
        """
        views, mates = self.views, self.mates[row]
        source = [row] * views.count
        if len(mates):
            source[1::2] = [int(np.random.default_rng((*key, PARTNER)).choice(mates))] * (views.count // 2)
        seen: dict[int, Seen] = {}
        mask = torch.empty(0)
        for one in dict.fromkeys(source):
            numbers = [n for n, which in enumerate(source) if which == one]
            numbers += [SMALL + n for n in range(views.small_count) if source[n % views.count] == one]
            cut, labels = self._cut(one, numbers, key, partner="none" if one == row else views.partner)
            cut = self._with_earlier(one, numbers, key, cut)
            seen |= zip(numbers, cut, strict=True)
            mask = labels if one == row else mask
        whole, small = ([seen[n] for n in sorted(seen) if (n >= SMALL) == inside] for inside in (False, True))
        return whole, small, mask

    def _with_earlier(self, row: int, numbers: list[int], key: tuple[int, ...], last: list[Seen]) -> list[Seen]:
        """The views of a row, with those of the visits before it in front (T, C, *S) where series are asked for."""
        days = self.history.told.days
        if not days.numel():
            return last
        visits = range(len(self.history.volumes[row]) - 1, 0, -1)
        before = [self._cut(row, numbers, key, visit=visit)[0] for visit in visits]
        fewer = [[one._replace(x=torch.zeros_like(one.x)) for one in last]] * (days.shape[1] - 1 - len(before))
        lines = zip(*fewer, *before, last, strict=True)
        return [line[-1]._replace(x=torch.stack([one.x for one in line])) for line in lines]

    def _cut(
        self, row: int, numbers: list[int], key: tuple[int, ...], *, partner: Kind = "none", visit: int = 0
    ) -> tuple[list[Seen], torch.Tensor]:
        """The views of so many numbers of one volume, `visit` visits before the row's own or the `partner` of a scan's, and
        the label map of the first.

        All places are drawn first; then one box of the volume that holds them all is read and all views are cut from it,
        or several, where views are so far apart that this is less.
        """
        volume_id, views = self.history.volumes[row][visit], self.views
        shape, affine = self.store.shape(volume_id), self.store.affine(volume_id)
        again, count = partner == "follow_up", sum(number < SMALL for number in numbers)
        rngs = [np.random.default_rng((*key, number - again)) for number in numbers]
        if views.alter:
            places = views.crops.draw_views(shape, affine, rngs[:count])
        else:
            places = [views.crops.centred(shape, affine)] * count
        if partner == "eye":
            places = [mirrored(place, affine, views.crops.grid) for place in places]
        crops = views.small or views.crops
        of_view = dict(zip(numbers, places, strict=False))
        for number, rng in zip(numbers[count:], rngs[count:], strict=True):
            around = of_view[(number - SMALL) % views.count]
            inside = crops.draw_inside(shape, affine, rng, views.crops, around)
            places.append(mirrored(inside, affine, crops.grid) if partner == "eye" else inside)
        spots = [
            Spot(law, place, law.draw_bend(place, affine, rng) if views.alter else STRAIGHT)
            for law, place, rng in zip([views.crops] * count + [crops] * len(rngs[count:]), places, rngs, strict=True)
        ]
        reads, which = joined([bounding_box(spot.place, spot.crops.grid, shape, spot.bend) for spot in spots])
        images, change = [self._box(volume_id, "image", *box) for box in reads], self._change(row)
        cut = [_view(images[n], spot, reads[n][0]) for n, spot in zip(which, spots, strict=True)]
        if visit or again:  # the place is that of the other day's view, noise and gain are the scanner's of that day
            rngs = [np.random.default_rng((*key, number, visit)) for number in numbers]
        if views.alter:
            cut = [change.apply(x, rng) for x, rng in zip(cut, rngs, strict=True)]
        mask = torch.empty(0)
        if self.target == "mask":
            mask = _view(self._box(volume_id, "mask", *reads[0]), spots[0], reads[0][0], "nearest")[0].long()
        share = np.diag([*(1 / np.array(shape)), 1.0])
        share[:3, 3] = 0.5 / np.array(shape)
        return [
            Seen(
                x, torch.from_numpy(affine @ spot.place), torch.from_numpy(share @ spot.place),
                torch.from_numpy((spot.crops.middle(spot.place, spot.bend) + 0.5) / np.array(shape)), spot.bend,
                self.days[row],
            )
            for x, spot in zip(cut, spots, strict=True)
        ], mask  # fmt: skip

    def _change(self, row: int) -> Intensity:
        return self.views.intensity or BY_MODALITY.get(self.modalities[row], Intensity())

    def _box(self, volume_id: str, name: str, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """The box of a volume, from memory where the volume is kept or there is room to keep it.

        None makes room for another: whole volumes read for one box each would take twice as long as the boxes.
        """
        key = (volume_id, name)
        if key not in self.kept:
            size = 2 * math.prod(self.store.shape(volume_id))
            if size > CACHE_BYTES // KEPT or self.kept_bytes + size > CACHE_BYTES:
                return self.store.read(volume_id, name, start.tolist(), stop.tolist())
            self.kept[key] = self.store.read(volume_id, name)
            self.kept_bytes += self.kept[key].nbytes
        return self.kept[key][:, *(slice(a, b) for a, b in zip(start, stop, strict=True))]


def _view(
    box: np.ndarray, spot: Spot, start: np.ndarray, order: Literal["bilinear", "nearest"] = "bilinear"
) -> torch.Tensor:
    """A view of the volume of which `box` begins at voxel `start`."""
    shift = np.eye(4)
    shift[:3, 3] = -start
    low, high = bounding_box(shift @ spot.place, spot.crops.grid, box.shape[1:], spot.bend)
    shift[:3, 3] -= low
    part = box[:, *(slice(a, b) for a, b in zip(low, high, strict=True))]
    cut = sample(part, shift @ spot.place, spot.crops.grid, order, spot.bend)
    return cut if len(spot.crops.size) == 3 else cut[..., 0]


def _stacked(scans: Sequence[Sequence[Seen]], name: str) -> torch.Tensor:
    """What the views of several scans hold by a name (V, B, ...)."""
    every = [getattr(view, name) for views in zip(*scans, strict=True) for view in views]
    return torch.stack(every).unflatten(0, (-1, len(scans)))


def classes_of(store: Store, rows: pd.DataFrame, name: str) -> np.ndarray:
    """A number for each value of a column, or of a label, of `rows` (N,), -1 where it is unknown.

    Of several crossed, a*b, for each combination of their values, of which unknown is one; -1 where none of them is known.
    """
    parts = [name] if name in rows else name.split("*")
    each = [pd.factorize(values_of(store, rows, part.strip()))[0] for part in parts]
    if len(each) == 1:
        return each[0]
    crossed = pd.Series(list(zip(*(codes.tolist() for codes in each), strict=True)), dtype=object)
    return pd.factorize(crossed.where(np.max(each, axis=0) >= 0, None))[0]
