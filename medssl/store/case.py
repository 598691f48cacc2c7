"""One volume from its source files to its folder in the store, with a row that says what was done."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import google_crc32c
import numpy as np

from medssl.atomic import write_json
from medssl.store.channels import Channel, by_unit, own_channel, partner_channel, valid_mask
from medssl.store.grids import mask_on_grid, put_on_grid
from medssl.store.layout import Damaged
from medssl.store.reasons import Unusable
from medssl.store.settings import GROUPS, Preparation
from medssl.store.shards import index_checksum, move_folder, write_array
from medssl.volume import Volume

ROW = "row.json"
"""Name of the file in a volume's folder that says how it was prepared; it is there if and only if the arrays are."""

EVERY_ROW = ("volume_id", "preparation_hash", "has_mask", "has_valid", "prepared_status", "prepared_reason", "detail")
"""Columns of every row, of prepared volumes and of others."""

ARRAYS = {"image": "array", "mask": "mask", "valid": "valid"}
"""The arrays that a volume may have, and what the names of their columns start with."""

TRIED_AGAIN = {"MASK_IO_ERROR"}
"""Reasons of rows with arrays that may be gone in the next run. What has no arrays is always tried again."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Another volume that becomes a channel of a case, and the share of the case's box that it covers."""

    volume_id: str
    role: str
    shape: tuple[int, ...]
    sources: tuple[Path, ...]
    frames: tuple[tuple[int, ...], ...] = ()
    checksums: tuple[int | None, ...]
    overlap: float


@dataclass(frozen=True, kw_only=True)
class Case:
    """A volume to be prepared: where it comes from, where it goes, and what the cohort says of it.

    `frames` are those of each source that belong to it, none where all do. `parts` become further channels on its grid,
    in their order. `mask_checksum` is of the label map's file, None where there is none that can be read.
    """

    volume_id: str
    modality: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    sources: tuple[Path, ...]
    frames: tuple[tuple[int, ...], ...] = ()
    checksums: tuple[int | None, ...]
    mask: Path | None
    mask_checksum: int | None = None
    parts: tuple[Part, ...] = ()
    settings: Preparation
    preparation_hash: str
    folder: Path


Row = Mapping[str, object]


def prepare_case(case: Case) -> Row:
    """The provenance row of a volume that now lies in its folder, or of one that cannot be prepared, with the reason.

    Errors while writing (a full disk) are raised: the next volume would meet them too.
    """
    role = ""
    try:
        image = _open(case, case.modality)
        first_role = GROUPS[case.settings.groups][0] if case.parts else ""
        own = [(put_on_grid(one, case.settings), one) for one in by_unit(image)]
        channels = [
            own_channel(there, one, case.settings, first_role or one.unit * (len(own) > 1)) for there, one in own
        ]
        grid = own[0][0]
        for part in case.parts:
            role = part.role
            channels.append(partner_channel(_open(part, case.modality), role, grid, case.settings))
        role = ""
        mask, mask_reason = _mask(case, image, grid)
    except Exception as error:  # whatever a broken file does to a reader, the others go on
        code = code_of(error)
        detail = type(error).__name__ if code == "UNREADABLE" else ""
        return failed(case, code, detail=" ".join(filter(None, (role, detail))))
    arrays = {
        "image": np.concatenate([channel.normal.voxels.astype(np.float16) for channel in channels]),
        "mask": mask,
        "valid": valid_mask(channels, grid.shape),
    }
    row = _row(case, grid, channels, mask, mask_reason)
    try:
        return _write(case, row, arrays)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(case.folder)) from error


def code_of(error: Exception) -> str:
    """The reason code of whatever went wrong while reading. The text of foreign errors may name a patient: not kept."""
    from medssl.archive.reasons import Refusal
    from medssl.manifest.reading import FAILING

    if isinstance(error, Unusable | Refusal):
        return str(error.code)
    if isinstance(error, FileNotFoundError):
        return "SOURCE_MISSING"
    if isinstance(error, MemoryError):
        return "TOO_LARGE"
    return "IO_ERROR" if isinstance(error, OSError) and error.errno in FAILING else "UNREADABLE"


def failed(case: Case, code: str, *, detail: str = "") -> Row:
    """The row of a volume that could not be prepared."""
    return {**left_out(case.volume_id, code), "preparation_hash": case.preparation_hash, "detail": detail}


def left_out(volume_id: str, code: str) -> Row:
    """The row of a volume that is not to be prepared."""
    return dict(zip(EVERY_ROW, (volume_id, "", False, False, "excluded", code, ""), strict=True))


