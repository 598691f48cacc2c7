"""From maps that `medssl predict --masks` wrote to DICOM segmentations, one for each volume of a DICOM archive."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
from nibabel.filebasedimages import ImageFileError
from scipy.ndimage import label

from medssl.atomic import replacing
from medssl.delivery.findings import structured_report
from medssl.delivery.segmentation import segmentation
from medssl.delivery.slices import TOUCHING, frames_of, on_slices, places_of, regions
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

    `maps` is a folder of label maps or detection maps as NIfTI, named by volume; each candidate of a detection map becomes a
    segment of its own, called as the first of `structures`, with a number. Each map is drawn on the slices that the volume
    was made of: OUTPUT/VOLUME.dcm opens beside them, and OUTPUT/VOLUME_report.dcm tells volumes and confidences. A map of
    which regions would be lost, merged or parted on the slices' grid is not delivered: who counts lesions must find as many.
    delivered.csv holds the rows; one that cannot be delivered does not stop the others.
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
        for old in (output / f"{volume_id}.dcm", output / f"{volume_id}_report.dcm"):
            old.unlink(missing_ok=True)  # of a former map, it would be taken for this one's
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
    try:
        image = nib.load(path)
        found = np.asarray(image.dataobj)
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(
            f"{path}: not a whole NIfTI file ({error}); write it again with medssl predict --masks"
        ) from None
    if found.dtype.kind != "f" and found.max(initial=0) > len(structures):
        raise UserError(f"{path}: holds structure {found.max()}, but {len(structures)} are named; name them all")
    labels, names, confidences = _named(found, structures)
    images = _images(files)
    every = [frame for one in images for frame in frames_of(one)]
    slices = [every[number] for number in places_of(every)]
    frames = on_slices(labels, image.affine, slices)
    counts = [regions(frames == number) for number in range(1, len(names) + 1)]
    for number, (name, after) in enumerate(zip(names, counts, strict=True), 1):
        before = regions(labels == number)
        if before != after:
            raise UserError(
                f"{path}: {before} regions of {name} are {after} on the slices' grid; prepare a finer grid, or deliver NIfTI"
            )
    if not frames.any():
        return {"reason": "nothing was found in it"}
    voxel_ml = abs(float(np.linalg.det(image.affine[:3, :3]))) / 1000
    volumes = [float((labels == number).sum() * voxel_ml) for number in range(1, len(names) + 1)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* is unlikely to represent the intended person name")  # not ours to mend
        made = segmentation(frames, slices, images, names, model)
        report = structured_report(made, images, volumes, confidences, model)
    for where, content in ((output, made), (output.with_stem(f"{output.stem}_report"), report)):
        with replacing(where) as part:
            content.save_as(part)
    return {"path": str(output), "regions": sum(counts)}


def _named(found: np.ndarray, structures: Sequence[str]) -> tuple[np.ndarray, list[str], list[float]]:
    """A label map (I, J, K), the names of its numbers, and how sure the model is of each (nan: not known)."""
    if found.dtype.kind != "f":
        return found.astype(np.uint8), [*structures], [float("nan")] * len(structures)
    numbers, count = label(found > 0, TOUCHING)
    names = [f"{structures[0]} {number}" for number in range(1, count + 1)]
    return numbers.astype(np.uint8), names, [float(found[numbers == n].max()) for n in range(1, count + 1)]


def _images(files: Sequence[Path]) -> list[pydicom.Dataset]:
    """The DICOM images of a volume, without their pixels: slices in their order, or one image of several frames."""
    found = []
    for path in files:
        try:
            found.append(pydicom.dcmread(path, stop_before_pixels=True))
        except (pydicom.errors.InvalidDicomError, OSError) as error:
            raise UserError(
                f"{path}: not a DICOM file that can be read ({error}); only those can be drawn on"
            ) from None
    if found[0].get("Modality") == "OPT":
        raise UserError(
            f"{files[0]}: OCT, whose volumes have axes of their own and no place in the patient; deliver NIfTI"
        )
    if len(found) == 1:
        return found
    for path, one in zip(files, found, strict=True):
        if int(one.get("NumberOfFrames", 1)) > 1:
            raise UserError(
                f"{path}: holds {one.NumberOfFrames} frames and is one of {len(files)} files of its volume; only one file "
                "of frames, or slices, can be drawn on; deliver NIfTI"
            )
    return found
