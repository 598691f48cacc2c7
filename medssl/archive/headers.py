"""What the headers of files say, read without their pixels."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medssl.archive import scanners
from medssl.archive.reasons import Refusal
from medssl.archive.slices import of_frames
from medssl.archive.sop_classes import FOR_PROCESSING, PICTURE_SOPS, VOLUME_SOPS, route
from medssl.archive.subject import age_of, sex_of
from medssl.archive.tags import NAN, Facts, converted, number, numbers, text, to_float
from medssl.archive.walker import FIRST_BYTES, walk

__all__ = [
    "PICTURE_SOPS",
    "VOLUME_SOPS",
    "Header",
    "number",
    "numbers",
    "read_header",
    "text",
    "to_float",
]

MAXIMUM_VOXELS = 1_500_000_000
"""Largest picture that a header may claim; more is a mistake or an attack."""

IN_COLOUR = ("OP",)
"""Modalities of which colour is read."""

LONGEST_AXIS, MOST_FRAMES = 16_384, 20_000
"""Largest picture, along one axis and in frames, that a header may claim."""

MOST_PACKED = 1100
"""How many bytes of picture a byte of file may stand for; no codec packs a real picture as tightly."""

NATIVE = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"}
"""Transfer syntaxes whose pixel bytes are stored as they are."""

SYSTEM_FILES = {"thumbs.db", "desktop.ini", ".ds_store", "version", "lockfile", "autorun.inf"}
"""Names, in small letters, of what operating systems and export programs leave beside images."""

CONTENTS = {
    b"PK\x03\x04": "PACKED_ARCHIVE", b"\x1f\x8b": "PACKED_ARCHIVE", b"7z\xbc\xaf'\x1c": "PACKED_ARCHIVE",
    b"Rar!": "PACKED_ARCHIVE", b"BZh": "PACKED_ARCHIVE", b"\xfd7zXZ": "PACKED_ARCHIVE", b"%PDF": "DOCUMENT",
}  # fmt: skip
"""How files begin that are not medical images themselves, and what they are."""

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How the preamble of a file begins that is a TIFF picture as well, which DICOM allows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What a file says of itself. Text is "" and numbers are nan where it says nothing.

    `position`, `orientation` and `pixel_spacing` are DICOM's (LPS mm, row then column). What differs between the frames
    of a multi-frame file is in `varying`, as the name of a field and its value for each frame in stored order, and the
    field itself is empty; a header that stands for some of the frames names them, from 0, in `frames`. `location` is
    where an OCT frame's first and last column are on a picture of the eye, the `localizer` (row, column, row, column in
    its pixels). Files that are not DICOM have no identifiers and carry their whole geometry in `shape` and `affine` (16
    numbers, RAS+). `sex`, `manufacturer`, `model`, `kernel`, `body_part`, `laterality` and `view_position` hold words of
    closed lists only; `patient_id`, `institution`, `description`, `race`, `contrast`, `study_date`, `content_time` and the
    uids are the file's own and must not be written anywhere. `lossy` is what the file says of its compression, `intent`
    is "presentation" or "processing" for radiographs, `parts` names further files in the same folder that the image is
    in, `concatenation` (its uid), `first_frame` and `n_parts` (0: not told) say which part a file is of an image in
    several, `flags` are codes of what was odd and tolerated (TAG_INVALID with the keyword), and `parse_path` is "fast" or
    "pydicom", whichever parser read it.
    """

    path: Path
    size: int
    kind: str
    modality: str = "unknown"
    patient_id: str = ""
    study_uid: str = ""
    series_uid: str = ""
    sop_uid: str = ""
    sop_class_uid: str = ""
    transfer_syntax: str = ""
    sex: str = ""
    race: str = ""
    age_years: float = NAN
    manufacturer: str = ""
    model: str = ""
    institution: str = ""
    body_part: str = ""
    laterality: str = ""
    view_position: str = ""
    n_frames: int = 1
    rows: int = 0
    columns: int = 0
    image_type: tuple[str, ...] = ()
    frame_of_reference: str = ""
    position: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = None
    pixel_spacing: tuple[float, ...] | None = None
    varying: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    frames: tuple[int, ...] = ()
    concatenation: str = ""
    first_frame: int = 0
    n_parts: int = 0
    location: tuple[float, ...] | None = None
    localizer: str = ""
    instance_number: int | None = None
    echo_time: float = NAN
    repetition_time: float = NAN
    b_value: float = NAN
    gradient: tuple[float, ...] | None = None
    stack: str = ""
    temporal: str = ""
    trigger: str = ""
    acquisition: str = ""
    content_time: str = ""
    component: str = ""
    kvp: float = NAN
    contrast: str = ""
    study_date: str = ""
    kernel: str = ""
    description: str = ""
    rescale_type: str = ""
    shape: tuple[int, ...] = ()
    affine: tuple[float, ...] = ()
    spacing_source: str = "header"
    oriented: bool = True
    age_source: str = ""
    lossy: bool = False
    intent: str = ""
    colour: bool = False
    flags: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    parse_path: str = field(default="", compare=False)


def read_header(path: Path) -> Header:
    """What a file says of itself. Raises Refusal with a reason code for whatever is not a usable image."""
    from medssl.archive import files

    name = path.name.lower()
    size = path.stat().st_size
    if size == 0:
        raise Refusal("EMPTY_FILE", path.name)
    for endings, reader in files.HEADER_READERS.items():
        if name.endswith(endings):
            return reader(path, size)
    if name in SYSTEM_FILES or name.startswith("._"):
        raise Refusal("SYSTEM_FILE", path.name)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        start = os.pread(descriptor, FIRST_BYTES, 0)
        if not _looks_like_dicom(start):
            raise Refusal(_other_content(start), path.name)
        return _header(path, size, walk(descriptor, size, start) or _parsed(path, size))
    except RecursionError:
        raise Refusal("NESTED_TOO_DEEP", path.name) from None
    finally:
        os.close(descriptor)


