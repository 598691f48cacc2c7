"""Content that an index has to leave out, each piece with its own reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medssl.phantom.cohort import Person
from medssl.phantom.dicom import pixel_tags, study_tags, uid, write, write_slices
from medssl.phantom.files import nifti_bytes, write_bytes
from medssl.phantom.radiology import chest_ct, head_mr

MISSING_SLICE = 11

SPOILED = {
    "pacs/FAKE-B0001/ST01/SE01/": f"chest CT in which the slice at position {MISSING_SLICE} of 24 is missing",
    "pacs/FAKE-B0002/ST01/SE01/IM0001.dcm": "CT slice whose pixel data stop half way",
    "pacs/FAKE-B0003/ST01/SE01/IM0001.dcm": "secondary capture: a screenshot, not an acquisition",
    "pacs/FAKE-B0003/ST01/report.pdf": "a report, not an image",
    "nifti/FAKE-B0004_T1w.nii.gz": "NIfTI whose gzip stream stops half way",
    "pacs/transfer_notes.txt": "a text file between the images",
}
"""Path below the archive -> what is wrong with it."""


def write_spoiled(folder: Path, persons: Sequence[Person], seed: int) -> None:
    """Nothing; everything in SPOILED, for four patients."""
    paths = [folder / name for name in SPOILED]
    gap, cut, capture, head = persons
    _missing_slice(paths[0], gap, seed)
    _cut_dicom(paths[1], cut, seed)
    _capture(paths[2], capture, seed)
    write_bytes(paths[3], _PDF)
    whole = nifti_bytes(*head_mr(head, seed))
    write_bytes(paths[4], whole[: len(whole) // 2])
    write_bytes(paths[5], b"Exported by the invented archive. Series may be incomplete.\n")


def _missing_slice(folder: Path, person: Person, seed: int) -> None:
    voxels, affine, tags = chest_ct(person, seed)
    write_slices(folder, voxels, affine, tags)
    (folder / f"IM{MISSING_SLICE:04d}.dcm").unlink()


def _cut_dicom(path: Path, person: Person, seed: int) -> None:
    voxels, affine, tags = chest_ct(person, seed)
    write_slices(path.parent, voxels[:, :, :1], affine, tags)
    whole = path.read_bytes()
    path.write_bytes(whole[: -voxels[:, :, 0].nbytes // 2])


def _capture(path: Path, person: Person, seed: int) -> None:
    rows, columns = np.mgrid[:96, :128]
    screen = np.where((rows // 8 + columns // 16) % 2, 40, 200).astype(np.uint8)
    tags = study_tags(person, seed, "SC", 1)
    told = {
        "SOPInstanceUID": uid(0, tags["SeriesInstanceUID"], 0),
        "ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"],
        "ConversionType": "WSD",
        "InstanceNumber": 1,
    }
    write(path, {**tags, **told, **pixel_tags(screen)})


_PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Count 0/Kids[]>>endobj\n%%EOF\n"
