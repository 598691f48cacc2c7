"""A run's folder: the resolved recipe, the checkpoint, the log and the pictures of one training.

run.json         recipe, versions, digest of the store and how it was prepared; written first and never changed
last.safetensors weights, optimizer and step
log.csv          a row every few steps
times.csv        beside it: the seconds since the row before, and how many of them the network waited for batches
pictures/        what went in, what was hidden, what came out
tensorboard/     the same for TensorBoard

and for whoever predicts with it or goes on from it (see domain/):
trained_on.json         what its training volumes were like and which they are; written when it begins
trained_on.safetensors  of a fine-tuning: what they look like to its trunk, and how far from that held-out ones are; written
                        when it has ended
"""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from medssl import checkpoint
from medssl.atomic import replacing, sweep, write_json
from medssl.errors import UserError
from medssl.lock import writing
from medssl.processes import failing_together, first
from medssl.store import Store
from medssl.store.tables import RECORD

TIMES = "times.csv"
"""Apart from log.csv, which is the same in every repetition of a run."""

PACKAGES = ("medssl", "torch", "monai", "numpy")


@contextmanager
def occupied(run: Path) -> Iterator[None]:
    """While it lasts, no other training writes to `run`; what a killed one left half-written is gone."""
    with ExitStack() as held:
        with failing_together():
            if first():
                held.enter_context(writing(run, "training"))
                sweep(run)
        yield


def open_run(run: Path, recipe: dict[str, Any], store: Store, facts: dict[str, Any]) -> None:
    """Nothing; `run` is new, or holds a run of the same recipe on the same store that can go on. Else a UserError.

    The first of several processes looks and writes.
    """
    with failing_together():
        if first():
            _open(run, recipe, store, facts)


def _open(run: Path, recipe: dict[str, Any], store: Store, facts: dict[str, Any]) -> None:
    record = {
        "recipe": recipe,
        "store": digest(store),
        "prepared": prepared(store),
        "facts": facts,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    path = run / "run.json"
    if not path.exists():
        write_json(path, record)
        return
    before = read_run(run)
    for key in ("recipe", "store", "facts"):
        if before[key] != record[key]:
            raise UserError(
                f"{run}: holds a run with another {key} ({_difference(before[key], record[key])}); "
                "give another folder with --run, or delete this one to start again"
            )


def _difference(before: Any, now: Any) -> str:
    if not isinstance(before, dict):
        return f"was {before}, is {now}"
    return "differs in " + ", ".join(sorted(key for key in {*before, *now} if before.get(key) != now.get(key)))


def read_run(run: Path) -> dict[str, Any]:
    """The record of a run. Raises UserError when the folder holds none."""
    path = run / "run.json"
    if not path.is_file():
        raise UserError(f"{run}: no run here (run.json is missing); give a folder made by pretrain or finetune")
    return json.loads(path.read_text(encoding="utf-8"))


def origin(start: Path | str | None) -> str:
    """What a training started from: "scratch", or the digest of the weights and of the store that they saw."""
    if start is None:
        return "scratch"
    record, last = read_run(Path(start)), Path(start) / checkpoint.NAME
    told = f"pretrained on store {record['store']}"
    return f"{told}, weights {checkpoint.digest(last)[:16]}" if last.exists() else told


def digest(store: Store) -> str:
    """What identifies the prepared data: a hash over the ids, preparations and splits of its volumes."""
    rows = store.volumes.sort_values("volume_id")
    text = "\n".join(rows["volume_id"] + rows["preparation_hash"] + rows["split"])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def prepared(store: Store) -> dict[str, Any]:
    """How the store was prepared (the settings in its store.json), and the DICOM modality codes of its volumes."""
    told = json.loads((store.path / RECORD).read_text(encoding="utf-8"))
    return {"settings": told["settings"], "modalities": sorted(store.volumes["modality"].unique())}


class Log:
    """A CSV of named numbers by step. After a restart, rows at or beyond the resumed step are dropped first."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.names = path, list[str]()
        rows = [row for row in read_log(path) if int(row["step"]) < step]
        if rows:
            with replacing(path) as part, part.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        else:
            path.unlink(missing_ok=True)

    def write(self, numbers: dict[str, float]) -> None:
        """Nothing; a row is added."""
        fresh = not self.path.exists()
        if self.names and self.names != list(numbers):
            raise ValueError(
                f"{self.path}: rows of {self.names} and of {list(numbers)}; a model names the same losses in every step"
            )
        self.names = list(numbers)
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self.names)
            if fresh:
                writer.writeheader()
            told = {key: str(value) if isinstance(value, int) else f"{value:.6g}" for key, value in numbers.items()}
            writer.writerow(told)


def read_log(path: Path) -> list[dict[str, str]]:
    """The rows of a log; none when it does not exist. A row cut short by a kill is left out."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if None not in row.values() and row["step"].isdigit()]
