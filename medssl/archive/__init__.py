"""From files on disk to volumes: `open_volume` is the one door. Reads CT, MR, OCT and X-ray DICOM, NIfTI, MHA, NRRD,
Harvard-style NPZ, PNG and JPEG; everything else is refused with a reason code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.archive.reasons import REASONS, Refusal
from medssl.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from medssl.archive.headers import Header
    from medssl.archive.series import Stack
    from medssl.volume import Volume

__all__ = ["REASONS", "Refusal", "open_volume"]


def open_volume(
    path: Path | str | Sequence[Path | str], modality: str | None = None, frames: Sequence[Sequence[int]] = ()
) -> Volume:
    """The volume in a file, or in a folder or list of files that hold one DICOM volume, in RAS+ mm.

    CT comes in HU, MR as scaled by the scanner, OCT as (A-scan, B-scan, depth), a radiograph as (columns, rows, 1) from
    0 to 1. `modality` (a DICOM code, or "MASK") is for files that do not say it themselves. `frames` names, for each
    file, which of its frames are looked at, from 0; nothing means all. Raises Refusal with a reason code, UserError when
    there is nothing or more than one volume.
    """
    from medssl.archive.files import READERS

    paths = _files(path)
    # A scan that an XML describes is in the pictures beside it, which may be given with it.
    if len(paths) == 1 or paths[0].suffix.lower() == ".xml":
        for endings, (_, reader) in READERS.items():
            if paths[0].name.lower().endswith(endings):
                return _in_its_colours(_named(reader(paths[0]), modality), paths[0])
    return _named(_dicom(paths, frames), modality)


def _files(path: Path | str | Sequence[Path | str]) -> list[Path]:
    from medssl.archive.finding import find_files

    if not isinstance(path, str | Path):
        return [Path(item) for item in path]
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check the path")
    files = find_files(path).files if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path}: an empty folder; give one that holds images")
    return files


def _named(volume: Volume, modality: str | None) -> Volume:
    if modality is None or volume.modality not in ("unknown", modality):
        return volume
    return replace(volume, modality=modality, unit={"MASK": "label", "CT": "HU"}.get(modality, volume.unit))


def _in_its_colours(volume: Volume, path: Path) -> Volume:
    """A photograph in three channels, equal ones if it is grey; anything else in one. Raises Refusal for colour there."""
    import numpy as np

    from medssl.archive.headers import IN_COLOUR
    from medssl.archive.picture import COLOURS

    if volume.modality in IN_COLOUR:
        return replace(volume, voxels=np.repeat(volume.voxels, 3 // volume.channels, axis=0), unit=COLOURS)
    if volume.unit == COLOURS:
        raise Refusal("COLOR_IMAGE", path.name, f"modality {volume.modality}")
    return volume


def _dicom(paths: list[Path], frames: Sequence[Sequence[int]]) -> Volume:
    from medssl.archive.headers import read_header
    from medssl.archive.series import assemble

    if frames and len(frames) != len(paths):
        raise UserError(f"frames: {len(frames)} lists for {len(paths)} files; give one for each, empty for all frames")
    chosen: dict[Path, list[int]] = {path: [] for path in paths}
    for path, some in zip(paths, frames or [()] * len(paths), strict=True):
        chosen[path] += some
    headers = [replace(read_header(path), frames=tuple(some)) for path, some in chosen.items()]
    for header in headers:
        if header.frames and not 0 <= min(header.frames) <= max(header.frames) < header.n_frames:
            raise UserError(f"{header.path}: has frames 0 to {header.n_frames - 1}; other ones were asked for")
    stacks = assemble(headers)
    kept = [stack for stack in stacks if stack.status != "excluded"]
    if not kept:
        raise Refusal(stacks[0].reason, paths[0].parent.name if len(paths) > 1 else paths[0].name)
    if len(kept) > 1:
        raise UserError(
            f"{paths[0].parent}: holds {len(kept)} volumes; open one series, give the frames of one volume, or run medssl "
            "index on the folder"
        )
    return read_stack(kept[0])


def read_stack(stack: Stack) -> Volume:
    """The voxels of an assembled stack, on its affine."""
    import numpy as np

    from medssl.archive import ct, mr, oct, xray
    from medssl.archive.pixels import read_dataset
    from medssl.volume import Volume

    reader = {"CT": ct, "MR": mr, "OPT": oct, "DX": xray, "CR": xray, "MG": xray}[stack.modality]
    paths = dict.fromkeys(header.path for header in stack.headers)
    found = {path: reader.values(read_dataset(path), path.name) for path in paths}
    values, real = (np.concatenate([_frames(found[h.path][n], h) for h in stack.headers]) for n in (0, 1))
    # (slice, row, column) as DICOM stores it; a raster of B-scans is (B-scan, depth, A-scan).
    axes = (2, 0, 1) if stack.modality == "OPT" else (2, 1, 0)
    if stack.affine is None:
        raise Refusal("BAD_GEOMETRY", stack.headers[0].path.name)
    valid = real.transpose(axes)
    return Volume(
        np.ascontiguousarray(values.transpose(axes))[None], stack.affine, stack.modality, reader.UNIT,
        None if valid.all() else valid, stack.spacing_source, stack.oriented,
    )  # fmt: skip


def _frames(values: np.ndarray, header: Header) -> np.ndarray:
    """The frames of a file that a header stands for, in its order."""
    frames = values[None] if values.ndim == 2 else values
    return frames[list(header.frames)] if header.frames else frames
