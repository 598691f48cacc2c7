"""OCT volumes in Harvard-style NPZ files, which carry no spacing."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medssl.archive.headers import Header
from medssl.archive.reasons import Refusal
from medssl.archive.streams import check_claim, kept, kept_as, plain, voxels_of
from medssl.volume import Volume

OCT_FIELD_MM = (6.0, 6.0, 2.0)
"""Assumed field of NPZ volumes along A-scans, B-scans and depth; the files do not say (spacing_source "nominal")."""


@dataclass(frozen=True)
class _Told:
    """The array as it is written: (B-scan, depth, A-scan)."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype

    @property
    def grid(self) -> tuple[int, int, int]:
        """Voxels along A-scans, B-scans and depth."""
        return self.shape[-1], self.shape[0], self.shape[1] if len(self.shape) == 3 else 1

    @property
    def affine(self) -> np.ndarray:
        """The assumed field over the voxels."""
        return np.diag([*(mm / n for mm, n in zip(OCT_FIELD_MM, self.grid, strict=True)), 1.0])


def volume(path: Path) -> Volume:
    """The OCT volume of a Harvard-style NPZ: oct_bscans (B-scan, depth, A-scan) to (1, A-scan, B-scan, depth).

    The files carry no spacing: a field of 6 x 6 mm, 2 mm deep, is assumed and said to be (spacing_source "nominal").
    """
    with _opened(path) as (told, blocks):
        values = np.empty(math.prod(told.shape), kept_as(told.dtype))
        kept(path, blocks, told.dtype, into=values)
    scans = values.reshape(told.shape, order="F" if told.by_columns else "C")
    scans = scans if scans.ndim == 3 else scans[:, None]
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
            with members.open(info) as member:
                told = _told(path, member, (2, 3) if only_map else (3,))
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
