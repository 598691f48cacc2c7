"""NIfTI-1 and NIfTI-2 in one file (.nii, .nii.gz): where the voxels are, and their values.

nibabel reads the header only. It would check neither the gzip checksum nor the length, and mends what is impossible.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medssl.archive.headers import Header
from medssl.archive.reasons import Refusal
from medssl.archive.streams import check_claim, inflated, kept, kept_as, plain, voxels_of
from medssl.volume import Volume

HEADER_BYTES = 348, 540
"""Length of the header of NIfTI-1 and NIfTI-2, which is also what it begins with."""

XFORM_TOLERANCE = 1e-3
"""Relative to the voxel, how far sform and qform may be apart."""

UNKNOWN_UNIT_MM = 0.05, 20.0
"""Voxel edges that are taken for millimetres when a NIfTI does not name its unit."""

METRES = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Factor to mm of NIfTI's codes for metre, millimetre and micrometre."""


@dataclass(frozen=True)
class _Told:
    """What the header says: the volume's shape, how its voxels are written, and where they are."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    scale: tuple[float, float] | None
    affine: np.ndarray
    oriented: bool


def volume(path: Path) -> Volume:
    """The volume of a .nii or .nii.gz file, stored values times slope plus intercept, RAS+ mm.

    64-bit voxels become int32 or float32. Raises Refusal.
    """
    with path.open("rb") as file:
        told, blocks = _opened(path, file)
        values = np.empty(math.prod(told.shape), kept_as(told.dtype, told.scale))
        kept(path, blocks, told.dtype, told.scale, values)
    voxels = values.reshape(told.shape, order="F")[None]
    return Volume(voxels, told.affine, oriented=told.oriented)


def header(path: Path, size: int) -> Header:
    """What the file says of itself, all of it read and verified, no more than a piece of it held. Raises Refusal."""
    with path.open("rb") as file:
        told, blocks = _opened(path, file)
        kept(path, blocks, told.dtype, told.scale)
    return Header(
        path=path, size=size, kind="nifti", shape=told.shape, affine=tuple(told.affine.ravel().tolist()),
        oriented=told.oriented,
    )  # fmt: skip


def _opened(path: Path, file: BinaryIO) -> tuple[_Told, Iterator[np.ndarray]]:
    zipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    pieces = inflated(path, file) if zipped else plain(file)
    start = next(pieces, b"")
    while len(start) < max(HEADER_BYTES) and (more := next(pieces, b"")):
        start += more
    told = _told(path, start, path.stat().st_size)
    return told, voxels_of(path, chain([start], pieces), told.offset, math.prod(told.shape), told.dtype)


def _told(path: Path, start: bytes, size: int) -> _Told:
    """The header of a NIfTI that could be what it says it is."""
    fields = _header_of(path, start, check=False)
    dims, offset = [int(n) for n in fields["dim"]], float(fields["vox_offset"])
    if fields["magic"].item() in (b"ni1", b"ni2"):
        raise Refusal("PAIRED_HEADER", path.name)
    axes = dims[1 : dims[0] + 1]
    if not 1 <= dims[0] <= 7 or min(axes) < 1 or not int(fields["sizeof_hdr"]) + 4 <= offset < 2**31:
        raise Refusal("BAD_GEOMETRY", path.name, f"dimensions {dims}, voxels at {offset}")
    edges = fields["pixdim"][1:4][: dims[0]]
    if int(fields["sform_code"]) <= 0 and not (np.isfinite(edges) & (edges > 0)).all():  # nibabel would mend them
        raise Refusal("BAD_GEOMETRY", path.name, f"spacing {edges.tolist()}")
    checked = _header_of(path, start, check=True)
    dtype = checked.get_data_dtype()
    if int(fields["bitpix"]) != 8 * dtype.itemsize:
        raise Refusal("UNREADABLE", path.name, "the type of the voxels and their bits disagree")
    check_claim(path, math.prod(axes), int(offset) + math.prod(axes) * dtype.itemsize, size)
    if dtype.names or dtype.kind == "c":
        raise Refusal("COLOR_IMAGE", path.name, str(dtype))
    while len(axes) > 3 and axes[-1] == 1:
        axes.pop()
    if len(axes) not in (2, 3):
        raise Refusal("NDIM", path.name, "x".join(map(str, axes)))
    shape = (*axes, 1)[:3]
    affine, oriented = _affine(path, checked)
    return _Told(shape, dtype, int(offset), _scale(path, checked), affine, oriented and shape[2] > 1)


def _header_of(path: Path, start: bytes, *, check: bool) -> Any:
    import nibabel as nib

    lengths = {int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")}
    length = next((n for n in HEADER_BYTES if n in lengths), 0)
    if not length or len(start) < length:
        raise Refusal("UNREADABLE", path.name, "not a NIfTI header")
    kind = nib.Nifti1Header if length == HEADER_BYTES[0] else nib.Nifti2Header
    order = "<" if int.from_bytes(start[:4], "little") == length else ">"
    try:
        return kind(start[:length], endianness=order, check=check)
    except Exception as error:
        raise Refusal("UNREADABLE", path.name, type(error).__name__) from None


def _scale(path: Path, fields: Any) -> tuple[float, float] | None:
    """Slope and intercept, None where they change nothing. A slope of 0 or none means no scaling at all."""
    try:
        slope, intercept = fields.get_slope_inter()
    except Exception as error:
        raise Refusal("UNREADABLE", path.name, type(error).__name__) from None
    return None if slope is None or (slope, intercept) == (1.0, 0.0) else (float(slope), float(intercept))


def _affine(path: Path, fields: Any) -> tuple[np.ndarray, bool]:
    """The affine to RAS+ mm, and whether it is the patient's."""
    codes = int(fields["sform_code"]), int(fields["qform_code"])
    zooms = np.array(fields.get_zooms()[:3], dtype=np.float64)
    if not np.isfinite(zooms).all() or (zooms <= 0).any():
        raise Refusal("BAD_GEOMETRY", path.name, f"spacing {zooms.tolist()}")
    unit = int(fields["xyzt_units"]) & 7
    factor = METRES.get(unit, 1.0)
    low, high = UNKNOWN_UNIT_MM
    if unit not in METRES and not ((zooms >= low) & (zooms <= high)).all():
        raise Refusal("BAD_GEOMETRY", path.name, f"spacing {zooms.tolist()} of an unknown unit")
    scale = np.diag([factor, factor, factor, 1.0])
    if codes == (0, 0):
        return scale @ np.diag([*np.pad(zooms, (0, 3 - len(zooms)), constant_values=1.0), 1.0]), False
    try:
        best = fields.get_best_affine()
        both = [fields.get_sform(), fields.get_qform()] if min(codes) > 0 else [best, best]
    except Exception as error:
        raise Refusal("BAD_GEOMETRY", path.name, type(error).__name__) from None
    if not np.isfinite(both).all():
        raise Refusal("BAD_GEOMETRY", path.name, "sform or qform")
    apart = np.abs(both[0] - both[1])
    far = apart[:3, 3] > XFORM_TOLERANCE * np.maximum(1.0, np.abs(both[0][:3, 3]))
    if far.any() or apart[:3, :3].max() > XFORM_TOLERANCE * zooms.max():
        raise Refusal("XFORM_CONFLICT", path.name)
    affine = scale @ best
    if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise Refusal("BAD_GEOMETRY", path.name, "singular affine")
    return affine, True
