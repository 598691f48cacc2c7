"""PNG and JPEG pictures, which say nothing of millimetres and of what is black.

Where three channels are equal they are one. Colour is read for photographs of the fundus (modality OP), where it means
something, and which are three channels always; a radiograph in colour was coloured by somebody.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from medssl.archive.headers import LONGEST_AXIS, Header
from medssl.archive.reasons import Refusal
from medssl.archive.streams import check_claim
from medssl.volume import Volume

GREY_MODES = {"1": 1, "L": 1, "I;16": 2, "I;16B": 2, "I": 4, "F": 4}
"""Pillow's modes of one value a pixel, and the bytes of one."""

SPARSE_BYTES = 1 << 26
"""Content above which a picture is refused that packs more tightly than any radiograph (64 MiB, 8000 x 8000 pixels)."""

STRIP = 256
"""Rows that are compared at a time to find out whether a picture in colour is grey."""


COLOURS = "red, green, blue"
"""The units of a picture in colour, a channel each."""


def volume(path: Path) -> Volume:
    """The picture of a PNG or JPEG, (1, columns, rows, 1), or (3, ...) in colour; its millimetres are not known."""
    with _opened(path) as image:
        if image.mode not in GREY_MODES and _is_coloured(path, image):
            values, unit = np.asarray(image.convert("RGB")).transpose(2, 1, 0), COLOURS
        else:
            grey = np.asarray(image if image.mode in GREY_MODES else image.getchannel(0))
            values, unit = grey.T[None], "a.u."
    return Volume(values[..., None], np.eye(4), "unknown", unit, spacing_source="unknown", oriented=False)


def header(path: Path, size: int) -> Header:
    """What the picture says of itself; it is decoded, which is all that shows damage, and not kept. Raises Refusal."""
    with _opened(path) as image:
        columns, rows = image.size
        colour = image.mode not in GREY_MODES and _is_coloured(path, image)
    return Header(
        path=path, size=size, kind="image", shape=(columns, rows, 1), affine=tuple(np.eye(4).ravel().tolist()),
        spacing_source="unknown", oriented=False, colour=colour,
    )  # fmt: skip


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The decoded picture."""
    from PIL import Image

    try:
        # Closed here: a decoder that meets a broken file leaves it open.
        with path.open("rb") as file, Image.open(file) as image:
            if max(image.size) > LONGEST_AXIS:
                raise Refusal("TOO_LARGE", path.name, f"{math.prod(image.size)} pixels")
            needed = math.prod(image.size) * GREY_MODES.get(image.mode, len(image.getbands()))
            check_claim(path, math.prod(image.size), needed, path.stat().st_size, SPARSE_BYTES)
            if image.mode in ("P", "PA"):  # its values are numbers of colours
                raise Refusal("COLOR_IMAGE", path.name, "palette")
            if image.mode not in GREY_MODES and "16" in str(image.tile[0][3]):
                raise Refusal("COLOR_IMAGE", path.name, "16 bits a channel, of which Pillow drops half")
            image.load()
            yield image
    except (Refusal, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise Refusal("TOO_LARGE", path.name) from None
    except Exception as error:
        raise Refusal("UNREADABLE", path.name, type(error).__name__) from None


def _is_coloured(path: Path, image: Any) -> bool:
    """Whether the channels of a picture of several differ. Refusal for other channels than these, and for a picture that
    can be seen through.
    """
    if image.mode not in ("RGB", "RGBA"):
        raise Refusal("COLOR_IMAGE", path.name, image.mode)
    coloured = False
    for top in range(0, image.height, STRIP):
        strip = np.asarray(image.crop((0, top, image.width, min(top + STRIP, image.height))))
        if image.mode == "RGBA" and strip[..., 3].min() < 255:
            raise Refusal("COLOR_IMAGE", path.name, "transparent")
        coloured |= bool((strip[..., :3] != strip[..., :1]).any())
    return coloured
