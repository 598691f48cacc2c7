"""Which rows of a store a recipe's `data` section means, and the views its `views` section describes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medssl.errors import UserError
from medssl.recipe import Whole, cast, check_keys, make, section_of, signature
from medssl.store import Store
from medssl.views.crops import Crops
from medssl.views.draw import Target, Views
from medssl.views.history import Beside, History, with_history
from medssl.views.intensity import Intensity
from medssl.views.partners import Kind

DEALT = ("train", "val")
"""The splits whose patients cross-validation deals anew; test is never touched."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Volumes by modality (DICOM code) and role (bpMRI: t2w, adc, hbv); empty means all.

    Of each volume nothing but `channels` is read, counted from 0, in the order given; empty means all.
    `labelled` limits how many patients' labels a training may see, always the same ones, and those of a smaller number
    among those of a larger one; 0 means all. `lot` says which: 0 the first by id, others as drawn by that number.
    With `folds`, the patients of the splits train and val are dealt anew into so many parts: those of part `fold` (from 0)
    are val, the others train, in pretraining as in fine-tuning.
    """

    modality: str = ""
    role: str = ""
    labelled: int = 0
    lot: int = 0
    folds: Whole = 0
    fold: Whole = 0
    channels: tuple[Whole, ...] = ()

    def __post_init__(self) -> None:
        if self.folds == 1 or self.fold >= max(self.folds, 1):
            raise UserError(
                f"data.fold: {self.fold} of {self.folds} folds; give at least 2 folds, and a fold from 0 to one less"
            )
        if len(set(self.channels)) < len(self.channels):
            raise UserError(f"data.channels: {list(self.channels)} names one twice; name each once")


def narrowed(store: Store, section: Mapping[str, Any]) -> Store:
    """The store as a recipe's `data` section reads it: `data.channels` of each volume. Raises UserError where a volume that
    it means has not so many.
    """
    choice = make(Selection, section, "data")
    if not choice.channels:
        return store
    counts = matching(store, choice, None)["channels"].astype(int)
    if few := int((counts <= max(choice.channels)).sum()):
        raise UserError(
            f"data.channels: {list(choice.channels)}, but {few} of {len(counts)} volumes have no channel "
            f"{max(choice.channels)}; they are counted from 0"
        )
    return store.only(choice.channels)


def select(
    store: Store, section: Mapping[str, Any], *, split: str, target: Target = "", channels: int | None = None
) -> pd.DataFrame:
    """Rows of the store in `split`, sorted by id: all, or those with a mask ("mask") or a value for a label, or for one of
    several.

    Raises UserError when nothing is left, when fewer patients have labels than `data.labelled` asks for, or when a
    volume has other than the trunk's number of `channels` (None: not asked).
    """
    choice = make(Selection, section, "data")
    rows = matching(store, choice, split, target)
    if rows.empty:
        raise UserError(
            f"store: no volume of split {split!r} with target {target or 'none'!r} matches data {dict(section)}; "
            "check the recipe's data section and what `medssl prepare` kept"
        )
    found = sorted(set(rows["channels"].astype(int)))
    if channels is not None and found != [channels]:
        raise UserError(
            f"trunk.channels: {channels}, but the volumes chosen have {' and '.join(map(str, found))}; set it to that, "
            "or choose volumes of one kind by data.modality and data.role"
        )
    rows = rows.sort_values("volume_id")
    if target and split == "train" and choice.labelled:
        rows = _few(rows, choice.labelled, choice.lot)
    return rows.reset_index(drop=True)


def matching(store: Store, choice: Selection, split: str | None, target: Target = "") -> pd.DataFrame:
    """Rows of the store in `split` (None: any) that `choice` means, of which `target` is known; there may be none."""
    label = target if target not in ("", "mask") else None
    masks = True if target == "mask" else None
    dealt = choice.folds > 0 and split in DEALT
    rows = store.rows(split=None if dealt else split, modality=choice.modality or None, label=label, has_mask=masks)
    if dealt:
        held = rows["patient_pid"].map(folds(store, choice.folds)) == choice.fold
        rows = rows[rows["split"].isin(DEALT) & (held == (split == "val"))].assign(split=split)
    return rows[rows["role"] == choice.role] if choice.role else rows


def folds(store: Store, count: int) -> dict[str, int]:
    """The part, from 0, of each patient of the splits train and val: dealt in turn, in the order of a hash of their ids, so
    that parts are of equal size to one and do not depend on labels.
    """
    patients = store.volumes.loc[store.volumes["split"].isin(DEALT), "patient_pid"].unique()
    mixed = sorted(patients, key=lambda who: hashlib.sha256(f"folds {who}".encode()).hexdigest())
    return {who: place % count for place, who in enumerate(mixed)}


def select_history(
    store: Store,
    section: Mapping[str, Any],
    rows: pd.DataFrame,
    beside: Beside = Beside(),
) -> tuple[pd.DataFrame, History]:
    """Those of `rows` that end a series, and their history (see history.py). Earlier visits are of what the data section
    means, labelled or not.
    """
    every = matching(store, make(Selection, section, "data"), None)
    return with_history(store, rows, every, beside)


def _few(rows: pd.DataFrame, patients: int, lot: int) -> pd.DataFrame:
    known = rows["patient_pid"].drop_duplicates()
    if lot:
        known = known.iloc[np.random.default_rng(lot).permutation(len(known))]
    if patients > len(known):
        raise UserError(f"data.labelled: {patients} patients asked for, {len(known)} have labels; lower it")
    return rows[rows["patient_pid"].isin(known[:patients])]


def build_views(section: Mapping[str, Any], *, count: int | None = None, alter: bool = True) -> Views:
    """The views that a recipe's `views` section describes; `count` overrides how many are drawn of a scan, and leaves out
    the small ones and partners.
    """
    settings, box = section_of(section, "views"), list(signature(Crops)[0])
    check_keys(settings, [*box, "intensity", "small", "partner", "count"], "views", "views")
    intensity, small = settings.pop("intensity", None), section_of(settings.pop("small", {}), "views.small")
    partner = cast(settings.pop("partner", "none"), Kind, "views.partner")
    check_keys(small, [*box, "count"], "views.small", "views")
    given = _count(settings.pop("count", "2"), "views.count")
    many = _count(small.pop("count", "4"), "views.small.count") if small else 0
    crops = make(Crops, settings, "views")
    within = make(Crops, small, "views.small") if small else None
    if within and len(within.size) != len(crops.size):
        raise UserError(f"views.small.size: {within.size} has not as many axes as views.size {crops.size}")
    change = make(Intensity, intensity, "views.intensity") if intensity is not None else None
    if change and change.thick and len(crops.size) == 2:
        raise UserError(f"views.intensity.thick: {change.thick}, but flat views have no slices across; leave it out")
    return Views(
        crops=crops,
        count=count or given,
        small=None if count else within,
        small_count=0 if count else many,
        intensity=change,
        alter=alter,
        partner="none" if count else partner,
    )


def _count(value: Any, where: str) -> int:
    count = cast(value, int, where)
    if count < 1:
        raise UserError(f"{where}: {count} is not a positive whole number")
    return int(count)
