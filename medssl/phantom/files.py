"""NIfTI and NPZ files with equal bytes for equal content."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


def nifti_bytes(voxels: np.ndarray, affine: np.ndarray) -> bytes:
    """A gzipped NIfTI-1 image (I, J, K) with its RAS+ affine in sform and qform."""
    import nibabel

    image = nibabel.Nifti1Image(voxels, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Nothing; the arrays as an uncompressed NPZ whose members carry no date."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", ZIP_EPOCH), "w") as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def write_bytes(path: Path, content: bytes) -> None:
    """Nothing; the content at `path`, folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
