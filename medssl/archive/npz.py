"""OCT volumes and maps of the nerve fibre layer in Harvard-style NPZ files, which carry no spacing."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medssl.archive.field import POINTS, field_picture
from medssl.archive.headers import Header
from medssl.archive.reasons import Refusal
from medssl.archive.streams import check_claim, kept, kept_as, plain, voxels_of
from medssl.volume import Volume

OCT_FIELD_MM = (6.0, 6.0, 2.0)
"""Assumed field of NPZ volumes along A-scans, B-scans and depth; the files do not say (spacing_source "nominal")."""


EDGED = (225, 225)
"""Maps of this size (Harvard-GDP) lose their first row and column, as their authors have it: 224 can be halved."""

UNITS = ("um", "dB")
"""Of the channels of a map: thickness, and the deviations of the visual field where the file has them."""

LARGEST_FIELD = 1 << 16
"""Bytes of the visual field's member; more is no field."""


@dataclass(frozen=True)
class _Told:
    """The array as it is written: (B-scan, depth, A-scan), or a map (B-scan, A-scan) with its visual field in dB."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype
    field: np.ndarray | None = None

    @property
    def edge(self) -> int:
        """Rows and columns that are left out at the beginning."""
        return int(self.shape == EDGED)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Voxels along A-scans, B-scans and depth."""
        return self.shape[-1] - self.edge, self.shape[0] - self.edge, self.shape[1] if len(self.shape) == 3 else 1

    @property
    def affine(self) -> np.ndarray:
        """The assumed field over the voxels."""
        steps = [mm / (n + self.edge * (n > 1)) for mm, n in zip(OCT_FIELD_MM, self.grid, strict=True)]
        affine = np.diag([*steps, 1.0])
        affine[:2, 3] = self.edge * np.array(steps[:2])
        return affine


def volume(path: Path) -> Volume:
    """The OCT volume of a Harvard-style NPZ: oct_bscans (B-scan, depth, A-scan) to (1, A-scan, B-scan, depth).

    Without one, its map of the nerve fibre layer in um (rnflt), nan where it is negative: codes for what could not be
    measured. The 52 deviations of the visual field in dB (tds) become a second channel (see field.py).
    The files carry no spacing: a field of 6 x 6 mm, 2 mm deep, is assumed and said to be (spacing_source "nominal").
    """
    with _opened(path) as (told, blocks):
        values = np.empty(math.prod(told.shape), kept_as(told.dtype))
        kept(path, blocks, told.dtype, into=values)
    scans = values.reshape(told.shape, order="F" if told.by_columns else "C")
    if scans.ndim == 2:
        return _map(scans[told.edge :, told.edge :], told)
    voxels = np.ascontiguousarray(scans.transpose(2, 0, 1)[None])
    return Volume(voxels, told.affine, "OPT", spacing_source="nominal", oriented=False)


def header(path: Path, size: int) -> Header:
    """What the file says of itself, all of the volume read and verified, no more than a piece held. Raises Refusal."""
    with _opened(path) as (told, blocks):
        kept(path, blocks, told.dtype)
    return Header(
        path=path, size=size, kind="npz", modality="OPT", shape=told.grid, affine=tuple(told.affine.ravel().tolist()),
        spacing_source="nominal", oriented=False,
    )  # fmt: skip


def _map(thickness: np.ndarray, told: _Told) -> Volume:
    measured = np.where(thickness < 0, np.nan, thickness).astype(np.float32)
    planes = [measured] if told.field is None else [measured, field_picture(told.field, measured.shape)]
    voxels = np.ascontiguousarray(np.stack(planes).transpose(0, 2, 1)[..., None])
    unit = ", ".join(UNITS[: len(planes)])
    return Volume(voxels, told.affine, "OPT", unit, spacing_source="nominal", oriented=False)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[_Told, Iterator[np.ndarray]]]:
    """The array's header and its voxels; whatever a broken file makes zipfile and numpy raise becomes a Refusal."""
    try:
        with zipfile.ZipFile(path) as members:
            # A set of thickness maps (Harvard-GDP) has no volume; its map is a volume one voxel deep.
            only_map = "oct_bscans.npy" not in members.namelist() and "rnflt.npy" in members.namelist()
            info = members.getinfo("rnflt.npy" if only_map else "oct_bscans.npy")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack without a bound
                raise Refusal("NPZ_LAYOUT", path.name, "packed in another way")
            check_claim(path, 0, info.file_size, info.compress_size + 1)
            field = _field(path, members) if only_map else None
            with members.open(info) as member:
                told = replace(_told(path, member, (2,) if only_map else (3,)), field=field)
                check_claim(path, math.prod(told.shape), math.prod(told.shape) * told.dtype.itemsize, info.file_size)
                yield told, voxels_of(path, plain(member), 0, math.prod(told.shape), told.dtype)  # type: ignore[arg-type]
    except (Refusal, MemoryError):
        raise
    except KeyError:
        raise Refusal("NPZ_LAYOUT", path.name, "no oct_bscans") from None
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
        raise Refusal("FILE_TRUNCATED", path.name, type(error).__name__) from None
    except Exception as error:  # locked, or a header that is none
        raise Refusal("NPZ_LAYOUT", path.name, type(error).__name__) from None


def _field(path: Path, members: zipfile.ZipFile) -> np.ndarray | None:
    """The deviations (52,) of the visual field; None where there are none. Raises Refusal for what is no such field."""
    if "tds.npy" not in members.namelist():
        return None
    info = members.getinfo("tds.npy")
    if info.file_size > LARGEST_FIELD:
        raise Refusal("NPZ_LAYOUT", path.name, f"tds of {info.file_size} bytes")
    with members.open(info) as member:
        values = np.lib.format.read_array(member, allow_pickle=False).ravel()
    if values.size != POINTS or values.dtype.kind not in "uif":
        raise Refusal("NPZ_LAYOUT", path.name, f"tds {values.shape} {values.dtype}")
    return values if np.isfinite(values).any() else None


def _told(path: Path, member: Any, dimensions: tuple[int, ...]) -> _Told:
    version = np.lib.format.read_magic(member)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise Refusal("NPZ_LAYOUT", path.name, f"format {version}")
    shape, by_columns, dtype = read(member)
    if dtype.hasobject:
        raise Refusal("NPZ_PICKLE", path.name)
    if len(shape) not in dimensions or min(shape) < 1 or dtype.kind not in "uif":
        raise Refusal("NPZ_LAYOUT", path.name, f"oct_bscans {shape} {dtype}")
    return _Told(shape, by_columns, dtype)