def read_row(folder: Path) -> Row | None:
    """What was done to the volume in a folder; None when nothing complete is there, or nothing that can be read."""
    try:
        row = json.loads((folder / ROW).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def row_there(case: Case) -> Row | None:
    """The row of a case that needs no preparing: its arrays are there, made as it asks, with the table of chunks that
    was written with each. Their voxels are not read: `verify` does that.
    """
    row = read_row(case.folder)
    if row is None or row.get("preparation_hash") != case.preparation_hash or row.get("prepared_reason") in TRIED_AGAIN:
        return None
    if row.get("prepared_reason") == "MASK_MISSING" and case.mask_checksum is not None:
        return None  # it was gone only while the volume was prepared
    names = [
        (name, f"{column}_index_crc32c") for name, column in ARRAYS.items() if row.get(f"{column}_crc32c") is not None
    ]
    try:
        return row if all(index_checksum(case.folder / name) == row.get(column) for name, column in names) else None
    except (Damaged, OSError):
        return None


def _open(case: Case | Part, modality: str) -> Volume:
    from medssl.archive import open_volume  # those who only read a store do not load the archive's decoders

    if not all(path.exists() for path in case.sources):
        raise Unusable("SOURCE_MISSING")
    # Compressed DICOM has no checksum of its own: a flipped bit on the archive's disk would go unseen.
    for source, told in dict(zip(case.sources, case.checksums, strict=True)).items():
        if told is not None and google_crc32c.value(source.read_bytes()) != told:
            raise Unusable("SOURCE_CHANGED")
    path = case.sources[0] if len(case.sources) == 1 else list(case.sources)
    image = open_volume(path, modality=modality, frames=case.frames)
    # The order of the axes may be told differently by a header and by its reader; the sizes may not.
    if case.shape and sorted(case.shape) != sorted(image.shape):
        raise Unusable("SOURCE_CHANGED")
    return replace(image, modality=modality)


def _mask(case: Case, image: Volume, grid: Volume) -> tuple[np.ndarray | None, str]:
    """The label map on the prepared grid, or None and why there is none; "" when the cohort names none."""
    from medssl.archive import open_volume

    if case.mask is None:
        return None, ""
    try:
        case.mask.read_bytes()  # a failing disk shows here as what it is; a decoder may call it a damaged file
        return mask_on_grid(open_volume(case.mask, modality="MASK"), image=image, grid=grid), ""
    except FileNotFoundError:
        return None, "MASK_MISSING"
    except Unusable as error:
        return None, error.code
    except MemoryError:
        raise
    except Exception as error:
        return None, "MASK_IO_ERROR" if code_of(error) == "IO_ERROR" else "MASK_UNREADABLE"


def _row(
    case: Case, grid: Volume, channels: list[Channel], mask: np.ndarray | None, mask_reason: str
) -> dict[str, object]:
    first = channels[0].normal
    row = {
        "volume_id": case.volume_id,
        "preparation_hash": case.preparation_hash,
        "prepared_shape": list(grid.shape),
        "prepared_spacing": list(grid.spacing),
        "prepared_affine": grid.affine.ravel().tolist(),
        "channels": len(channels),
        "unit": grid.unit,
        **asdict(first.measured),
        "offset": first.scale.offset,
        "scale": first.scale.scale,
        "has_mask": mask is not None,
        "mask_file_crc32c": case.mask_checksum,
        "mask_labels": [] if mask is None else [int(value) for value in np.unique(mask) if value],
        "prepared_status": "warn" if mask_reason else "ok",
        "prepared_reason": mask_reason,
        "detail": "",
    }
    if len(channels) > 1:
        row["channel_facts"] = [channel.facts() for channel in channels]
    if case.parts:
        row["alignment"] = "header"
        row["channel_volumes"] = [case.volume_id, *(part.volume_id for part in case.parts)]
        row["channel_overlap"] = [1.0, *(part.overlap for part in case.parts)]
    return row


def _write(case: Case, row: dict[str, object], arrays: Mapping[str, np.ndarray | None]) -> Row:
    part = case.folder.with_name(f".{case.volume_id}.{os.getpid()}.part")
    row["has_valid"] = arrays["valid"] is not None
    try:
        for name, array in arrays.items():
            row[f"{ARRAYS[name]}_crc32c"] = write_array(part / name, array) if array is not None else None
            row[f"{ARRAYS[name]}_index_crc32c"] = index_checksum(part / name) if array is not None else None
        write_json(part / ROW, row)
        move_folder(part, case.folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return row
