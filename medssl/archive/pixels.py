"""Stored DICOM pixel values, which of them are padding, and what they become: the modality's table, slope or mapping.

Decoders are asked in a fixed order. Bits beyond BitsStored are never part of a value: they hold overlays, or nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medssl.archive.headers import number
from medssl.archive.reasons import Refusal
from medssl.archive.streams import SPARSE_BYTES, SPARSE_RATIO

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

RLE = "1.2.840.10008.1.2.5"
"""The one compression that packs whole words, unused bits included."""


PADDING = "PixelPaddingValue", "PixelPaddingRangeLimit"


def read_dataset(path: Any) -> Any:
    """The whole data set of a DICOM file."""
    import pydicom

    with pydicom.config.disable_value_validation():
        return pydicom.dcmread(path, force=True)


def stored(data: Any, name: str) -> np.ndarray:
    """Stored values (rows, columns) or (frames, rows, columns). Raises Refusal; other decoders are tried in order."""
    syntax = str(getattr(data.file_meta, "TransferSyntaxUID", "")) if hasattr(data, "file_meta") else ""
    plugins = DECODERS.get(syntax, [""])
    _check_claim(data, name)
    failure = "DECODER_MISSING"
    for plugin in plugins:
        # pydicom would take HighBit for granted when it clears the bits that are not stored.
        data.pixel_array_options(correct_unused_bits=False, **({"decoding_plugin": plugin} if plugin else {}))
        try:
            return cleaned(data, np.asarray(data.pixel_array), aligned=bool(plugin) and syntax != RLE)
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


def _check_claim(data: Any, name: str) -> None:
    """Nothing; Refusal for a compressed picture that is huge and next to empty."""
    frames = number(data, "Rows", 0) * number(data, "Columns", 0) * (number(data, "NumberOfFrames", 1) or 1)
    needed, packed = frames * number(data, "BitsAllocated", 16) / 8, len(data.get("PixelData") or b"")
    if needed > SPARSE_BYTES and needed > packed * SPARSE_RATIO:
        raise Refusal("TOO_EMPTY", name, f"{needed:.0f} bytes in {packed}")


def cleaned(data: Any, values: np.ndarray, *, aligned: bool) -> np.ndarray:
    """The values in their BitsStored bits up to HighBit, with the sign that PixelRepresentation gives them.

    `aligned` values come from a codec that knows its own bits: they end at bit 0 wherever HighBit is. A HighBit that
    cannot be, or no BitsStored, changes nothing.
    """
    width = 8 * values.dtype.itemsize
    bits = int(number(data, "BitsStored", width))
    if values.dtype.kind not in "ui" or not 0 < bits <= width:
        return values
    high = int(number(data, "HighBit", bits - 1))
    shift = high + 1 - bits if not aligned and bits <= high + 1 <= width else 0
    # To the left end of the word, where the bits above HighBit are lost, and back: arithmetically where there is a sign.
    up, down = width - bits - shift, width - bits
    return values if up == down == 0 else (values << up) >> down


def rescaled(data: Any, values: np.ndarray, name: str) -> np.ndarray:
    """Values through the Modality LUT, or times slope plus intercept, float32. Each frame may have its own slope."""
    table = data.get("ModalityLUTSequence")
    if table:
        return looked_up(table[0], values, name).astype(np.float32)
    sources = transformations(data)
    if len(sources) != 1 and (values.ndim != 3 or len(sources) != len(values)):
        sources = [data]
    slopes = [number(source, "RescaleSlope", 1.0) or 1.0 for source in sources]
    intercepts = [number(source, "RescaleIntercept", 0.0) for source in sources]
    slope, intercept = np.array([slopes, intercepts], np.float32)[..., *[None] * (values.ndim - 1)]
    return values.astype(np.float32) * slope + intercept


def looked_up(item: Any, values: np.ndarray, name: str) -> np.ndarray:
    """What a table of DICOM (LUTDescriptor, LUTData) makes of values; those outside it become its first or last entry.

    Raises Refusal (LUT_DAMAGED) for a table that is not there or shorter than it says.
    """
    try:
        entries, first, bits = (int(number) for number in item.LUTDescriptor)
        content = item.LUTData
        entries = entries or 1 << 16
        if isinstance(content, bytes):
            content = np.frombuffer(content, np.uint8 if len(content) < 2 * entries else np.dtype("<u2"))
        table = np.atleast_1d(np.asarray(content)).astype(np.int64)[:entries] & 0xFFFF
    except (AttributeError, TypeError, ValueError):
        raise Refusal("LUT_DAMAGED", name) from None
    if len(table) < entries or not 0 < bits <= 16:
        raise Refusal("LUT_DAMAGED", name, f"{len(table)} of {entries} entries of {bits} bits")
    first = first - (1 << 16) if first >= 1 << 15 and values.min() < 0 else first
    return table[np.clip(np.asarray(values).astype(np.int64) - first, 0, len(table) - 1)]


def transformations(data: Any) -> list[Any]:
    """Where slope and intercept are: in the data set, in its shared functional groups, or in those of each frame."""
    found = grouped(data, "PixelValueTransformationSequence")
    return [items[0] for items in found] or [data]


def grouped(data: Any, name: str) -> list[Any]:
    """A sequence of each frame, of all frames together, or of the data set itself; empty where there is none."""
    shared, each = data.get("SharedFunctionalGroupsSequence"), data.get("PerFrameFunctionalGroupsSequence")
    common = shared[0].get(name) if shared else None
    found = [group.get(name) or common for group in each or []]
    if found and all(found):
        return found
    alone = common or data.get(name)
    return [alone] if alone else []


def padding(data: Any, values: np.ndarray) -> np.ndarray:
    """Where the stored values are the declared padding (a value, or a range with its limit)."""
    ends = [_stored_value(data, data[name].value, values) for name in PADDING if data.get(name) is not None]
    if not ends or data.get(PADDING[0]) is None:
        return np.zeros(values.shape, bool)
    return (values >= min(ends)) & (values <= max(ends))


def _stored_value(data: Any, value: Any, values: np.ndarray) -> int:
    """A tag that is a stored value: its bits, read as the picture's. An unsigned 63536 in a signed picture is -2000."""
    if isinstance(value, bytes):
        value = int.from_bytes(value[:2], "little")
    if values.dtype.kind not in "ui":
        return int(value)
    word = np.array([int(value) & ((1 << 8 * values.dtype.itemsize) - 1)]).astype(f"u{values.dtype.itemsize}")
    return int(cleaned(data, word.view(values.dtype), aligned=True)[0])
