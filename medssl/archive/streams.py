"""What a file unpacks to, a piece at a time: every checksum is compared, and never more than a piece is held.

Policy for files that are honest but nearly empty. Images of scanners pack 1.2- to 3.5-fold, label maps up to 960-fold
(measured over 200 of each), so that a ratio alone cannot tell a bomb from a small lesion in a large scan. What packs
more than SPARSE_RATIO-fold is refused only above SPARSE_BYTES, which a label map of a thousand CT slices stays below.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medssl.archive.headers import MAXIMUM_VOXELS, MOST_PACKED
from medssl.archive.reasons import Refusal

PIECE = 1 << 20
"""Bytes that are held at a time, and how many zeros may follow the voxels (some programs fill up a block or a page)."""

MAXIMUM_BYTES = 4_000_000_000
"""Most that the voxels of a file may take in memory."""

SPARSE_BYTES, SPARSE_RATIO = 1 << 29, 200
"""Content above which a file is refused that packs more tightly than any image of a scanner."""

KEPT_AS = {"i8": np.int32, "u8": np.int32, "f8": np.float32, "f16": np.float32}
"""Types of voxels that are too wide for anything later, and what they become where all values fit."""


def check_claim(path: Path, voxels: int, needed: int, packed: int, sparse: int = SPARSE_BYTES) -> None:
    """Nothing; Refusal for `voxels` of `needed` bytes that `packed` bytes of file cannot or should not hold."""
    if voxels > MAXIMUM_VOXELS or max(needed, 4 * voxels) > MAXIMUM_BYTES or needed > packed * MOST_PACKED:
        raise Refusal("TOO_LARGE", path.name, f"{voxels} voxels in {packed} bytes")
    if needed > sparse and needed > packed * SPARSE_RATIO:
        raise Refusal("TOO_EMPTY", path.name, f"{needed} bytes in {packed}")


def plain(file: BinaryIO) -> Iterator[bytes]:
    """The rest of a file in pieces."""
    while piece := file.read(PIECE):
        yield piece


def inflated(path: Path, file: BinaryIO, wbits: int = 31) -> Iterator[bytes]:
    """The content of a gzip (or, for 47, gzip or zlib) file in pieces, members one after the other, zeros between them.

    Raises Refusal (GZIP_DAMAGED) at the end of a member whose checksum differs, that is cut short, or that something
    else follows.
    """
    packed = file.read(PIECE)
    while packed:
        stream = zlib.decompressobj(wbits)
        while not stream.eof:
            try:
                piece = stream.decompress(packed, PIECE)
            except zlib.error as error:
                raise Refusal("GZIP_DAMAGED", path.name, str(error)) from None
            if piece:
                yield piece
            packed = stream.unconsumed_tail or (b"" if stream.eof else file.read(PIECE))
            if not packed and not piece and not stream.eof:
                raise Refusal("GZIP_DAMAGED", path.name, "no end")
        packed = stream.unused_data.lstrip(b"\0")
        while not packed and (more := file.read(PIECE)):
            packed = more.lstrip(b"\0")


def voxels_of(path: Path, pieces: Iterator[bytes], skip: int, count: int, dtype: np.dtype) -> Iterator[np.ndarray]:
    """`count` voxels that begin `skip` bytes into `pieces`, in blocks; whatever follows is read to its end.

    Raises Refusal for fewer (FILE_TRUNCATED), and for what is more than a little padding (TRAILING_BYTES).
    """
    left, held = count * dtype.itemsize, bytearray()
    for piece in pieces:
        start = min(skip, len(piece))
        skip -= start
        held += memoryview(piece)[start:]
        whole = min(left, len(held)) // dtype.itemsize * dtype.itemsize
        if whole:
            yield np.frombuffer(bytes(memoryview(held)[:whole]), dtype)
            del held[:whole]
            left -= whole
        if not left and (len(held) > PIECE or held.count(0) < len(held)):
            raise Refusal("TRAILING_BYTES", path.name)
    if left:
        raise Refusal("FILE_TRUNCATED", path.name, f"{left} bytes less than its header says")


def kept(path: Path, blocks: Iterator[np.ndarray], dtype: np.dtype, scale: tuple[float, float] | None = None,
         into: np.ndarray | None = None) -> np.ndarray | None:  # fmt: skip
    """`into`, filled with the blocks of a file in the type they are kept in (`kept_as`), scaled by slope and intercept.

    Without `into` all is read and checked the same way, and None comes back. Raises Refusal for values that do not fit
    (VALUES_OUT_OF_RANGE), and where none is a number (NOT_FINITE).
    """
    target, at = kept_as(dtype, scale), 0
    limits: Any = np.iinfo(target) if target.kind in "iu" else np.finfo(target)
    watched = _may_be_odd(dtype, scale)
    real = not watched
    for block in blocks:
        if not watched and into is None:
            continue
        with np.errstate(all="ignore"):  # infinities are looked for below, and tiny values become 0
            values = block if scale is None else block.astype(np.float64) * scale[0] + scale[1]
            if watched:
                finite = values[np.isfinite(values)]
                real = real or finite.size > 0
                if finite.size and (finite.max() > limits.max or finite.min() < limits.min):
                    raise Refusal("VALUES_OUT_OF_RANGE", path.name, str(target))
            if into is not None:
                into[at : at + len(values)] = values
                at += len(values)
    if not real:
        raise Refusal("NOT_FINITE", path.name)
    return into


def kept_as(dtype: np.dtype, scale: tuple[float, float] | None = None) -> np.dtype:
    """The type in memory of voxels of a type in a file."""
    if scale is not None:
        return np.dtype(np.float32)
    return np.dtype(KEPT_AS.get(f"{dtype.kind}{dtype.itemsize}", dtype.newbyteorder("=")))


def _may_be_odd(dtype: np.dtype, scale: tuple[float, float] | None) -> bool:
    """Whether voxels of this type could be no number, or beyond the type they are kept in."""
    if dtype.kind == "f" or scale is None:
        return dtype.kind == "f" or dtype.itemsize == 8
    most = float(np.iinfo(dtype).max) * abs(scale[0]) + abs(scale[1])
    return most > float(np.finfo(np.float32).max) / 2
