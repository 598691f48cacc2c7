"""Finding files and reading what their headers say, without their pixels."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.archive.reasons import Refusal
from medssl.errors import UserError

NAN = float("nan")

MAXIMUM_VOXELS = 1_500_000_000
"""Largest picture that a header may claim; more is a mistake or an attack."""

SAME_COSINES = 1e-3
"""Distance of direction cosines below which two frames of a file have one orientation."""

VOLUME_SOPS = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.77.1.5.4": "OPT",
}
"""SOP classes read as volumes, and the modality each stands for."""

PICTURE_SOPS = {
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "DX",
}
"""SOP classes read as radiographs."""

SECONDARY_SOP = "1.2.840.10008.5.1.4.1.1.7"
DERIVED = {"SECONDARY", "SCREEN SAVE", "LOCALIZER", "PROJECTION IMAGE", "MPR", "CPR", "REPORT", "CSA REPORT"}
"""Words of ImageType that mean: not an acquisition. Secondary on its own is common for ADC maps and stays in for MR."""

NATIVE = {"1.2.840.10008.1.2": 8, "1.2.840.10008.1.2.1": 12, "1.2.840.10008.1.2.2": 12}
"""Transfer syntaxes whose pixel bytes are stored as they are, and how many bytes of tag and length precede them."""

TAGS = [
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "Manufacturer", "PatientID",
    "ManufacturerModelName", "InstitutionName", "PatientSex", "PatientAge", "PatientBirthDate", "StudyDate",
    "EthnicGroup", "BodyPartExamined", "Laterality", "ImageLaterality", "ViewPosition", "StudyInstanceUID",
    "SeriesInstanceUID", "FrameOfReferenceUID", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "ImagerPixelSpacing", "EstimatedRadiographicMagnificationFactor", "Rows", "Columns",
    "SamplesPerPixel", "BitsAllocated", "NumberOfFrames", "PhotometricInterpretation", "BurnedInAnnotation",
    "EchoTime", "RepetitionTime", "EchoNumbers", "DiffusionBValue", "SequenceName", "ScanningSequence",
    "SeriesDescription", "TemporalPositionIdentifier", "TriggerTime", "AcquisitionNumber", "ConvolutionKernel",
    "RescaleType", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of itself. Text is "" and numbers are nan where it says nothing.

    `position`, `orientation` and `pixel_spacing` are DICOM's (LPS mm, row then column); a multi-frame file has one
    entry of `frames` for each of its frames (position) in stored order. Files that are not DICOM have no identifiers
    and carry their whole geometry in `shape` and `affine` (16 numbers, RAS+).
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
    frames: tuple[tuple[float, ...], ...] = ()
    instance_number: int | None = None
    echo_time: float = NAN
    repetition_time: float = NAN
    b_value: float = NAN
    temporal: str = ""
    acquisition: str = ""
    kernel: str = ""
    description: str = ""
    rescale_type: str = ""
    shape: tuple[int, ...] = ()
    affine: tuple[float, ...] = ()
    spacing_source: str = "header"
    oriented: bool = True


def find_files(root: Path | str, pattern: str = "") -> list[Path]:
    """Every file below `root` (or those that match a glob), sorted. Links are not followed. Raises UserError."""
    root = Path(root)
    if not root.exists():
        raise UserError(f"{root}: no such folder; give the folder that holds the images")
    if not root.is_dir():
        raise UserError(f"{root}: is a file; give the folder that holds the images")
    found = root.glob(pattern) if pattern else root.rglob("*")
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


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
    if _looks_like_dicom(path):
        return _dicom_header(path, size)
    raise Refusal("NOT_AN_ARCHIVE_FILE", path.name)


def _looks_like_dicom(path: Path) -> bool:
    """Part 10 with its preamble, or a bare data set that starts with group 2 or 8."""
    with path.open("rb") as file:
        start = file.read(132)
    if start[128:132] == b"DICM":
        return True
    group = int.from_bytes(start[:2], "little") if len(start) > 8 else 0
    return group in (2, 8) and ((start[4:6].isalpha() and start[4:6].isupper()) or start[6:8] == b"\0\0")


def _dicom_header(path: Path, size: int) -> Header:
    import pydicom

    try:
        with pydicom.config.disable_value_validation(), path.open("rb") as file:
            data = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=[*TAGS, *PRIVATE_TAGS])
            return _from_dataset(path, size, data, size - file.tell())
    except Refusal:
        raise
    except Exception as error:  # a broken file breaks a parser in any way; the text of the error may name a patient
        raise Refusal("UNREADABLE", path.name, type(error).__name__) from None


def _from_dataset(path: Path, size: int, data: Any, left: int) -> Header:
    sop = text(data, "SOPClassUID")
    modality = route(path, data, sop)
    syntax = str(getattr(getattr(data, "file_meta", None), "TransferSyntaxUID", "") or "")
    rows, columns = (int(number(data, tag, 0)) for tag in ("Rows", "Columns"))
    n_frames = int(number(data, "NumberOfFrames", 1)) or 1
    _check_size(path, left, data, syntax, rows * columns * n_frames)
    frame = frame_geometry(data)
    return Header(
        path=path, size=size, kind="dicom", modality=modality, sop_class_uid=sop, transfer_syntax=syntax,
        patient_id=text(data, "PatientID"), study_uid=text(data, "StudyInstanceUID"),
        series_uid=text(data, "SeriesInstanceUID"), sop_uid=text(data, "SOPInstanceUID"),
        sex=text(data, "PatientSex"), race=text(data, "EthnicGroup"), age_years=age_of(data),
        manufacturer=text(data, "Manufacturer"), model=text(data, "ManufacturerModelName"),
        institution=text(data, "InstitutionName"), body_part=text(data, "BodyPartExamined"),
        laterality=frame["laterality"] or text(data, "ImageLaterality") or text(data, "Laterality"),
        view_position=text(data, "ViewPosition"), n_frames=n_frames, rows=rows, columns=columns,
        image_type=tuple(str(part).upper() for part in _many(data, "ImageType")),
        frame_of_reference=text(data, "FrameOfReferenceUID"),
        position=numbers(data, "ImagePositionPatient", 3), orientation=frame["orientation"],
        pixel_spacing=frame["spacing"], frames=frame["positions"],
        instance_number=int(n) if math.isfinite(n := number(data, "InstanceNumber", NAN)) else None,
        echo_time=number(data, "EchoTime", NAN), repetition_time=number(data, "RepetitionTime", NAN),
        b_value=b_value(data), temporal=text(data, "TemporalPositionIdentifier") or text(data, "TriggerTime"),
        acquisition=text(data, "AcquisitionNumber"), kernel=text(data, "ConvolutionKernel"),
        description=text(data, "SeriesDescription"), rescale_type=text(data, "RescaleType"),
        spacing_source=frame["source"], oriented=modality in ("CT", "MR"),
    )  # fmt: skip


def route(path: Path, data: Any, sop: str) -> str:
    """The modality of an image that is read; Refusal for every other object."""
    kinds = {str(part).upper() for part in _many(data, "ImageType")}
    if sop == SECONDARY_SOP or sop.startswith(SECONDARY_SOP + "."):
        raise Refusal("DERIVED_OR_SC", path.name)
    modality = VOLUME_SOPS.get(sop) or PICTURE_SOPS.get(sop)
    if modality is None:
        image = "Rows" in data and sop.startswith("1.2.840.10008.5.1.4.1.1.")
        raise Refusal("UNSUPPORTED_SOP" if image else "NON_IMAGE_SOP", path.name, sop)
    if "MOSAIC" in kinds:
        raise Refusal("MOSAIC_UNSUPPORTED", path.name)
    derived = kinds & (DERIVED - ({"SECONDARY"} if modality == "MR" else set()))
    if derived:
        raise Refusal("DERIVED_OR_SC", path.name, sorted(derived)[0])
    if text(data, "BurnedInAnnotation").upper() == "YES":
        raise Refusal("BURNED_IN", path.name)
    if not number(data, "Rows", 0) or not number(data, "Columns", 0):
        raise Refusal("NO_PIXELS", path.name)
    if number(data, "SamplesPerPixel", 1) != 1:
        raise Refusal("COLOR_IMAGE", path.name)
    return modality


def _check_size(path: Path, left: int, data: Any, syntax: str, voxels: int) -> None:
    """Nothing; Refusal where the `left` bytes from the pixels' tag on are too few for the picture."""
    if voxels > MAXIMUM_VOXELS:
        raise Refusal("TOO_LARGE", path.name, f"{voxels} voxels")
    expected = voxels * math.ceil(number(data, "BitsAllocated", 8) / 8)
    if syntax in NATIVE and left < expected + NATIVE[syntax]:
        raise Refusal("PIXELDATA_TRUNCATED", path.name, f"{left} bytes, {expected} needed")


