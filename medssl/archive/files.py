"""Volumes in files of their own: NIfTI, MHA and NRRD, Harvard-style NPZ, PNG and JPEG.

What a library does not check is checked before it allocates: the gzip checksum, the exact length of the data, and the
dimensions claimed against the size of the file. A 64-byte NIfTI can claim gigabytes.
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medssl.archive import heidelberg
from medssl.archive.headers import MAXIMUM_VOXELS, Header
from medssl.archive.reasons import Refusal
from medssl.volume import Volume

DEFLATE_RATIO = 1100
"""Deflate cannot shrink data more than 1032-fold; a file that claims more lies."""

HEADER_BYTES = 352
"""A NIfTI-1 header and the four bytes that announce extensions."""

TRAILING_BYTES = 1 << 20
"""How much may follow the voxels of a NIfTI file; some programs pad."""

XFORM_TOLERANCE = 1e-3
"""Relative to the voxel, how far sform and qform may be apart."""

OCT_FIELD_MM = (6.0, 6.0, 2.0)
"""Assumed field of NPZ volumes along A-scans, B-scans and depth; the files do not say (spacing_source "nominal")."""

ITK_HEADER_BYTES = 16_384
"""Within how many bytes the header of an MHA or NRRD file has to end."""

MAXIMUM_BYTES = 4_000_000_000
"""Most that the voxels of a file may take in memory."""

UNKNOWN_UNIT_MM = 0.05, 20.0
"""Voxel edges that are taken for millimetres when a NIfTI does not name its unit."""

METRES = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Factor to mm of NIfTI's codes for metre, millimetre and micrometre."""


def nifti(path: Path) -> Volume:
    """The volume of a .nii or .nii.gz file, unscaled values times slope plus intercept, RAS+ mm."""
    import nibabel as nib

    content = _nifti_bytes(path)
    try:
        image = nib.Nifti1Image.from_bytes(content)
    except Exception as error:
        raise Refusal("UNREADABLE", path.name, type(error).__name__) from None
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3):
        raise Refusal("NDIM", path.name, "x".join(map(str, shape)))
    try:
        values = np.asanyarray(image.dataobj)
    except Exception as error:
        raise Refusal("UNREADABLE", path.name, type(error).__name__) from None
    if values.dtype.names or np.iscomplexobj(values):
        raise Refusal("COLOR_IMAGE", path.name, str(values.dtype))
    shape3 = (*shape, 1)[:3]
    affine, oriented, source = _nifti_affine(path, image)
    return Volume(
        values.reshape(1, *shape3), affine, spacing_source=source, oriented=oriented and shape3[2] > 1,
    )  # fmt: skip


def _nifti_bytes(path: Path) -> bytes:
    """The uncompressed file, whole and no longer than its header says."""
    raw = path.read_bytes()
    start = _header_of(path, raw) if raw[:2] == b"\x1f\x8b" else raw[:HEADER_BYTES]
    order: Any = {348: "little", 540: "little"}.get(int.from_bytes(start[:4], "little")) or "big"
    if int.from_bytes(start[:4], order) != 348 or len(start) < 348:
        raise Refusal("UNREADABLE", path.name, "not a NIfTI-1 header")
    if start[344:347] == b"ni1":
        raise Refusal("PAIRED_HEADER", path.name)
    prefix = "<" if order == "little" else ">"
    dims = np.frombuffer(start, f"{prefix}i2", 8, 40).astype(int)
    bits = int(np.frombuffer(start, f"{prefix}i2", 1, 72)[0])
    offset = float(np.frombuffer(start, f"{prefix}f4", 1, 108)[0])
    if not 1 <= dims[0] <= 7 or (dims[1 : dims[0] + 1] < 1).any() or bits <= 0 or not 0 <= offset < 2**31:
        raise Refusal("BAD_GEOMETRY", path.name, f"dimensions {dims.tolist()}")
    voxels = math.prod(int(n) for n in dims[1 : dims[0] + 1])
    needed = int(offset) + voxels * bits // 8
    edges = np.frombuffer(start, f"{prefix}f4", 3, 80)[: dims[0]]
    by_sform = int(np.frombuffer(start, f"{prefix}i2", 1, 254)[0]) > 0
    if not by_sform and not (np.isfinite(edges) & (edges > 0)).all():  # nibabel would mend them to something
        raise Refusal("BAD_GEOMETRY", path.name, f"spacing {edges.tolist()}")
    if voxels > MAXIMUM_VOXELS or max(needed, 4 * voxels) > MAXIMUM_BYTES or needed > len(raw) * DEFLATE_RATIO:
        raise Refusal("TOO_LARGE", path.name, f"{voxels} voxels in {len(raw)} bytes")
    content = _inflate(path, raw, needed) if raw[:2] == b"\x1f\x8b" else raw
    if len(content) < needed:
        raise Refusal("FILE_TRUNCATED", path.name, f"{len(content)} of {needed} bytes")
    return content


