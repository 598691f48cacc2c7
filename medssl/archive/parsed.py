"""The facts of a DICOM file as pydicom finds them: for everything that our own walker hands back."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

from medssl.archive.reasons import Refusal
from medssl.archive.tags import (
    CONVERTED,
    GROUP_TAGS,
    GROUPS_OF_EACH,
    MACROS,
    NUMBERS,
    OF_FRAMES,
    SHARED_GROUPS,
    TAGS,
    Facts,
    Pixels,
)
from medssl.archive.walker import pixels_at

DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT, IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"

PLAIN_START = bytes(128) + b"DICM\x02\x00\x10\x00UI\x14\x00" + EXPLICIT.encode() + b"\0"
"""Preamble and shortest file meta information of a data set in explicit little endian."""

HEADER_BYTES = 1 << 25
"""Bytes of an inflated data set within which its pixels have to begin (32 MiB)."""

INFLATED_BYTES = 1 << 29
"""Longest data set that is inflated (512 MiB). Deflate packs a thousandfold: a small file could fill all memory."""

PIECE = 1 << 20
"""Bytes that are inflated at a time, and that may follow the pixels."""

PIXEL_TAGS = {(0x7FE0, 0x0008), (0x7FE0, 0x0009), (0x7FE0, 0x0010)}


def parse(path: Path, size: int) -> Facts:
    """The facts of a DICOM file of `size` bytes.

    Raises Refusal for a deflated one that is damaged or inflates to more than it claims, and whatever pydicom raises.
    """
    with path.open("rb") as file:
        preamble, syntax = _start(file)
        if syntax != DEFLATED:
            file.seek(0)
            return _facts(file, size)
        plain = bytearray(PLAIN_START)
        pieces = _pieces(path, file)
        for piece in pieces:
            plain += piece
            if len(plain) >= HEADER_BYTES:
                break
        facts = replace(_facts(io.BytesIO(plain), len(plain)), syntax=DEFLATED, preamble=preamble)
        if facts.pixels is None:
            return facts
        # The rest is counted and not kept.
        left, most = facts.pixels.left, min(INFLATED_BYTES, facts.pixels.length + PIECE)
        for piece in pieces:
            left += len(piece)
            if left > most:
                raise Refusal("DEFLATE_BOMB", path.name, f"more than {most} bytes")
        return replace(facts, pixels=replace(facts.pixels, left=left))


def _start(file: BinaryIO) -> tuple[bytes, str]:
    """Preamble and transfer syntax; the file stands where the data set begins. pydicom itself would inflate it all."""
    from pydicom.filereader import read_dataset, read_preamble

    preamble = read_preamble(file, force=True)
    meta = read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, *_: tag.group != 2)
    return preamble or b"", str(meta.get("TransferSyntaxUID", ""))


def _pieces(path: Path, file: BinaryIO) -> Iterator[bytes]:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    while not stream.eof:
        packed = stream.unconsumed_tail or file.read(PIECE)
        if not packed:
            raise Refusal("DEFLATE_DAMAGED", path.name, "cut short")
        try:
            yield stream.decompress(packed, PIECE)
        except zlib.error:
            raise Refusal("DEFLATE_DAMAGED", path.name) from None


def _facts(file: BinaryIO, size: int) -> Facts:
    import pydicom

    wanted = [SHARED_GROUPS, GROUPS_OF_EACH, *(tag for tag, _ in TAGS.values())]
    with pydicom.config.disable_value_validation():
        data = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=wanted)
    syntax = str(data.file_meta.get("TransferSyntaxUID", ""))
    implicit, little = data.original_encoding
    if not syntax:
        syntax = IMPLICIT if implicit else EXPLICIT if little else BIG_ENDIAN
    media = str(data.file_meta.get("MediaStorageSOPClassUID", ""))
    raw = {"MediaStorageSOPClassUID": media.encode("ascii", "replace")}
    for name, (tag, kind) in TAGS.items():
        if tag in data:
            raw[name] = _bytes(data.get_item(tag).value, kind, little=bool(little))
    shared, each = ([_told(group, little=bool(little)) for group in _items(data, tag)]
                    for tag in (SHARED_GROUPS, GROUPS_OF_EACH))  # fmt: skip
    for group in shared[:1]:
        raw |= group
    return Facts(
        raw=raw, syntax=syntax, pixels=_pixels(file, size, little=bool(little)),
        parse_path="pydicom", preamble=data.preamble or b"", frames=tuple(each),
    )  # fmt: skip


def _told(group: Any, *, little: bool) -> dict[str, bytes]:
    """What a functional group says, by name; the macros of the group count before what was converted."""
    found: dict[str, bytes] = {}
    for tag in sorted(group.keys(), key=lambda tag: (tag not in CONVERTED, tag)):
        if tag in MACROS:
            for item in _items(group, tag)[:1]:
                found |= _told(item, little=little)
        elif tag in IN_GROUPS:
            name, kind = IN_GROUPS[tag]
            found[name] = _bytes(group.get_item(tag).value, kind, little=little)
    return found


IN_GROUPS = {tag: (name, kind) for name, (tag, kind) in {**TAGS, **GROUP_TAGS}.items() if name in OF_FRAMES}


def _items(data: Any, tag: int) -> list[Any]:
    return list(data[tag].value or ()) if tag in data else []


def _bytes(value: Any, kind: str, *, little: bool) -> bytes:
    """An element as it is stored, in little endian. pydicom has turned a few into text, and broken ones into items."""
    if isinstance(value, str):
        return value.encode("latin-1", "replace")
    if not isinstance(value, bytes):
        return b""
    if little or kind not in NUMBERS:
        return value
    size = NUMBERS[kind].size
    return b"".join(value[at : at + size][::-1] for at in range(0, len(value), size))


def _pixels(file: BinaryIO, size: int, *, little: bool) -> Pixels | None:
    """The pixel element that the file stands at, None when it stands elsewhere. How it is written may differ from what
    the file says; as a length the letters of a representation would be odd, which no length is.
    """
    place = file.tell()
    order: Literal["little", "big"] = "little" if little else "big"

    def read(count: int, at: int) -> bytes:
        file.seek(at)
        return file.read(count)

    start = read(12, place)
    tag = tuple(int.from_bytes(start[at : at + 2], order) for at in (0, 2))
    if len(start) < 8 or tag not in PIXEL_TAGS:
        return None
    at = 8 if start[4:6] in (b"OB", b"OW", b"OF", b"OD", b"UN") else 4
    return pixels_at(read, size, place + at + 4, int.from_bytes(start[at : at + 4], order))
