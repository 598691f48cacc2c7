"""One volume from its source files to its folder in the store, with a row that says what was done."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import google_crc32c
import numpy as np

from medssl.atomic import write_json
from medssl.store.grids import mask_on_grid, put_on_grid
from medssl.store.normalise import Normal, normalise
from medssl.store.reasons import Unusable
from medssl.store.settings import MODALITIES, Preparation
from medssl.store.shards import move_folder, write_array
from medssl.volume import Volume

ROW = "row.json"
"""Name of the file in a volume's folder that says how it was prepared; it is there if and only if the arrays are."""

EVERY_ROW = ("volume_id", "preparation_hash", "has_mask", "prepared_status", "prepared_reason", "detail")
"""Columns of every row, of prepared volumes and of others."""

RETRIED = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT}
"""Errors of a disk or network that may be gone the next time."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A volume to be prepared: where it comes from, where it goes, and what the cohort says of it."""

    volume_id: str
    modality: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    sources: tuple[Path, ...]
    checksums: tuple[int | None, ...]
    mask: Path | None
    settings: Preparation
    preparation_hash: str
    folder: Path


Row = Mapping[str, object]


def prepare_case(case: Case) -> Row:
    """The provenance row of a volume that now lies in its folder, or of one that cannot be prepared, with the reason.

    Errors while writing (a full disk) are raised: the next volume would meet them too.
    """
    try:
        image = _open(case)
        grid = put_on_grid(image, case.settings)
        normal = _normalise(grid, image, case.settings)
        mask, mask_reason = _mask(case, image, grid)
    except Exception as error:  # whatever a broken file does to a reader, the others go on
        code = code_of(error)
        return failed(case, code, detail=type(error).__name__ if code == "UNREADABLE" else "")
    row = _row(case, grid, normal, mask, mask_reason)
    try:
        return _write(case, row, normal.voxels.astype(np.float16), mask)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(case.folder)) from error


def code_of(error: Exception) -> str:
    """The reason code of whatever went wrong while reading. The text of foreign errors may name a patient: not kept."""
    from medssl.archive.reasons import Refusal

    if isinstance(error, Unusable | Refusal):
        return str(error.code)
    if isinstance(error, FileNotFoundError):
        return "SOURCE_MISSING"
    if isinstance(error, MemoryError):
        return "TOO_LARGE"
    return "IO_ERROR" if isinstance(error, OSError) and error.errno in RETRIED else "UNREADABLE"


def failed(case: Case, code: str, *, detail: str = "") -> Row:
    """The row of a volume that could not be prepared."""
    return dict(zip(EVERY_ROW, (case.volume_id, case.preparation_hash, False, "excluded", code, detail), strict=True))


def read_row(folder: Path) -> Row | None:
    """What was done to the volume in a folder; None when nothing complete is there."""
    try:
        return json.loads((folder / ROW).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _open(case: Case) -> Volume:
    from medssl.archive import open_volume  # those who only read a store do not load the archive's decoders

    if not all(path.exists() for path in case.sources):
        raise Unusable("SOURCE_MISSING")
    # Compressed DICOM has no checksum of its own: a flipped bit on the archive's disk would go unseen.
    for source, told in zip(case.sources, case.checksums, strict=True):
        if told is not None and google_crc32c.value(source.read_bytes()) != told:
            raise Unusable("SOURCE_CHANGED")
    path = case.sources[0] if len(case.sources) == 1 else list(case.sources)
    image = open_volume(path, modality=case.modality)
    # The order of the axes may be told differently by a header and by its reader; the sizes may not.
    if case.shape and sorted(case.shape) != sorted(image.shape):
        raise Unusable("SOURCE_CHANGED")
    return replace(image, modality=case.modality)


def _normalise(grid: Volume, image: Volume, settings: Preparation) -> Normal:
    normal = normalise(
        grid,
        ct_window=settings.ct_window,
        clip_percentiles=settings.clip_percentiles,
        stored_range=declared_range(image),
    )
    if normal.reason:
        raise Unusable(normal.reason)
    return normal


def declared_range(image: Volume) -> tuple[float, float] | None:
    """What the values could be by their type: 8-bit pictures, and radiographs that their reader windowed to 0..1."""
    if image.voxels.dtype == np.uint8:
        return 0.0, 255.0
    windowed = MODALITIES[image.modality] == "xray" and image.voxels.dtype.kind == "f"
    return (0.0, 1.0) if windowed and image.voxels.min() >= 0 and image.voxels.max() <= 1 else None


def _mask(case: Case, image: Volume, grid: Volume) -> tuple[np.ndarray | None, str]:
    """The label map on the prepared grid, or None and why there is none; "" when the cohort names none."""
    from medssl.archive import open_volume

    if case.mask is None:
        return None, ""
    if not case.mask.exists():
        return None, "MASK_MISSING"
    try:
        return mask_on_grid(open_volume(case.mask, modality="MASK"), image=image, grid=grid), ""
    except Unusable as error:
        return None, error.code
    except Exception:
        return None, "MASK_UNREADABLE"


def _row(case: Case, grid: Volume, normal: Normal, mask: np.ndarray | None, mask_reason: str) -> dict[str, object]:
    return {
        "volume_id": case.volume_id,
        "preparation_hash": case.preparation_hash,
        "prepared_shape": list(grid.shape),
        "prepared_spacing": list(grid.spacing),
        "prepared_affine": grid.affine.ravel().tolist(),
        "channels": grid.channels,
        "unit": grid.unit,
        **asdict(normal.measured),
        "offset": normal.scale.offset,
        "scale": normal.scale.scale,
        "has_mask": mask is not None,
        "mask_labels": [] if mask is None else [int(value) for value in np.unique(mask) if value],
        "prepared_status": "warn" if mask_reason else "ok",
        "prepared_reason": mask_reason,
        "detail": "",
    }


def _write(case: Case, row: dict[str, object], image: np.ndarray, mask: np.ndarray | None) -> Row:
    part = case.folder.with_name(f".{case.volume_id}.{os.getpid()}.part")
    try:
        row["array_crc32c"] = write_array(part / "image", image)
        row["mask_crc32c"] = write_array(part / "mask", mask) if mask is not None else None
        write_json(part / ROW, row)
        move_folder(part, case.folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return row
