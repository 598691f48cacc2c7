"""From maps that `medssl predict --masks` wrote to DICOM segmentations, one for each volume of a DICOM archive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom

from medssl.atomic import replacing
from medssl.delivery.segmentation import segmentation
from medssl.delivery.slices import in_order, on_slices, regions
from medssl.errors import UserError
from medssl.manifest.cohort import read_sources
from medssl.progress import Progress, silent


def deliver(
    maps: Path | str,
    cohort: Path | str,
    output: Path | str,
    structures: Sequence[str],
    *,
    model: str = "medssl",
    progress: Progress = silent,
) -> pd.DataFrame:
    """A row for each map: where its segmentation is, or the reason why there is none.

    `maps` is a folder of label maps or detection maps as NIfTI, named by volume (of a detection map, all candidates are the
    first of `structures`). Each is drawn on the slices that the volume was made of, and OUTPUT/VOLUME.dcm opens beside them.
    A map of which regions would be lost, merged or parted on the slices' grid is not delivered: who counts lesions must find
    as many. delivered.csv holds the rows; one that cannot be delivered does not stop the others.
    """
    maps, output = Path(maps), Path(output)
    paths = sorted(maps.glob("*.nii.gz"))
    if not paths:
        raise UserError(f"{maps}: no maps (*.nii.gz) here; write them with medssl predict --masks {maps}")
    table = read_sources(cohort).sort_values(["volume_id", "order"])
    archive = Path(str(table["archive"].iloc[0])) if len(table) else Path()
    sources = {
        name: [archive / path for path in dict.fromkeys(some["path"])] for name, some in table.groupby("volume_id")
    }
    rows = []
    for number in progress(range(len(paths)), "delivering", len(paths)):
        volume_id = paths[number].name.removesuffix(".nii.gz")
        row = {"volume_id": volume_id, "path": "", "regions": 0, "reason": ""}
        try:
            if volume_id not in sources:
                raise UserError(
                    f"{volume_id}: the cohort has no such volume; give the cohort that the store was made of"
                )
            row |= _one(paths[number], sources[volume_id], output / f"{volume_id}.dcm", structures, model)
        except UserError as error:
            row["reason"] = str(error)
        rows.append(row)
    delivered = pd.DataFrame(rows)
    with replacing(output / "delivered.csv") as part:
        delivered.to_csv(part, index=False)
    return delivered


def _one(path: Path, files: Sequence[Path], output: Path, structures: Sequence[str], model: str) -> dict[str, object]:
    image = nib.load(path)
    found = np.asarray(image.dataobj)
    labels = (found > 0).astype(np.uint8) if found.dtype.kind == "f" else found.astype(np.uint8)
    if labels.max() > len(structures):
        raise UserError(f"{path}: holds structure {labels.max()}, but {len(structures)} are named; name them all")
    slices = in_order([_slice(file) for file in files])
    frames = on_slices(labels, image.affine, slices)
    for number, name in enumerate(structures, 1):
        before, after = regions(labels == number), regions(frames == number)
        if before != after:
            raise UserError(
                f"{path}: {before} regions of {name} are {after} on the slices' grid; prepare a finer grid, or deliver NIfTI"
            )
    if not frames.any():
        return {"reason": "nothing was found in it"}
    with replacing(output) as part:
        segmentation(frames, slices, structures, model).save_as(part)
    return {"path": str(output), "regions": sum(regions(frames == n) for n in range(1, len(structures) + 1))}


def _slice(path: Path) -> pydicom.Dataset:
    """A single-frame DICOM image, without its pixels."""
    try:
        one = pydicom.dcmread(path, stop_before_pixels=True)
    except (pydicom.errors.InvalidDicomError, OSError) as error:
        raise UserError(f"{path}: not a DICOM file that can be read ({error}); only those can be drawn on") from None
    if int(one.get("NumberOfFrames", 1)) > 1:
        raise UserError(
            f"{path}: holds {one.NumberOfFrames} frames; only series of single slices can be drawn on so far"
        )
    return one
