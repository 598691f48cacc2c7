"""Opening a store: its tables, and boxes of its arrays read by position."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from medssl.errors import UserError
from medssl.store.shards import read_array
from medssl.store.tables import read_tables
from medssl.store.told import read_labels

Grid = tuple[tuple[int, int, int], np.ndarray, tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Store:
    """A store's tables, and its arrays by volume id. `volumes` are those prepared; `left_out` those that could not be.

    No file is kept open, so a Store can be sent to other processes.
    """

    path: Path
    volumes: pd.DataFrame
    left_out: pd.DataFrame
    patients: pd.DataFrame
    labels: pd.DataFrame
    grids: dict[str, Grid]
    """Shape, affine and names of the arrays that there are, by volume id."""
    channels: tuple[int, ...] = ()
    """The channels of a volume that are read, in this order; none: all."""

    def only(self, channels: tuple[int, ...]) -> Store:
        """The store of which nothing but these channels, counted from 0, is read."""
        return replace(self, channels=channels, volumes=self.volumes.assign(channels=len(channels)))

    def told(self, *tables: Path | str) -> Store:
        """The store with the further labels that tables tell (see told.py). Raises UserError for a label that it has
        already, and for a table of none of its volumes.
        """
        labels = self.labels
        for table in tables:
            more = read_labels(Path(table))
            if both := set(more["name"]) & {*labels["name"], *self.volumes.columns, *self.patients.columns}:
                raise UserError(f"{table}: the store has a {min(both)!r} already; rename the column label:{min(both)}")
            if not more["volume_id"].isin(self.volumes["volume_id"]).any():
                raise UserError(f"{table}: tells nothing of a volume of {self.path}; it is of another store")
            labels = pd.concat([labels, more], ignore_index=True)
        return replace(self, labels=labels)

    def shape(self, volume_id: str) -> tuple[int, int, int]:
        """Number of voxels along I, J, K of a prepared volume."""
        return self._grid(volume_id)[0]

    def affine(self, volume_id: str) -> np.ndarray:
        """The 4x4 matrix from prepared voxel indices to RAS+ mm."""
        return self._grid(volume_id)[1].copy()

    def read(
        self,
        volume_id: str,
        name: str = "image",
        start: Sequence[int] | None = None,
        stop: Sequence[int] | None = None,
    ) -> np.ndarray:
        """The box start <= (i, j, k) < stop of a volume, (C, i, j, k); all of it by default.

        `name` is "image" (float16), "mask" (uint8, one channel) or "valid" (uint8, 1 where a channel was measured;
        there when not all was). Every byte is checked: raises store.Damaged.
        """
        names = self._grid(volume_id)[2]
        if name not in names:
            raise UserError(
                f"{volume_id}: has no {name!r}, only {' and '.join(names)}; choose rows with has_mask or has_valid"
            )
        box = read_array(self.path / "arrays" / volume_id / name, start, stop)
        return box[list(self.channels)] if self.channels and name != "mask" else box

    def rows(
        self,
        *,
        split: str | None = None,
        modality: str | None = None,
        label: str | Sequence[str] | None = None,
        has_mask: bool | None = None,
    ) -> pd.DataFrame:
        """A row for each volume that fits, sorted by id, with its patient's attributes as columns; None means any.

        With `label`, volumes without a value for it are left out and the value is a column of that name; of several
        labels, volumes without a value for any are, and nan stands for those that a volume has not.
        """
        table = self.volumes
        for column, value in (("split", split), ("modality", modality), ("has_mask", has_mask)):
            if value is not None:
                table = table[table[column] == value]
        new = [name for name in self.patients.columns if name not in table.columns or name == "patient_pid"]
        table = table.merge(self.patients[new], on="patient_pid", how="left", validate="many_to_one")
        table = table.reset_index(drop=True)
        return table if label is None else self._labelled(table, [label] if isinstance(label, str) else [*label])

    def _labelled(self, table: pd.DataFrame, labels: list[str]) -> pd.DataFrame:
        known = sorted(self.labels["name"].unique())
        for label in labels:
            if label not in known:
                near = difflib.get_close_matches(label, known, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(known) or 'none'}"
                raise UserError(f"{self.path}: no label called {label!r}; {hint}")
            if label in table.columns:
                raise UserError(f"label {label!r} has the name of a column of the manifest; rename it in the data card")
        values = self.labels[self.labels["name"].isin(labels)].pivot(index="volume_id", columns="name", values="value")
        values = values.dropna(how="all").rename_axis(columns=None)
        return table.merge(values, left_on="volume_id", right_index=True, validate="one_to_one").reset_index(drop=True)

    def _grid(self, volume_id: str) -> Grid:
        try:
            return self.grids[volume_id]
        except KeyError:
            raise UserError(f"{self.path}: no volume {volume_id!r}; see volumes.parquet for those there are") from None


def open_store(path: Path | str) -> Store:
    """The store in a folder. Raises UserError when there is none, when its preparation did not finish, and when its tables
    are damaged or of several runs.
    """
    path = Path(path)
    table, patients, labels = read_tables(path)
    usable = table["status"] != "excluded"
    volumes = table[usable].reset_index(drop=True)
    return Store(
        path=path.resolve(),
        volumes=volumes,
        left_out=table[~usable].reset_index(drop=True),
        patients=patients,
        labels=labels,
        grids=_grids(volumes),
    )


def _grids(volumes: pd.DataFrame) -> dict[str, Grid]:
    if volumes.empty:
        return {}
    names = ("volume_id", "prepared_shape", "prepared_affine", "has_mask", "has_valid")
    grids: dict[str, Grid] = {}
    for volume_id, shape, affine, *has in zip(*(volumes[name] for name in names), strict=True):
        i, j, k = (int(n) for n in shape)
        arrays = ("image", *(name for name, there in zip(("mask", "valid"), has, strict=True) if there))
        grids[volume_id] = (i, j, k), np.array(affine, dtype=np.float64).reshape(4, 4), arrays
    return grids