def _header_of(path: Path, raw: bytes) -> bytes:
    """The first bytes of a gzip stream, not verified: only good for finding out how long the rest must be."""
    try:
        return zlib.decompressobj(wbits=31).decompress(raw, HEADER_BYTES)
    except zlib.error as error:
        raise Refusal("GZIP_DAMAGED", path.name, str(error)) from None


def _inflate(path: Path, raw: bytes, needed: int) -> bytes:
    """The whole content of a gzip stream, its checksum verified. What is longer than expected is not read to its end."""
    stream = zlib.decompressobj(wbits=31)
    try:
        content = stream.decompress(raw, needed + TRAILING_BYTES)
    except zlib.error as error:
        raise Refusal("GZIP_DAMAGED", path.name, str(error)) from None
    # zlib compares the checksum when it meets the end of the stream; without an end nothing has been verified.
    if not stream.eof:
        raise Refusal("GZIP_DAMAGED", path.name, "no end, or far more data than its header says")
    return content


def _nifti_affine(path: Path, image: Any) -> tuple[np.ndarray, bool, str]:
    """The affine to RAS+ mm, whether it is the patient's, and where the spacing comes from."""
    header = image.header
    codes = int(header["sform_code"]), int(header["qform_code"])
    zooms = np.array(header.get_zooms()[:3], dtype=np.float64)
    if not np.isfinite(zooms).all() or (zooms <= 0).any():
        raise Refusal("BAD_GEOMETRY", path.name, f"spacing {zooms.tolist()}")
    unit = int(header["xyzt_units"]) & 7
    factor = METRES.get(unit, 1.0)
    low, high = UNKNOWN_UNIT_MM
    if unit not in METRES and not ((zooms >= low) & (zooms <= high)).all():
        raise Refusal("BAD_GEOMETRY", path.name, f"spacing {zooms.tolist()} of an unknown unit")
    scale = np.diag([factor, factor, factor, 1.0])
    if codes == (0, 0):
        return scale @ np.diag([*np.pad(zooms, (0, 3 - len(zooms)), constant_values=1.0), 1.0]), False, "header"
    if min(codes) > 0:
        try:
            sform, qform = header.get_sform(), header.get_qform()
        except Exception as error:
            raise Refusal("BAD_GEOMETRY", path.name, type(error).__name__) from None
        if not np.isfinite([sform, qform]).all():
            raise Refusal("BAD_GEOMETRY", path.name, "sform or qform")
        apart = np.abs(sform - qform)
        far = apart[:3, 3] > XFORM_TOLERANCE * np.maximum(1.0, np.abs(sform[:3, 3]))
        if far.any() or apart[:3, :3].max() > XFORM_TOLERANCE * zooms.max():
            raise Refusal("XFORM_CONFLICT", path.name)
    sound = np.isfinite(image.affine).all()
    affine = scale @ image.affine if sound else np.eye(4)
    if not sound or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise Refusal("BAD_GEOMETRY", path.name, "singular affine")
    return affine, True, "header"


