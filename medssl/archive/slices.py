"""What is said of a single slice: by the file that holds it or, for one of many frames, by its functional groups."""

from __future__ import annotations

import math
import re
from typing import Any

from medssl.archive import scanners
from medssl.archive.tags import GROUP_TAGS, NAN, Facts, converted, number, numbers, text, words


def of_frames(
    facts: Facts, told: dict[str, Any], invalid: list[str], n_frames: int
) -> tuple[dict[str, Any], tuple[tuple[str, tuple[Any, ...]], ...]]:
    """The fields that all frames have in common, and those that differ, with the value of each frame.

    Frames that are not described one by one have only what the file says of all; names of odd elements join `invalid`.
    """
    if len(facts.frames) != n_frames:
        return of_slice(told), ()
    frames = []
    for raw in facts.frames:
        own, odd = converted(raw)
        invalid += [name for name in odd if name not in invalid]
        frames.append(of_slice(told | own))
    columns = {name: tuple([frame[name] for frame in frames]) for name in frames[0]}
    common = {name: values[0] for name, values in columns.items() if len(set(values)) == 1}
    return common, tuple((name, values) for name, values in columns.items() if name not in common)


def of_slice(told: dict[str, Any]) -> dict[str, Any]:
    """The fields of a header that may differ between the frames of a file; `told` is of one slice or frame."""
    spacing = _size(told, "PixelSpacing")
    if spacing is None and (imager := _size(told, "ImagerPixelSpacing")):
        factor = number(told, "EstimatedRadiographicMagnificationFactor", 1.0)
        spacing = tuple(mm / (factor if factor > 0 else 1.0) for mm in imager)
    found = {
        "position": numbers(told, "ImagePositionPatient", 3), "orientation": numbers(told, "ImageOrientationPatient", 6),
        "pixel_spacing": spacing, "spacing_source": "header" if spacing else "unknown",
        "location": None, "localizer": "", "stack": "",
        "laterality": scanners.listed(text(told, "ImageLaterality") or text(told, "Laterality"), scanners.SIDES),
        "image_type": words(told, "ImageType"), "echo_time": number(told, "EchoTime", NAN),
        "repetition_time": number(told, "RepetitionTime", NAN),
        "b_value": b_value(told), "gradient": numbers(told, "DiffusionGradientOrientation", 3),
        "temporal": text(told, "TemporalPositionIdentifier"), "trigger": text(told, "TriggerTime"),
        "acquisition": text(told, "AcquisitionNumber"), "content_time": text(told, "ContentTime"),
        "component": text(told, "ComplexImageComponent"), "kvp": number(told, "KVP", NAN),
        "contrast": text(told, "ContrastBolusAgent"), "kernel": scanners.kernel(text(told, "ConvolutionKernel")),
        "rescale_type": text(told, "RescaleType"),
    }  # fmt: skip
    return found if GROUP_TAGS.keys().isdisjoint(told) else found | _of_groups(told)


def _of_groups(told: dict[str, Any]) -> dict[str, Any]:
    """The fields that functional groups have elements of their own for, where they say anything."""
    straight = text(told, "OphthalmicImageOrientation") in ("", "LINEAR")
    found = {
        "location": numbers(told, "ReferenceCoordinates", 4) if straight else None,
        "localizer": text(told, "ReferencedSOPInstanceUID"), "stack": text(told, "StackID"),
        "laterality": scanners.listed(text(told, "FrameLaterality"), scanners.SIDES),
        "image_type": words(told, "FrameType"), "echo_time": number(told, "EffectiveEchoTime", 0.0),
        "temporal": _counted(told, "TemporalPositionIndex"),
        "trigger": _counted(told, "NominalCardiacTriggerDelayTime") or _counted(told, "TemporalPositionTimeOffset"),
        "acquisition": _counted(told, "FrameAcquisitionNumber"), "content_time": text(told, "FrameReferenceDateTime"),
    }  # fmt: skip
    return {name: value for name, value in found.items() if value}


def _size(told: dict[str, Any], name: str) -> tuple[float, ...] | None:
    """The size of a pixel in mm, None where the file says none or zeros."""
    found = numbers(told, name, 2)
    return found if found and min(found) > 0 else None


def _counted(told: dict[str, Any], name: str) -> str:
    """A number as text, "" when it is absent."""
    found = number(told, name, NAN)
    return f"{found:g}" if math.isfinite(found) else ""


B_VALUES = (
    ("SiemensHeader", "SIEMENS", "SiemensBValue"), ("GEHeader", "GEMS", "GEBValue"),
    ("PhilipsHeader", "PHILIPS", "PhilipsBValue"), ("UIHHeader", "IMAGE PRIVATE", "UIHBValue"),
)  # fmt: skip
"""Private elements: whose they are, how that name begins, and the one that holds the diffusion weighting."""


def b_value(data: Any) -> float:
    """Diffusion weighting in s/mm2 from the standard tag, vendors' private ones or the sequence name; nan if none."""
    standard = number(data, "DiffusionBValue", NAN)
    if math.isfinite(standard):
        return standard
    for owner, name, element in B_VALUES:
        if name in text(data, owner).upper() and element in data:
            found = number(data, element, NAN)
            return found % 100_000 if element == "GEBValue" else found  # GE adds a flag of 1e9
    named = re.search(r"ep_b(\d+)", text(data, "SequenceName"))
    return float(named.group(1)) if named else NAN
