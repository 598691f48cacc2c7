"""MHA and NRRD whose voxels lie in the same file; LPS becomes RAS.

SimpleITK reads the header. The voxels are read here, because it takes memory for what a header claims and passes over
the checksum of what is packed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medssl.archive.headers import Header
from medssl.archive.reasons import Refusal
from medssl.archive.streams import check_claim, inflated, kept, kept_as, plain, voxels_of
from medssl.volume import Volume

HEADER_BYTES = 16_384
"""Within how many bytes the header of an MHA or NRRD file has to end."""


@dataclass(frozen=True)
class _Told:
    """What the header says: how and from where the voxels are written, their shape, and where they are."""

    start: int
    packed: bool
    shape: tuple[int, ...]
    dtype: np.dtype
    affine: np.ndarray
    oriented: bool


def volume(path: Path) -> Volume:
    """The volume of a .mha or .nrrd file, RAS+ mm. 64-bit voxels become int32 or float32. Raises Refusal."""
    told = _told(path)
    values = np.empty(math.prod(told.shape), kept_as(told.dtype))
    with path.open("rb") as file:
        kept(path, _blocks(path, file, told), told.dtype, into=values)
    return Volume(values.reshape(told.shape, order="F")[None], told.affine, oriented=told.oriented)


def header(path: Path, size: int) -> Header:
    """What the file says of itself, all of it read and verified, no more than a piece of it held. Raises Refusal."""
    told = _told(path)
    with path.open("rb") as file:
        kept(path, _blocks(path, file, told), told.dtype)
    return Header(
        path=path, size=size, kind="itk", shape=told.shape, affine=tuple(told.affine.ravel().tolist()),
        oriented=told.oriented,
    )  # fmt: skip


def _blocks(path: Path, file: BinaryIO, told: _Told) -> Iterator[np.ndarray]:
    file.seek(told.start)
    pieces = inflated(path, file, 47) if told.packed else plain(file)
    return voxels_of(path, pieces, 0, math.prod(told.shape), told.dtype)


def _told(path: Path) -> _Told:
    import SimpleITK as sitk

    start, packed, order, oriented = _layout(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise Refusal("UNREADABLE", path.name) from None
    dtype = _dtype(reader.GetPixelID(), order)
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1 or dtype is None:
        raise Refusal("NDIM", path.name)
    shape = tuple(int(n) for n in reader.GetSize())
    check_claim(path, math.prod(shape), math.prod(shape) * dtype.itemsize, path.stat().st_size)
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * reader.GetSpacing()
    lps[:3, 3] = reader.GetOrigin()
    if not np.isfinite(lps).all() or abs(np.linalg.det(lps[:3, :3])) < 1e-12:
        raise Refusal("BAD_GEOMETRY", path.name, "singular affine")
    return _Told(start, packed, shape, dtype, np.diag([-1.0, -1, 1, 1]) @ lps, oriented)


def _dtype(pixel: int, order: str) -> Any:
    import SimpleITK as sitk

    kinds = {
        sitk.sitkUInt8: "u1", sitk.sitkInt8: "i1", sitk.sitkUInt16: "u2", sitk.sitkInt16: "i2", sitk.sitkUInt32: "u4",
        sitk.sitkInt32: "i4", sitk.sitkUInt64: "u8", sitk.sitkInt64: "i8", sitk.sitkFloat32: "f4",
        sitk.sitkFloat64: "f8",
    }  # fmt: skip
    return np.dtype(order + kinds[pixel]) if pixel in kinds else None


def _layout(path: Path) -> tuple[int, bool, str, bool]:
    """Where the voxels begin, whether they are packed, their byte order, and whether the header says where the patient is:
    a NRRD need not name its space, a MHA is in LPS by definition.

    Raises Refusal where the data are in another file, or where the header is too long to find out.
    """
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES).lower()
    nrrd = start.startswith(b"nrrd")
    end = re.search(rb"\r?\n\r?\n" if nrrd else rb"^[ \t]*elementdatafile[ \t]*=[^\n]*\n", start, re.MULTILINE)
    text = (start[: end.end()] if end else start).replace(b"\r\n", b"\n")
    mark = rb":=?" if nrrd else rb"="
    found = re.findall(rb"^[ \t]*([a-z ]+?)[ \t]*" + mark + rb"[ \t]*(.*?)[ \t]*$", text, re.MULTILINE)
    fields = {name.replace(b" ", b""): value for name, value in found}
    if b"datafile" in fields or fields.get(b"elementdatafile", b"local") != b"local":
        raise Refusal("PAIRED_HEADER", path.name)
    if end is None:
        raise Refusal("UNREADABLE", path.name, "no end of the header")
    yes = {name for name, value in fields.items() if value[:1] in (b"t", b"1")}  # as MetaImage reads its flags
    coding = fields.get(b"encoding", b"") if nrrd else b"raw" if b"binarydata" in yes else b"text"
    skips = [fields.get(name, b"0") for name in (b"byteskip", b"lineskip", b"headersize")]
    if coding not in (b"raw", b"gzip", b"gz") or set(skips) != {b"0"}:
        raise Refusal("UNREADABLE", path.name, "voxels as text, packed in another way, or not after the header")
    big = fields.get(b"endian") == b"big" or bool(yes & {b"elementbyteordermsb", b"binarydatabyteordermsb"})
    packed = coding in (b"gzip", b"gz") or b"compresseddata" in yes
    oriented = not nrrd or {b"space", b"spacedirections"} <= fields.keys()
    return end.end(), packed, ">" if big else "<", oriented