def _looks_like_dicom(start: bytes) -> bool:
    """Part 10 with its preamble, or a bare data set that starts with group 2 or 8."""
    if start[128:132] == b"DICM":
        return True
    group = int.from_bytes(start[:2], "little") if len(start) > 8 else 0
    return group in (2, 8) and ((start[4:6].isalpha() and start[4:6].isupper()) or start[6:8] == b"\0\0")


def _other_content(start: bytes) -> str:
    for magic, code in CONTENTS.items():
        if start.startswith(magic):
            return code
    return "PACKED_ARCHIVE" if start[257:262] == b"ustar" else "NOT_AN_ARCHIVE_FILE"


def _parsed(path: Path, size: int) -> Facts:
    from medssl.archive.parsed import parse

    try:
        return parse(path, size)
    except (Refusal, RecursionError, MemoryError):
        raise
    except Exception as error:  # a broken file breaks a parser in any way; the text of the error may name a patient
        if isinstance(error, OSError) and error.errno:  # not the file but its disk
            raise
        raise Refusal("UNREADABLE", path.name, type(error).__name__) from None


def _header(path: Path, size: int, facts: Facts) -> Header:
    told, invalid = converted(facts.raw)
    modality = route(path.name, told)
    sop = text(told, "SOPClassUID") or text(told, "MediaStorageSOPClassUID")
    rows, columns = int(number(told, "Rows", 0)), int(number(told, "Columns", 0))
    n_frames = int(number(told, "NumberOfFrames", 1)) or 1
    _check_pixels(path, facts, (rows, columns, n_frames), number(told, "BitsAllocated", 8))
    slices, varying = of_frames(facts, told, invalid, n_frames)
    age_years, age_source = age_of(told)
    instance = number(told, "InstanceNumber", NAN)
    picture = sop in PICTURE_SOPS
    return Header(
        path=path, size=size, kind="dicom", modality=modality, sop_class_uid=sop, transfer_syntax=facts.syntax,
        patient_id=text(told, "PatientID"), study_uid=text(told, "StudyInstanceUID"),
        series_uid=text(told, "SeriesInstanceUID"), sop_uid=text(told, "SOPInstanceUID"),
        sex=sex_of(told), race=text(told, "EthnicGroup"), age_years=age_years, age_source=age_source,
        manufacturer=scanners.vendor(text(told, "Manufacturer")),
        model=scanners.model(text(told, "ManufacturerModelName")),
        institution=text(told, "InstitutionName"),
        body_part=scanners.listed(text(told, "BodyPartExamined"), scanners.BODY_PARTS),
        view_position=scanners.listed(text(told, "ViewPosition"), scanners.VIEWS),
        n_frames=n_frames, rows=rows, columns=columns,
        frame_of_reference=text(told, "FrameOfReferenceUID"), varying=varying,
        concatenation=text(told, "ConcatenationUID"), first_frame=int(number(told, "ConcatenationFrameOffsetNumber", 0)),
        n_parts=int(number(told, "InConcatenationTotalNumber", 0)),
        instance_number=int(instance) if math.isfinite(instance) else None,
        study_date=text(told, "StudyDate"), description=text(told, "SeriesDescription"),
        oriented=modality in ("CT", "MR"),
        intent=("processing" if sop in FOR_PROCESSING else "presentation") if picture else "",
        lossy=text(told, "LossyImageCompression") == "01",
        flags=_flags(facts, invalid), parse_path=facts.parse_path, **slices,
    )  # fmt: skip


def _flags(facts: Facts, invalid: list[str]) -> tuple[str, ...]:
    """Codes of what was odd in a file that is read all the same."""
    odd = sorted(":".join(("TAG_INVALID", name)) for name in invalid)
    if facts.preamble.strip(b"\0") and not facts.preamble.startswith(TIFF):
        odd.insert(0, "PREAMBLE_NONZERO")
    return tuple(odd)


def _check_pixels(path: Path, facts: Facts, shape: tuple[int, int, int], bits: float) -> None:
    """Nothing; Refusal where the file cannot hold the picture that its header claims."""
    voxels, pixels = math.prod(shape), facts.pixels
    expected = math.ceil(voxels * bits / 8)
    if max(shape[:2]) > LONGEST_AXIS or shape[2] > MOST_FRAMES or max(voxels, expected // 8) > MAXIMUM_VOXELS:
        raise Refusal("TOO_LARGE", path.name, f"{voxels} voxels")
    if pixels is None:
        raise Refusal("NO_PIXELS", path.name)
    if facts.syntax in NATIVE:
        have = min(pixels.left, pixels.length) if pixels.length >= 0 else pixels.left
        if have < expected or pixels.left + 1 < pixels.length:  # one byte of padding may be missing
            raise Refusal("PIXELDATA_TRUNCATED", path.name, f"{have} bytes, {expected} needed")
    elif not pixels.whole or pixels.left < pixels.length:
        raise Refusal("PIXELDATA_TRUNCATED", path.name, f"{pixels.left} bytes")
    elif expected > pixels.left * MOST_PACKED:
        raise Refusal("TOO_LARGE", path.name, f"{voxels} voxels in {pixels.left} bytes")
