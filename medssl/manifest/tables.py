"""The manifest's Parquet tables: their columns, and writing them all or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

INSTANCES = {
    "instance_pid": "string", "series_pid": "string", "study_pid": "string", "patient_pid": "string", "size": "int64",
    "crc32c": "int64", "sop_class_uid": "string", "transfer_syntax": "string", "modality": "string", "n_frames": "int64",
    "parse_path": "string", "flags": "string", "status": "string", "reason": "string",
}  # fmt: skip
VOLUMES = {
    "volume_id": "string", "series_pid": "string", "study_pid": "string", "frame_pid": "string",
    "patient_pid": "string", "split": "string", "modality": "string", "role": "string", "site": "string",
    "scanner": "string", "body_part": "string", "laterality": "string", "view_position": "string",
    "shape": "list<int64>", "spacing": "list<float64>", "affine": "list<float64>", "orientation": "string",
    "spacing_source": "string", "n_sources": "int64", "source_kind": "string", "age_years": "float64",
    "age_source": "string", "days_since_first": "float64", "intent": "string", "lossy": "bool", "has_mask": "bool",
    "split_by": "string", "status": "string", "reason": "string",
}  # fmt: skip
PATIENTS = {
    "patient_pid": "string", "sex": "string", "race": "string", "ethnicity": "string", "age_years": "float64",
    "age_band": "string", "site": "string", "split": "string", "sex_source": "string", "race_source": "string",
    "ethnicity_source": "string", "race_scheme": "string", "ethnicity_scheme": "string",
    "n_studies": "int64", "n_volumes": "int64", "suspect": "string",
}  # fmt: skip
LABELS = {"volume_id": "string", "name": "string", "value": "float64", "source": "string"}
SOURCES = {
    "volume_id": "string", "order": "int64", "path": "string", "crc32c": "int64", "mask_path": "string",
    "archive": "string", "frames": "list<int64>",
}  # fmt: skip
FILES = {"instance_pid": "string", "path": "string", "status": "string", "reason": "string"}

RECEIPT = "receipt.json"
"""Moved last: it holds the checksums of the tables that belong together."""

CHUNK = 8192
"""Rows that are turned into columns at a time."""

PART = ".part"
"""The folder in which a cohort is written before it takes its place; a killed run may leave one, the next removes it."""


@contextmanager
def replacing_all(folder: Path) -> Iterator[Path]:
    """A new empty folder; when the block ends well its files take their places below `folder`, else they are removed.

    All bytes are on the disk before the first file is moved, so that a full disk leaves the old files as they were.
    """
    part = folder / PART
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        files = sorted((path for path in part.rglob("*") if path.is_file()), key=lambda path: path.name == RECEIPT)
        for path in files:
            _flush(path)
        for path in files:
            path.replace(folder / path.relative_to(part))
        for place in sorted({folder / path.relative_to(part).parent for path in files}):
            _flush(place)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def checksum(path: Path) -> str:
    """The CRC-32C of a file, eight hexadecimal digits."""
    import google_crc32c

    return f"{google_crc32c.value(path.read_bytes()):08x}"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_table(
    path: Path,
    columns: dict[str, str],
    rows: Iterable[dict[str, Any]],
    sort_by: Sequence[str],
    *,
    further: Sequence[str] = (),
) -> None:
    """Nothing; `path` holds the rows as Parquet, sorted. Equal rows give equal bytes. `further` columns are text.

    Rows are taken as they come and held in columns: a row of Python objects takes ten times the memory.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        "string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_(),
        "list<int64>": pa.list_(pa.int64()), "list<float64>": pa.list_(pa.float64()),
    }  # fmt: skip
    schema = pa.schema(
        [(name, kinds[kind]) for name, kind in columns.items()] + [(name, pa.string()) for name in further]
    )
    waiting = iter(rows)
    chunks = iter(lambda: list(islice(waiting, CHUNK)), [])
    table = pa.concat_tables([schema.empty_table(), *(pa.Table.from_pylist(chunk, schema=schema) for chunk in chunks)])
    table = table.sort_by([(name, "ascending") for name in sort_by]).combine_chunks()
    pq.write_table(table, path, compression="zstd")
