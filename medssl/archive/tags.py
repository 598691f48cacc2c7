"""The DICOM elements that are read, and tolerant conversion of what they hold. A value that is none becomes null."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NAN = float("nan")

TAGS = {
    "MediaStorageSOPClassUID": (0x00020002, "text"),
    "SpecificCharacterSet": (0x00080005, "text"), "ImageType": (0x00080008, "text"),
    "SOPClassUID": (0x00080016, "text"), "SOPInstanceUID": (0x00080018, "text"), "StudyDate": (0x00080020, "text"),
    "ContentTime": (0x00080033, "text"), "Modality": (0x00080060, "text"), "ConversionType": (0x00080064, "text"),
    "Manufacturer": (0x00080070, "text"), "InstitutionName": (0x00080080, "text"),
    "SeriesDescription": (0x0008103E, "text"), "ManufacturerModelName": (0x00081090, "text"),
    "ComplexImageComponent": (0x00089208, "text"),
    "PatientName": (0x00100010, "text"), "PatientID": (0x00100020, "text"), "IssuerOfPatientID": (0x00100021, "text"),
    "PatientBirthDate": (0x00100030, "text"), "PatientSex": (0x00100040, "text"),
    "QualityControlSubject": (0x00100200, "text"), "PatientAge": (0x00101010, "text"),
    "EthnicGroup": (0x00102160, "text"), "PatientSpeciesDescription": (0x00102201, "text"),
    "AnatomicalOrientationType": (0x00102210, "text"),
    "ContrastBolusAgent": (0x00180010, "text"), "BodyPartExamined": (0x00180015, "text"),
    "ScanningSequence": (0x00180020, "text"), "SequenceName": (0x00180024, "text"),
    "SliceThickness": (0x00180050, "decimal"), "KVP": (0x00180060, "decimal"),
    "RepetitionTime": (0x00180080, "decimal"), "EchoTime": (0x00180081, "decimal"),
    "EchoNumbers": (0x00180086, "decimal"), "MagneticFieldStrength": (0x00180087, "decimal"),
    "SpacingBetweenSlices": (0x00180088, "decimal"), "TriggerTime": (0x00181060, "text"),
    "EstimatedRadiographicMagnificationFactor": (0x00181114, "decimal"), "GantryDetectorTilt": (0x00181120, "decimal"),
    "ImagerPixelSpacing": (0x00181164, "decimal"), "ConvolutionKernel": (0x00181210, "text"),
    "ViewPosition": (0x00185101, "text"), "DiffusionDirectionality": (0x00189075, "text"),
    "DiffusionBValue": (0x00189087, "double"), "DiffusionGradientOrientation": (0x00189089, "double"),
    "SiemensHeader": (0x00190010, "text"), "SiemensBValue": (0x0019100C, "decimal"),
    "StudyInstanceUID": (0x0020000D, "text"), "SeriesInstanceUID": (0x0020000E, "text"),
    "AcquisitionNumber": (0x00200012, "text"), "InstanceNumber": (0x00200013, "decimal"),
    "ImagePositionPatient": (0x00200032, "decimal"), "ImageOrientationPatient": (0x00200037, "decimal"),
    "FrameOfReferenceUID": (0x00200052, "text"), "Laterality": (0x00200060, "text"),
    "ImageLaterality": (0x00200062, "text"), "TemporalPositionIdentifier": (0x00200100, "text"),
    "ConcatenationUID": (0x00209161, "text"), "InConcatenationTotalNumber": (0x00209163, "short"),
    "ConcatenationFrameOffsetNumber": (0x00209228, "long"),
    "SamplesPerPixel": (0x00280002, "short"), "PhotometricInterpretation": (0x00280004, "text"),
    "NumberOfFrames": (0x00280008, "decimal"), "Rows": (0x00280010, "short"), "Columns": (0x00280011, "short"),
    "PixelSpacing": (0x00280030, "decimal"), "BitsAllocated": (0x00280100, "short"), "BitsStored": (0x00280101, "short"),
    "PixelRepresentation": (0x00280103, "short"), "BurnedInAnnotation": (0x00280301, "text"),
    "RescaleIntercept": (0x00281052, "decimal"), "RescaleSlope": (0x00281053, "decimal"),
    "RescaleType": (0x00281054, "text"), "LossyImageCompression": (0x00282110, "text"),
    "GEHeader": (0x00430010, "text"), "GEBValue": (0x00431039, "decimal"),
    "UIHHeader": (0x00650010, "text"), "UIHBValue": (0x00651009, "double"),
    "PhilipsHeader": (0x20010010, "text"), "PhilipsBValue": (0x20011003, "float"),
}  # fmt: skip
"""Name -> tag and how its bytes are understood, whatever representation (VR) the file claims. The names are DICOM's
keywords, except for private elements: of a vendor's header and of the diffusion weighting in it.
"""

SHARED_GROUPS, GROUPS_OF_EACH = 0x52009229, 0x52009230
"""The sequences that hold the functional groups of all frames of a file, and of each."""

GROUP_TAGS = {
    "ReferencedSOPInstanceUID": (0x00081155, "text"), "FrameType": (0x00089007, "text"),
    "EffectiveEchoTime": (0x00189082, "double"), "FrameReferenceDateTime": (0x00189151, "text"),
    "StackID": (0x00209056, "text"), "FrameLaterality": (0x00209072, "text"),
    "TemporalPositionIndex": (0x00209128, "long"), "NominalCardiacTriggerDelayTime": (0x00209153, "double"),
    "FrameAcquisitionNumber": (0x00209156, "short"), "TemporalPositionTimeOffset": (0x0020930D, "double"),
    "ReferenceCoordinates": (0x00220032, "float"), "OphthalmicImageOrientation": (0x00220039, "text"),
}  # fmt: skip
"""Elements that only functional groups have, as in TAGS."""

CONVERTED = (0x00209170, 0x00209171)
"""Sequences with what no functional group has a place for, from the single slices that a file was converted from."""

MACROS = frozenset({
    0x00189076, 0x00189112, 0x00189114, 0x00189117, 0x00189118, 0x00189226, 0x00189314, 0x00189325, 0x00189329,
    0x00209071, 0x00209111, 0x00209113, 0x00209116, 0x00209310, 0x00220031, 0x00289110, 0x00289145, *CONVERTED,
})  # fmt: skip
"""Sequences in functional groups that are looked into (PS3.3 C.7.6.16, C.8.13.5, C.8.15.3, C.8.17.10): of diffusion, MR
timing, echo, cardiac phase and frame type; of CT reconstruction, X-rays and frame type; of anatomy, content, position,
orientation, time, place on a picture of the eye, pixel size and rescaling.
"""

OF_FRAMES = frozenset({
    "ComplexImageComponent", "ContrastBolusAgent", "SequenceName", "KVP", "RepetitionTime", "EchoTime",
    "TriggerTime", "ConvolutionKernel", "DiffusionBValue", "DiffusionGradientOrientation", "SiemensHeader",
    "SiemensBValue", "AcquisitionNumber", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "TemporalPositionIdentifier", "RescaleType", "GEHeader", "GEBValue", "UIHHeader", "UIHBValue", "PhilipsHeader",
    "PhilipsBValue", *GROUP_TAGS,
})  # fmt: skip
"""What may be said of a frame; the rest is of the file."""

NUMBERS = {
    "short": struct.Struct("<H"), "long": struct.Struct("<I"), "float": struct.Struct("<f"), "double": struct.Struct("<d"),
}  # fmt: skip
"""Binary representations of one value."""

CODECS = {
    "ISO_IR 100": "latin-1", "ISO_IR 101": "iso8859-2", "ISO_IR 109": "iso8859-3", "ISO_IR 110": "iso8859-4",
    "ISO_IR 144": "iso8859-5", "ISO_IR 127": "iso8859-6", "ISO_IR 126": "iso8859-7", "ISO_IR 138": "iso8859-8",
    "ISO_IR 148": "iso8859-9", "ISO_IR 203": "iso8859-15", "ISO_IR 13": "shift_jis", "ISO_IR 166": "tis-620",
    "ISO_IR 192": "utf-8", "GB18030": "gb18030", "GBK": "gbk", "ISO_IR 87": "iso2022_jp", "ISO_IR 159": "iso2022_jp_2",
    "ISO_IR 149": "euc_kr", "ISO_IR 58": "gb2312",
}  # fmt: skip
"""Specific Character Set (PS3.3 C.12.1.1.2; "ISO 2022 IR n" is written as "ISO_IR n") and Python's name for it."""


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """The pixel element: the `length` it claims (-1 when the pixels are encapsulated), how many bytes of it are `left`
    in the file, and whether all fragments are `whole`.
    """

    length: int
    left: int
    whole: bool = True


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The elements of TAGS that a file holds, by name, as little-endian bytes, as whichever parser found them.

    `frames` holds what the functional groups say of each frame, in stored order; what they say of all is in `raw`.
    `parse_path` is "fast" or "pydicom"; `preamble` is the 128 bytes before the magic word, if there are any.
    """

    raw: Mapping[str, bytes]
    syntax: str
    pixels: Pixels | None
    parse_path: str
    preamble: bytes = b""
    frames: tuple[Mapping[str, bytes], ...] = ()


def converted(raw: Mapping[str, bytes]) -> tuple[dict[str, Any], list[str]]:
    """Text and tuples of numbers (nan for those that are none) of the elements that hold something, and the names of
    those that should hold numbers and do not. Characters are those of SpecificCharacterSet.
    """
    values: dict[str, Any] = {}
    invalid = []
    switching = b"2022" in raw.get("SpecificCharacterSet", b"")  # escape sequences are ASCII too
    for name, value in raw.items():
        kind = KINDS[name]
        if kind == "text":
            try:
                told = value.decode(_codec(raw) if switching else "ascii")
            except (UnicodeDecodeError, LookupError):
                # Bytes that the character set does not know stay visible: two names must not become the same one.
                told = value.decode(_codec(raw), "backslashreplace")
            if told := told.strip(" \0"):
                values[name] = told
        elif value:
            found = _decimals(value) if kind == "decimal" else _binary(value, NUMBERS[kind])
            if not math.isfinite(sum(found)):
                found = tuple(map(to_float, found))
                invalid.append(name)
            if found:
                values[name] = found
    return values, invalid


KINDS = {name: kind for name, (_, kind) in {**TAGS, **GROUP_TAGS}.items()}


def _codec(raw: Mapping[str, bytes]) -> str:
    """The last character set of those that the file names, with which it writes what is not ASCII."""
    told = raw.get("SpecificCharacterSet", b"").decode("ascii", "replace").upper().strip(" \0")
    names = [CODECS.get(name.strip().replace("ISO 2022 IR", "ISO_IR"), "") for name in told.split("\\")]
    return next(filter(None, reversed(names)), "latin-1")


def _decimals(value: bytes) -> tuple[float, ...]:
    try:
        return tuple(map(float, value.split(b"\\")))
    except ValueError:
        return tuple(map(to_float, value.split(b"\\"))) if value.strip(b" \0") else ()


def _binary(value: bytes, one: struct.Struct) -> tuple[float, ...]:
    if len(value) == one.size:
        return one.unpack(value)
    return (NAN,) if len(value) % one.size else tuple(found for (found,) in one.iter_unpack(value))


def text(data: Any, name: str) -> str:
    """A tag as trimmed text, "" when it is absent."""
    value = data.get(name) if data is not None else None
    return "" if value is None else str(value).strip(" \0")


def number(data: Any, name: str, otherwise: float) -> float:
    """A tag as a number, `otherwise` when it is absent or is none."""
    value = data.get(name) if data is not None else None
    if value is None:
        return otherwise
    found = to_float(value[0] if isinstance(value, Sequence) and not isinstance(value, str) and value else value)
    return found if math.isfinite(found) else otherwise


def numbers(data: Any, name: str, count: int) -> tuple[float, ...] | None:
    """A tag as `count` finite numbers, None when it is anything else."""
    value = data.get(name) if data is not None else None
    if value is None or isinstance(value, str) or not hasattr(value, "__len__") or len(value) != count:
        return None
    found = tuple(map(to_float, value))
    return found if all(map(math.isfinite, found)) else None


def words(data: Any, name: str) -> tuple[str, ...]:
    """The values of a tag of several words, in capitals."""
    return tuple([part.strip(" \0") for part in text(data, name).upper().split("\\")]) if name in data else ()


def to_float(value: Any) -> float:
    """A number from what a header holds (decimal commas, blanks and NULs are tolerated); nan for anything else."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        try:
            told = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
            found = float(told.strip(" \0").replace(",", "."))
        except ValueError:
            return NAN
    except OverflowError:
        return NAN
    return found if math.isfinite(found) else NAN
