"""Arrays on disk: one Zarr v3 shard each, a CRC32C for every chunk, and a small positional reader.

A folder holds `zarr.json` and one shard file, and any Zarr v3 reader opens it. zarr-python writes `zarr.json`; the shard
has the bytes that zarr-python would give it, in an eighth of its time. `read_array` is our own reader: one `pread` for
the index, one a chunk, every byte checked before it is decoded. It knows this one layout and refuses all others.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import google_crc32c
import numpy as np

from medssl.store.layout import CRC_BYTES, DTYPES, Damaged, Layout, opened, read_layout, sign

CHUNK = 32
"""Edge of an inner chunk in voxels: the least that is read and decoded at once."""

LEVEL = 5
"""Effort of the compressor, 1 to 9; above 5 the files hardly shrink and writing takes longer."""

ABSENT = 2**64 - 1
"""Offset and size that the index gives for a chunk that holds only the fill value."""


def write_array(folder: Path, array: np.ndarray) -> int:
    """The checksum of the array's values; `folder` holds the array (C, I, J, K), or what it held before on any error."""
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    if array.ndim != 4 or 0 in array.shape or array.dtype.name not in DTYPES:
        raise ValueError(f"{folder.name}: an array {array.shape} of {array.dtype} cannot be stored; give (C, I, J, K)")
    chunk = (array.shape[0], *(min(CHUNK, n) for n in array.shape[1:]))
    shard = tuple(-(-n // c) * c for n, c in zip(array.shape, chunk, strict=True))
    blosc = BloscCodec(cname="lz4", clevel=LEVEL, shuffle="bitshuffle", typesize=array.dtype.itemsize)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(part, ignore_errors=True)
    try:
        zarr.create_array(
            part,
            shape=array.shape,
            dtype=array.dtype,
            chunks=chunk,
            shards=shard,
            compressors=[blosc, Crc32cCodec()],
            fill_value=0,
        )
        _write_shard(shard_path(part), array, chunk)
        sign(part / "zarr.json")
        for path in part.rglob("*"):
            flush(path)
        move_folder(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return checksum(array)


def _write_shard(path: Path, array: np.ndarray, chunk: tuple[int, ...]) -> None:
    """Nothing; the file holds every chunk of the array, filled up with 0 at its far edges, and the index of them."""
    from numcodecs.blosc import BITSHUFFLE, compress

    grid = tuple(-(-n // c) for n, c in zip(array.shape, chunk, strict=True))
    index = np.empty((*grid, 2), "<u8")
    plain = array.dtype.newbyteorder("<")
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        for place in sorted(product(*map(range, grid)), key=lambda at: _morton(at, grid)):
            part = array[tuple(slice(n * c, (n + 1) * c) for n, c in zip(place, chunk, strict=True))]
            block = np.zeros(chunk, plain)
            block[tuple(map(slice, part.shape))] = part
            packed = compress(block, b"lz4", LEVEL, BITSHUFFLE, 0, plain.itemsize)
            index[place] = file.tell(), len(packed) + CRC_BYTES
            file.write(packed + _crc(packed))
        table = index.tobytes()
        file.write(table + _crc(table))


def _crc(content: bytes) -> bytes:
    return int(google_crc32c.value(content)).to_bytes(CRC_BYTES, "little")


def _morton(place: tuple[int, ...], grid: tuple[int, ...]) -> int:
    """The chunk's number in the order of zarr-python's shards: the bits of its place, taken in turns from each axis."""
    number = shift = 0
    for bit in range(max(grid).bit_length()):
        for at, size in zip(place, grid, strict=True):
            if bit < (size - 1).bit_length():
                number |= ((at >> bit) & 1) << shift
                shift += 1
    return number


def move_folder(part: Path, folder: Path) -> None:
    """Nothing; `part`, whose files are on the disk already, is now `folder`; a folder that was there is gone."""
    flush(part)
    old = part.with_name(f".{folder.name}.{os.getpid()}.old.part")
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def flush(path: Path) -> None:
    """Nothing; the file's bytes, or the folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def shard_path(folder: Path) -> Path:
    """The one data file of an array (C, I, J, K)."""
    return folder / "c/0/0/0/0"


def checksum(array: np.ndarray) -> int:
    """CRC32C of an array's values in C order, little-endian.

    Not of the shard file: its parts end with their own CRC, which makes the CRC of the whole a function of their
    lengths alone.
    """
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    crc = 0
    for block in np.array_split(plain.ravel().view(np.uint8), max(1, plain.nbytes >> 22)):
        crc = google_crc32c.extend(crc, block.tobytes())
    return crc


def read_array(folder: Path, start: Sequence[int] | None = None, stop: Sequence[int] | None = None) -> np.ndarray:
    """The box start <= (i, j, k) < stop of an array with all its channels, (C, i, j, k); the whole array by default.

    Every byte that is used has been checked. Raises Damaged, and ValueError for a box that leaves the array.
    """
    layout = read_layout(folder)
    low = (0, *(start if start is not None else (0, 0, 0)))
    high = (layout.shape[0], *(stop if stop is not None else layout.shape[1:]))
    if not all(0 <= a <= b <= n for a, b, n in zip(low, high, layout.shape, strict=True)):
        raise ValueError(
            f"box {low[1:]} to {high[1:]} leaves the grid {layout.shape[1:]} of {folder}; pad after reading"
        )
    out = np.empty([b - a for a, b in zip(low, high, strict=True)], layout.dtype)
    path = shard_path(folder)
    with opened(path) as descriptor:
        _fill_box(descriptor, path, layout, (low, high), out)
    return out


def index_checksum(folder: Path) -> int:
    """The CRC32C that ends the shard of the array in a folder: of where its chunks begin and how long they are.

    Next to the whole checksum it costs nothing, and an array of other voxels hardly ever has the same one. Raises
    Damaged for an array whose files are missing, cut short or altered outside of its chunks.
    """
    layout, path = read_layout(folder), shard_path(folder)
    with opened(path) as descriptor:
        index, end = _read_index(descriptor, path, layout)
        if int(index.sum(axis=-1).max()) != end:
            raise Damaged("INDEX", str(path), (), "the chunks do not end where it starts")
    return google_crc32c.value(index.tobytes())


def _fill_box(
    descriptor: int, path: Path, layout: Layout, box: tuple[tuple[int, ...], tuple[int, ...]], out: np.ndarray
) -> None:
    from numcodecs.blosc import decompress

    index, end = _read_index(descriptor, path, layout)
    for place, inside, target in _chunks_of(layout, *box):
        offset, size = index[place].tolist()
        if offset == size == ABSENT:
            out[target] = layout.fill
            continue
        if size <= CRC_BYTES or offset + size > end:
            raise Damaged("INDEX", str(path), place, "the chunk lies outside the file")
        raw = os.pread(descriptor, size, offset)
        data = raw[:-CRC_BYTES]
        if len(raw) != size or google_crc32c.value(data) != int.from_bytes(raw[-CRC_BYTES:], "little"):
            raise Damaged("CHUNK", str(path), place)
        # The length that blosc would allocate is checked before it does.
        if len(data) < 16 or int.from_bytes(data[4:8], "little") != layout.chunk_bytes:
            raise Damaged("CHUNK", str(path), place, "its decoded length is not that of a chunk")
        out[target] = np.frombuffer(decompress(data), layout.dtype).reshape(layout.chunk)[inside]


def _read_index(descriptor: int, path: Path, layout: Layout) -> tuple[np.ndarray, int]:
    """Offset and size of every chunk (*grid, 2), and where the chunks end."""
    end = os.fstat(descriptor).st_size - layout.index_bytes
    raw = os.pread(descriptor, layout.index_bytes, end) if end >= 0 else b""
    table = raw[:-CRC_BYTES]
    if len(raw) != layout.index_bytes or google_crc32c.value(table) != int.from_bytes(raw[-CRC_BYTES:], "little"):
        raise Damaged("INDEX", str(path))
    return np.frombuffer(table, "<u8").reshape(*layout.grid, 2), end


def _chunks_of(
    layout: Layout, low: tuple[int, ...], high: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...], tuple[slice, ...]]]:
    """Each chunk that a box touches: its place in the grid, what of it is wanted, and where that goes in the box."""
    if any(a == b for a, b in zip(low, high, strict=True)):
        return
    axes = [
        [(n, *_overlap(n, c, a, b)) for n in range(a // c, (b - 1) // c + 1)]
        for a, b, c in zip(low, high, layout.chunk, strict=True)
    ]
    for along in product(*axes):
        place, inside, target = zip(*along, strict=True)
        yield place, inside, target


def _overlap(number: int, size: int, low: int, high: int) -> tuple[slice, slice]:
    """What chunk `number` of an axis shares with low..high, counted from the chunk's and from the box's start."""
    first, last = max(low, number * size), min(high, (number + 1) * size)
    return slice(first - number * size, last - number * size), slice(first - low, last - low)