def frame_geometry(data: Any) -> dict[str, Any]:
    """Pixel spacing, orientation, frame positions and laterality, from the data set or its functional groups."""
    spacing, source = numbers(data, "PixelSpacing", 2), "header"
    imager = numbers(data, "ImagerPixelSpacing", 2)
    if spacing is None and imager is not None:
        factor = number(data, "EstimatedRadiographicMagnificationFactor", 1.0) or 1.0
        spacing = tuple(mm / factor for mm in imager)
    orientation, laterality = numbers(data, "ImageOrientationPatient", 6), ""
    turned, positions = False, []
    shared = list(_many(data, "SharedFunctionalGroupsSequence"))
    each = list(_many(data, "PerFrameFunctionalGroupsSequence"))
    for group in [*shared, *each]:
        spacing = spacing or numbers(_item(group, "PixelMeasuresSequence"), "PixelSpacing", 2)
        found = numbers(_item(group, "PlaneOrientationSequence"), "ImageOrientationPatient", 6)
        turned = turned or bool(orientation and found and math.dist(orientation, found) > SAME_COSINES)
        orientation = orientation or found
        laterality = laterality or text(_item(group, "FrameAnatomySequence"), "FrameLaterality")
    for group in each:
        place = numbers(_item(group, "PlanePositionSequence"), "ImagePositionPatient", 3)
        if place is not None:
            positions.append(place)
    if spacing is None:
        source = "unknown"
    if turned:  # crossed or radial frames have no orientation in common
        orientation = None
    return {
        "spacing": spacing, "orientation": orientation, "laterality": laterality, "positions": tuple(positions),
        "source": source,
    }  # fmt: skip


