"""Stored DICOM pixel values and which of them are padding. Decoders are asked in a fixed order."""

from __future__ import annotations

from typing import Any

import numpy as np

from medssl.archive.headers import number
from medssl.archive.reasons import Refusal

DECODERS = {
    "1.2.840.10008.1.2.4.80": ["pyjpegls", "gdcm"],
    "1.2.840.10008.1.2.4.81": ["pyjpegls", "gdcm"],
    "1.2.840.10008.1.2.4.90": ["pylibjpeg", "gdcm"],
    "1.2.840.10008.1.2.4.91": ["pylibjpeg", "gdcm"],
    "1.2.840.10008.1.2.5": ["pylibjpeg", "pydicom"],
    "1.2.840.10008.1.2.4.57": ["gdcm"],
    "1.2.840.10008.1.2.4.70": ["gdcm"],
    "1.2.840.10008.1.2.4.50": ["gdcm", "pillow"],
    "1.2.840.10008.1.2.4.51": ["gdcm"],
}
"""Transfer syntax -> decoders, those that notice damage first."""


def read_dataset(path: Any) -> Any:
    """The whole data set of a DICOM file."""
    import pydicom

    with pydicom.config.disable_value_validation():
        return pydicom.dcmread(path, force=True)


def stored(data: Any, name: str) -> np.ndarray:
    """Stored values (rows, columns) or (frames, rows, columns). Raises Refusal; other decoders are tried in order."""
    syntax = str(getattr(data.file_meta, "TransferSyntaxUID", "")) if hasattr(data, "file_meta") else ""
    plugins = DECODERS.get(syntax, [""])
    failure = "DECODER_MISSING"
    for plugin in plugins:
        if plugin:
            data.pixel_array_options(decoding_plugin=plugin)
        try:
            return np.asarray(data.pixel_array)
        except (NotImplementedError, KeyError):
            continue
        except AttributeError:
            raise Refusal("NO_PIXELS", name) from None
        except Exception as error:
            short = "expected" in str(error).lower() or "bytes" in str(error).lower()
            failure = "PIXELDATA_TRUNCATED" if short and not plugin else "DECODING_FAILED"
            if "missing" in str(error).lower() or "unable to decompress" in str(error).lower():
                failure = "DECODER_MISSING"
    raise Refusal(failure, name, syntax)


def rescaled(data: Any, values: np.ndarray) -> np.ndarray:
    """Values times slope plus intercept, float32; the modality's own unit. Each frame may have its own."""
    sources = transformations(data)
    if len(sources) != 1 and (values.ndim != 3 or len(sources) != len(values)):
        sources = [data]
    slopes = [number(source, "RescaleSlope", 1.0) or 1.0 for source in sources]
    intercepts = [number(source, "RescaleIntercept", 0.0) for source in sources]
    slope, intercept = np.array([slopes, intercepts], np.float32)[..., *[None] * (values.ndim - 1)]
    return values.astype(np.float32) * slope + intercept


def transformations(data: Any) -> list[Any]:
    """Where slope and intercept are: in the data set, in its shared functional groups, or in those of each frame."""
    shared, each = data.get("SharedFunctionalGroupsSequence"), data.get("PerFrameFunctionalGroupsSequence")
    common = shared[0].get("PixelValueTransformationSequence") if shared else None
    found = [group.get("PixelValueTransformationSequence") or common for group in each or []]
    if found and all(found):
        return [item[0] for item in found if item]
    return [common[0]] if common else [data]


def padding(data: Any, values: np.ndarray) -> np.ndarray:
    """Where the stored values are the declared padding (a value, or a range with its limit)."""
    import struct

    element = data.get("PixelPaddingValue")
    if element is None:
        return np.zeros(values.shape, bool)
    low, limit = element, data.get("PixelPaddingRangeLimit")
    if isinstance(low, bytes):
        low = struct.unpack("<h" if data.get("PixelRepresentation") else "<H", low[:2])[0]
    # An unsigned 63536 in a signed picture is -2000 read with the wrong sign.
    low = np.array(int(low)).astype(np.int64)
    if data.get("PixelRepresentation") and low >= 2**15:
        low = low - 2**16
    high = low if limit is None else np.array(int(limit))
    return (values >= min(low, high)) & (values <= max(low, high))
