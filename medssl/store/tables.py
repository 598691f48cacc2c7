"""The store's tables: written all together or not at all, and checked against each other when they are read.

store.json comes last and holds the checksums of the others, so that a run killed while it moves them leaves either the
old tables, or the new ones, or what is known to be a mixture.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import pandas as pd

from medssl.atomic import replacing, write_json
from medssl.errors import UserError
from medssl.store.case import EVERY_ROW, Row
from medssl.store.settings import METHOD, Preparation
from medssl.store.shards import flush

if TYPE_CHECKING:
    from medssl.manifest import Cohort

RECORD, FINGERPRINT = "store.json", "fingerprint.json"
TABLES = ("volumes.parquet", "patients.parquet", "labels.parquet")
CHECKED = (FINGERPRINT, *TABLES)
"""Files whose checksums the record holds."""

FORMAT = 2
"""Raised whenever an older store.json lacks something that is needed to open a store."""

WHOLE_NUMBERS = (
    "array_crc32c", "mask_crc32c", "valid_crc32c", "array_index_crc32c", "mask_index_crc32c", "valid_index_crc32c",
    "mask_file_crc32c", "channels",
)  # fmt: skip
LISTS = (
    "prepared_shape", "prepared_spacing", "prepared_affine", "mask_labels",
    "channel_facts", "channel_volumes", "channel_overlap",
)  # fmt: skip
"""Columns that need a type of their own where some volumes have no value."""

Facts = dict[str, Any]

PACKAGES = ("medssl", "numpy", "scipy", "SimpleITK", "zarr", "numcodecs")


def volumes_table(volumes: pd.DataFrame, rows: list[Row]) -> pd.DataFrame:
    """The cohort's rows of the volumes that were tried, sorted by id, with what was done to each."""
    done = pd.DataFrame(rows, columns=None if rows else list(EVERY_ROW))
    done = done.astype({name: "Int64" for name in WHOLE_NUMBERS if name in done})
    lists = [name for name in LISTS if name in done]
    done[lists] = done[lists].astype(object).where(done[lists].notna(), None)  # Parquet has no list that is NaN
    told = [name for name in done.columns if name != "volume_id"]
    table = volumes.drop(columns=told, errors="ignore").merge(done, on="volume_id", validate="one_to_one")
    table = table.sort_values("volume_id", ignore_index=True)
    worse = table["prepared_status"] != "ok"
    table["status"] = table["prepared_status"].where(worse, table["status"])
    table["reason"] = table["prepared_reason"].where(worse, table["reason"])
    return table.drop(columns=["prepared_status", "prepared_reason"])


def write_tables(store: Path, content: Cohort, volumes: pd.DataFrame, facts: Facts, settings: Preparation) -> None:
    """Nothing; the store has the volumes' table, what the cohort tells of them, their fingerprint, and its record.

    All bytes are on the disk before the first file takes its place. Raises OSError, naming the store, for a full disk;
    its tables are then those of before.
    """
    labels = content.labels[content.labels["volume_id"].isin(set(volumes["volume_id"]))]
    try:
        with ExitStack() as last_first:  # the record is opened first, so it takes its place last
            part = {name: last_first.enter_context(replacing(store / name)) for name in (RECORD, *CHECKED)}
            for name, table in zip(TABLES, (volumes, content.patients, labels), strict=True):
                table.to_parquet(part[name], index=False)
            write_json(part[FINGERPRINT], facts)
            checksums = {name: _crc(part[name].read_bytes()) for name in CHECKED}
            write_json(part[RECORD], _record(content, volumes, settings) | {"tables": checksums})
            for path in part.values():
                flush(path)
        flush(store)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(store)) from error


def read_tables(store: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Volumes, patients and labels of a store. Raises UserError when there is none, an unfinished or an older one, and
    when a table is damaged or not of the run that wrote the others.
    """
    try:
        told = json.loads((store / RECORD).read_text(encoding="utf-8"))
        made, checksums = (told["method"], told["format"]), dict(told.get("tables", {}))
        files = {name: (store / name).read_bytes() for name in CHECKED}
    except FileNotFoundError:
        state = "an unfinished store" if (store / "arrays").is_dir() else "no store"
        raise UserError(f"{store}: {state}; run medssl prepare COHORT -o {store}") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{store}: its tables cannot be read ({type(error).__name__}); run medssl prepare again"
        ) from None
    if made != (METHOD, FORMAT):
        raise UserError(
            f"{store}: made by method {made[0]} of preparing, format {made[1]}; this is {METHOD}, format {FORMAT}; run "
            "medssl prepare again"
        )
    for name, content in files.items():
        if _crc(content) != checksums.get(name):
            raise UserError(
                f"{store}: {name} is damaged or of another run; run medssl prepare again, it makes no volume twice"
            )
    volumes, patients, labels = (pd.read_parquet(io.BytesIO(files[name])) for name in TABLES)
    return volumes, patients, labels


def _crc(content: bytes) -> str:
    return f"{google_crc32c.value(content):08x}"


def _record(content: Cohort, volumes: pd.DataFrame, settings: Preparation) -> dict[str, Any]:
    """What store.json says; equal for equal input, so it carries no date."""
    ids = "\n".join(sorted(content.volumes["volume_id"] + content.volumes["split"]))
    return {
        "format": FORMAT,
        "method": METHOD,
        "settings": asdict(settings),
        "cohort": hashlib.sha256(ids.encode()).hexdigest(),
        "volumes": int((volumes["status"] != "excluded").sum()),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
