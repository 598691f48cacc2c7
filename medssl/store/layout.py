"""What zarr.json says of an array on disk, and what may be wrong with it.

Only the layout that `write_array` makes is known; all others are refused. `zarr.json` has no checksum in the Zarr format,
so it carries one of ours among its attributes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from medssl.atomic import write_text

CHECKSUM = "medssl_crc32c"
"""Attribute of zarr.json that holds the CRC32C of the rest of it."""

LONGEST_HEADER = 1 << 16
"""Bytes of zarr.json that are read; ours has about 1500."""

CRC_BYTES = 4
DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64")
INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]

REMEDIES = {
    "MISSING": "the file is not there",
    "HEADER": "the description of the array is damaged or of another layout",
    "INDEX": "the table of chunks does not match its checksum: the file was cut short or altered",
    "CHUNK": "the bytes of a chunk do not match their checksum",
}
"""What can be wrong with an array on disk, by code."""


class Damaged(Exception):
    """An array on disk is not what was written. `code` is one of REMEDIES, `chunk` its place in the grid of chunks."""

    def __init__(self, code: str, path: str, chunk: tuple[int, ...] = (), detail: str = "") -> None:
        super().__init__(code, path, chunk, detail)  # all of them, so that it survives pickling between processes
        self.code, self.path, self.chunk, self.detail = code, path, chunk, detail

    def __str__(self) -> str:
        where = f" chunk {self.chunk}" if self.chunk else ""
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.path}{where}: {REMEDIES[self.code]}{detail}. Delete this folder and run medssl prepare again."


@dataclass(frozen=True)
class Layout:
    """What zarr.json says of an array; every field has been checked."""

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    grid: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: float

    @property
    def index_bytes(self) -> int:
        return 16 * math.prod(self.grid) + CRC_BYTES

    @property
    def chunk_bytes(self) -> int:
        return math.prod(self.chunk) * self.dtype.itemsize


def read_layout(folder: Path) -> Layout:
    """Shape, chunks and type of the array in a folder. Raises Damaged for anything but what `write_array` makes."""
    path = folder / "zarr.json"
    with opened(path) as descriptor:
        text = os.read(descriptor, LONGEST_HEADER)
    try:
        return _layout(text)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged("HEADER", str(path), (), f"{type(error).__name__}: {error}") from None


@lru_cache(maxsize=256)  # by content: volumes of one shape share it, and a changed file is read anew
def _layout(text: bytes) -> Layout:
    header = json.loads(text)
    if header["attributes"].pop(CHECKSUM) != _header_crc(header):
        raise ValueError("it does not match its checksum")
    (sharding,) = header["codecs"]
    inner = sharding["configuration"]
    shape, chunk = _sizes(header["shape"]), _sizes(inner["chunk_shape"])
    shard = _sizes(header["chunk_grid"]["configuration"]["chunk_shape"])
    if header["data_type"] not in DTYPES:
        raise ValueError(f"data type {header['data_type']!r}")
    dtype = np.dtype(header["data_type"]).newbyteorder("<")
    expected = {
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    }
    wrong = [key for key, value in expected.items() if header.get(key, []) != value]
    whole = all(n <= s and s % c == 0 for n, s, c in zip(shape, shard, chunk, strict=True))
    names = [codec["name"] for codec in inner["codecs"]]
    big = inner["codecs"][0].get("configuration", {"endian": "little"}) != {"endian": "little"}
    if wrong or len(shape) != 4 or not whole or sharding["name"] != "sharding_indexed" or big:
        raise ValueError(f"not one shard of four axes {wrong}")
    if names != ["bytes", "blosc", "crc32c"] or inner["index_codecs"] != INDEX_CODECS:
        raise ValueError(f"codecs {names}")
    if inner["index_location"] != "end" or header["chunk_grid"]["name"] != "regular":
        raise ValueError("the index is not at the end, or the grid is not regular")
    fill = header["fill_value"]
    if not isinstance(fill, int | float):
        raise ValueError(f"fill value {fill!r}")
    return Layout(shape, chunk, tuple(s // c for s, c in zip(shard, chunk, strict=True)), dtype, fill)


def _sizes(values: list[int]) -> tuple[int, ...]:
    if not all(type(n) is int and 0 < n < 2**31 for n in values):
        raise ValueError(f"sizes {values}")
    return tuple(values)


def _header_crc(header: dict[str, Any]) -> int:
    return google_crc32c.value(json.dumps(header, sort_keys=True, separators=(",", ":")).encode())


def sign(path: Path) -> None:
    """Nothing; the zarr.json at `path` has our checksum."""
    header = json.loads(path.read_text(encoding="utf-8"))
    header["attributes"] = {CHECKSUM: _header_crc(header)}
    write_text(path, json.dumps(header, indent=1))


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor of a file, closed in the end. Raises Damaged where there is no file."""
    try:
        descriptor = os.open(path, os.O_RDONLY)  # `open` asks the system five more questions, at each crop
    except (FileNotFoundError, NotADirectoryError):
        raise Damaged("MISSING", str(path)) from None
    try:
        yield descriptor
    except IsADirectoryError:
        raise Damaged("MISSING", str(path), (), "a folder has its name") from None
    finally:
        os.close(descriptor)