PRIVATE_TAGS = [0x00190010, 0x0019100C, 0x00430010, 0x00431039]


def b_value(data: Any) -> float:
    """Diffusion weighting in s/mm2 from the standard tag, vendors' private ones or the sequence name; nan if none."""
    standard = number(data, "DiffusionBValue", NAN)
    if math.isfinite(standard):
        return standard
    if "SIEMENS" in str(data.get(0x00190010, "")) and 0x0019100C in data:
        return to_float(data[0x0019100C].value)
    if "GEMS" in str(data.get(0x00430010, "")) and 0x00431039 in data:
        first = data[0x00431039].value
        return to_float(first[0] if isinstance(first, Sequence) and not isinstance(first, str) else first) % 100_000
    named = re.search(r"ep_b(\d+)", text(data, "SequenceName"))
    return float(named.group(1)) if named else NAN


def age_of(data: Any) -> float:
    """Age in years at the study, from PatientAge or else from the dates; nan when neither is believable."""
    told = re.fullmatch(r"\s*(\d{1,3})\s*([DWMY]?)\s*", text(data, "PatientAge").upper())
    if told:
        years = int(told.group(1)) / {"D": 365.25, "W": 52.18, "M": 12.0}.get(told.group(2), 1.0)
        return years if 0 < years <= 120 else NAN
    born, studied = text(data, "PatientBirthDate"), text(data, "StudyDate")
    if re.fullmatch(r"\d{8}", born) and re.fullmatch(r"\d{8}", studied):
        years = int(studied[:4]) - int(born[:4]) - (studied[4:] < born[4:])
        return float(years) if 0 < years <= 120 else NAN
    return NAN


def text(data: Any, keyword: str) -> str:
    """A tag as trimmed text, "" when it is absent."""
    value = data.get(keyword) if data is not None else None
    return "" if value is None else str(value).strip(" \0")


def number(data: Any, keyword: str, otherwise: float) -> float:
    """A tag as a number, `otherwise` when it is absent or is none."""
    value = data.get(keyword) if data is not None else None
    found = to_float(value[0] if isinstance(value, Sequence) and not isinstance(value, str) and value else value)
    return found if math.isfinite(found) else otherwise


def numbers(data: Any, keyword: str, count: int) -> tuple[float, ...] | None:
    """A tag as `count` finite numbers, None when it is anything else."""
    value = data.get(keyword) if data is not None else None
    if value is None or isinstance(value, str) or len(value) != count:
        return None
    found = tuple(to_float(item) for item in value)
    return found if all(map(math.isfinite, found)) else None


def to_float(value: Any) -> float:
    """A number from what a header holds (a decimal comma is tolerated); nan for anything else."""
    try:
        return float(value.decode() if isinstance(value, bytes) else str(value).replace(",", "."))
    except (TypeError, ValueError):
        return NAN


def _many(data: Any, keyword: str) -> Iterator[Any]:
    value = data.get(keyword)
    if value is None or value == "":
        return
    yield from ([value] if isinstance(value, str) else value)


def _item(data: Any, keyword: str) -> Any:
    value = data.get(keyword)
    return value[0] if value else None