def itk(path: Path) -> Volume:
    """The volume of a .mha or .nrrd file whose data lie in the same file; LPS becomes RAS."""
    import SimpleITK as sitk

    oriented = _check_local(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
            raise Refusal("NDIM", path.name)
        voxels, size = math.prod(reader.GetSize()), path.stat().st_size
        needed = voxels * sitk.Image([1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
        if voxels > MAXIMUM_VOXELS or needed > MAXIMUM_BYTES or needed > size * DEFLATE_RATIO:
            raise Refusal("TOO_LARGE", path.name, f"{needed} bytes in {size}")
        image = reader.Execute()
    except RuntimeError:
        raise Refusal("UNREADABLE", path.name) from None
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image).T[None], np.diag([-1.0, -1, 1, 1]) @ lps, oriented=oriented)


def _check_local(path: Path) -> bool:
    """Whether the header says where the patient is; Refusal where the data are in another file, or where the header is too
    long to find out. A NRRD need not name its space; a MHA is in LPS by definition.
    """
    oriented = True
    with path.open("rb") as file:
        start = file.read(ITK_HEADER_BYTES).replace(b"\r\n", b"\n").lower()
    if start.startswith(b"nrrd"):
        header, ended, _ = start.partition(b"\n\n")
        detached = re.search(rb"^data ?file\s*:", header, re.MULTILINE) is not None
        named = re.search(rb"^space\s*:", header, re.MULTILINE)
        oriented = bool(named and re.search(rb"^space directions\s*:", header, re.MULTILINE))
    else:
        data = re.search(rb"^[ \t]*elementdatafile[ \t]*=[ \t]*(.*?)[ \t]*$", start, re.MULTILINE)
        ended = data.group(0) if data else b""
        detached = data is not None and data.group(1) != b"local"
    if detached:
        raise Refusal("PAIRED_HEADER", path.name)
    if not ended:
        raise Refusal("UNREADABLE", path.name, "no end of the header")
    return oriented


def npz(path: Path) -> Volume:
    """The OCT volume of a Harvard-style NPZ: oct_bscans (B-scan, depth, A-scan) to (1, A-scan, B-scan, depth).

    The files carry no spacing: a field of 6 x 6 mm, 2 mm deep, is assumed and said to be (spacing_source "nominal").
    """
    try:
        with zipfile.ZipFile(path) as members:
            # A set of thickness maps (Harvard-GDP) has no volume; its map is a volume one voxel deep.
            only_map = "oct_bscans.npy" not in members.namelist() and "rnflt.npy" in members.namelist()
            info = members.getinfo("rnflt.npy" if only_map else "oct_bscans.npy")
            if info.file_size > MAXIMUM_VOXELS or info.file_size > (info.compress_size + 1) * DEFLATE_RATIO:
                raise Refusal("TOO_LARGE", path.name, f"{info.file_size} bytes")
            with members.open(info) as member:
                _check_array(path, member, (2, 3) if only_map else (3,))
        with np.load(path, allow_pickle=False) as arrays:
            scans = arrays["rnflt" if only_map else "oct_bscans"]
            scans = scans[:, None] if only_map and scans.ndim == 2 else scans
    except Refusal:
        raise
    except KeyError:
        raise Refusal("NPZ_LAYOUT", path.name, "no oct_bscans") from None
    except ValueError as error:
        raise Refusal("NPZ_PICKLE" if "pickle" in str(error) else "NPZ_LAYOUT", path.name) from None
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
        raise Refusal("FILE_TRUNCATED", path.name, type(error).__name__) from None
    except Exception as error:  # locked, packed in an unknown way, or a shape beyond all memory
        raise Refusal("NPZ_LAYOUT", path.name, type(error).__name__) from None
    if scans.ndim != 3 or 0 in scans.shape or scans.dtype.kind not in "uif":
        raise Refusal("NPZ_LAYOUT", path.name, f"oct_bscans {scans.shape} {scans.dtype}")
    voxels = scans.transpose(2, 0, 1)[None]
    affine = np.diag([*(mm / n for mm, n in zip(OCT_FIELD_MM, voxels.shape[1:], strict=True)), 1.0])
    return Volume(np.ascontiguousarray(voxels), affine, "OPT", spacing_source="nominal", oriented=False)


def _check_array(path: Path, member: Any, dimensions: tuple[int, ...]) -> None:
    """Nothing; Refusal for an array of an NPZ that its header shows to be no scan, before it is loaded."""
    version = np.lib.format.read_magic(member)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise Refusal("NPZ_LAYOUT", path.name, f"format {version}")
    shape, _, dtype = read(member)
    if dtype.hasobject:
        raise Refusal("NPZ_PICKLE", path.name)
    if len(shape) not in dimensions:
        raise Refusal("NPZ_LAYOUT", path.name, f"oct_bscans {shape} {dtype}")


def picture(path: Path) -> Volume:
    """The grey picture of a PNG or JPEG, (1, columns, rows, 1); its millimetres are not known.

    Colour is refused unless all channels are equal.
    """
    from PIL import Image

    try:
        # Closed here: a decoder that meets a broken file leaves it open.
        with path.open("rb") as file, Image.open(file) as image:
            if math.prod(image.size) > MAXIMUM_VOXELS:
                raise Refusal("TOO_LARGE", path.name, f"{math.prod(image.size)} pixels")
            if image.mode in ("P", "PA"):  # its values are numbers of colours
                raise Refusal("COLOR_IMAGE", path.name, "palette")
            values = np.asarray(image)
    except Refusal:
        raise
    except Exception as error:
        raise Refusal("UNREADABLE", path.name, type(error).__name__) from None
    if image.mode == "RGBA" and values[..., 3].min() < 255:
        raise Refusal("COLOR_IMAGE", path.name, "transparent")
    if values.ndim == 3 and values.shape[2] in (3, 4) and (values[..., :3] == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 2:
        raise Refusal("COLOR_IMAGE", path.name, "x".join(map(str, values.shape)))
    return Volume(values.T[None, :, :, None], np.eye(4), "unknown", spacing_source="unknown", oriented=False)


READERS = {
    (".nii", ".nii.gz"): ("nifti", nifti),
    (".mha", ".nrrd"): ("itk", itk),
    (".npz",): ("npz", npz),
    (".png", ".jpg", ".jpeg"): ("image", picture),
    (".vol",): ("heidelberg", lambda path: heidelberg.vol(path).volume),
    (".xml",): ("heidelberg", lambda path: heidelberg.xml(path).volume),
}
"""File endings, the kind of source they are, and what reads them."""


def _header(kind: str, reader: Callable[[Path], Volume]) -> Callable[[Path, int], Header]:
    def read(path: Path, size: int) -> Header:
        volume = reader(path)
        return Header(
            path=path, size=size, kind=kind, modality=volume.modality, shape=volume.shape,
            affine=tuple(volume.affine.ravel().tolist()), spacing_source=volume.spacing_source,
            oriented=volume.oriented,
        )  # fmt: skip

    return read


def _scan_header(reader: Callable[[Path], heidelberg.Scan]) -> Callable[[Path, int], Header]:
    def read(path: Path, size: int) -> Header:
        scan = reader(path)
        header = _header("heidelberg", lambda _: scan.volume)(path, size)
        return replace(header, patient_id=scan.patient_id, laterality=scan.laterality, parts=scan.parts)

    return read


def _refuse(code: str) -> Callable[[Path, int], Header]:
    def read(path: Path, size: int) -> Header:
        raise Refusal(code, path.name)

    return read


HEADER_READERS = {
    **{endings: _header(kind, reader) for endings, (kind, reader) in READERS.items()},
    (".vol",): _scan_header(heidelberg.vol),
    (".xml",): _scan_header(heidelberg.xml),
    (".hdr", ".img", ".mhd", ".nhdr"): _refuse("PAIRED_HEADER"),
    (".e2e", ".sdb", ".fda", ".fds"): _refuse("OCT_VENDOR_FORMAT"),
}
"""File endings and what reads their header: the whole file is read, so that damage is found when it is indexed."""
