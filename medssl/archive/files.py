"""Images in files of their own, by the ending of the name: NIfTI, MHA and NRRD, NPZ, PNG and JPEG, Heidelberg's OCT.

What a library does not check is checked before it allocates: the checksum of what is packed, the exact length of the
data, and the dimensions claimed against the size of the file. A 64-byte NIfTI can claim gigabytes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medssl.archive import heidelberg, itk, nifti, npz, picture
from medssl.archive.headers import Header
from medssl.archive.reasons import Refusal
from medssl.volume import Volume

READERS: dict[tuple[str, ...], tuple[str, Callable[[Path], Volume]]] = {
    (".nii", ".nii.gz"): ("nifti", nifti.volume),
    (".mha", ".nrrd"): ("itk", itk.volume),
    (".npz",): ("npz", npz.volume),
    (".png", ".jpg", ".jpeg"): ("image", picture.volume),
    (".vol",): ("heidelberg", lambda path: heidelberg.vol(path).volume),
    (".xml",): ("heidelberg", lambda path: heidelberg.xml(path).volume),
}
"""File endings, the kind of source they are, and what reads them."""


def _scan_header(reader: Callable[[Path], heidelberg.Scan]) -> Callable[[Path, int], Header]:
    def read(path: Path, size: int) -> Header:
        scan = reader(path)
        volume = scan.volume
        return Header(
            path=path, size=size, kind="heidelberg", modality=volume.modality, shape=volume.shape,
            affine=tuple(volume.affine.ravel().tolist()), spacing_source=volume.spacing_source,
            oriented=volume.oriented, patient_id=scan.patient_id, laterality=scan.laterality, parts=scan.parts,
        )  # fmt: skip

    return read


def _refuse(code: str) -> Callable[[Path, int], Header]:
    def read(path: Path, size: int) -> Header:
        raise Refusal(code, path.name)

    return read


HEADER_READERS = {
    (".nii", ".nii.gz"): nifti.header,
    (".mha", ".nrrd"): itk.header,
    (".npz",): npz.header,
    (".png", ".jpg", ".jpeg"): picture.header,
    (".vol",): _scan_header(heidelberg.vol),
    (".xml",): _scan_header(heidelberg.xml),
    (".hdr", ".img", ".mhd", ".nhdr"): _refuse("PAIRED_HEADER"),
    (".e2e", ".sdb", ".fda", ".fds"): _refuse("OCT_VENDOR_FORMAT"),
}
"""File endings and what reads their header: the whole file is read, so that damage is found when it is indexed."""
