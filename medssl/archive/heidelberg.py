"""OCT of Heidelberg Engineering: the "raw data" export (.vol) and the XML export with one picture for each B-scan.

The layout of .vol is that of the special-function manual of HEYEX, as open readers (eyepy, heyexReader) document it. Both
hold names and birthdays; nothing but the patient's id and the side of the eye is kept of them.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medssl.archive.headers import MAXIMUM_VOXELS, NAN, to_float
from medssl.archive.reasons import Refusal
from medssl.volume import Volume

HEADER = struct.Struct("<12siiidddiiddid4sqii16s16si21s")
"""The start of a .vol file: version, A-scans, B-scans, depth, three spacings in mm, the fundus picture's size, ..."""

HEADER_BYTES = 2048
"""Length of the header, of which HEADER is the used part."""

PLACE = struct.Struct("<4d")
PLACE_OFFSET = 16
"""Start and end (x, y in mm) of a B-scan, in the header before it."""

FEWEST_HEADER_BYTES = 256
"""Length of a B-scan's header at least."""

RASTERS = {3, 4}
"""Scan patterns that are rasters: volume and fast volume. 1 is a line, 2 a circle, 5 a star."""

NOTHING = 3e38
"""Values from which a voxel was not measured: they are written as the largest float."""

GAP_TOLERANCE, PARALLEL_MM = 0.05, 0.02
"""How far the distances of B-scans may differ from their median, and how far their directions."""

SIDES = {"OD": "R", "OS": "L", "R": "R", "L": "L"}

MOST_XML_BYTES = 1 << 23
"""Longest XML that is read."""


@dataclass(frozen=True)
class Scan:
    """A volume with what else is kept of its file: the patient's id, the side, and the names of further files it is in."""

    volume: Volume
    patient_id: str
    laterality: str
    parts: tuple[str, ...] = ()


def vol(path: Path) -> Scan:
    """The scan of a .vol file, (1, A-scan, B-scan, depth), 0 to 255 as HEYEX shows it; voxels without a value not valid.

    Raises Refusal for a scan that is no raster, for a file that is too short, and for one that is none.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
        if not start.startswith(b"HSF-OCT-") or len(start) < HEADER_BYTES:
            raise Refusal("UNREADABLE", path.name, "not a .vol file")
        (_, across, count, depth, mm_across, mm_between, mm_deep, wide, high, _, _, _, _, eye, _, pattern, between, _, _,
         _, patient) = HEADER.unpack_from(start)  # fmt: skip
        if pattern not in RASTERS:
            raise Refusal("OCT_NON_RASTER", path.name, f"scan pattern {pattern}")
        if min(across, count, depth) < 1 or min(wide, high) < 0 or between < FEWEST_HEADER_BYTES:
            raise Refusal("BAD_GEOMETRY", path.name, f"{across} x {count} x {depth}")
        voxels = across * count * depth
        if voxels > MAXIMUM_VOXELS:
            raise Refusal("TOO_LARGE", path.name, f"{voxels} voxels")
        if HEADER_BYTES + wide * high + count * between + 4 * voxels > size:
            raise Refusal("FILE_TRUNCATED", path.name, f"{size} bytes")
        file.seek(HEADER_BYTES + wide * high)
        places = np.empty((count, 4))
        values = np.empty((count, depth, across), np.float32)
        for number in range(count):
            places[number] = PLACE.unpack_from(file.read(between), PLACE_OFFSET)
            values[number] = np.frombuffer(file.read(4 * depth * across), "<f4").reshape(depth, across)
    order = _order(path, places)
    shown, valid = _shown(values[order])
    volume = _volume(path, shown, (mm_across, mm_between, mm_deep), valid)
    return Scan(volume, _text(patient), SIDES.get(_text(eye), ""))


def _shown(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reflectivity as HEYEX shows it, 0 to 255: (ln(x + 2.44e-4) + 8.3) / 8.285 of white; and where it was measured."""
    valid = np.isfinite(values) & (values < NOTHING) & (values >= 0)
    light = (np.log(np.where(valid, values, 0.0) + 2.44e-4) + 8.3) / 8.285
    return np.where(valid, np.clip(np.rint(255 * light), 0, 255), 0).astype(np.uint8), valid


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("latin-1").strip()


def _order(path: Path, places: np.ndarray) -> np.ndarray:
    """The numbers of the B-scans in order of their place. Refusal for scans that are not parallel or equally far apart."""
    if len(places) < 2:
        raise Refusal("OCT_NON_RASTER", path.name, "one B-scan")
    along = places[:, 2:] - places[:, :2]
    length = np.linalg.norm(along[0])
    if not np.isfinite(places).all() or not length > 0 or np.abs(along - along[0]).max() > PARALLEL_MM:
        raise Refusal("OCT_NON_RASTER", path.name, "B-scans are not parallel")
    normal = np.array([-along[0][1], along[0][0]]) / length
    aside = places[:, :2] @ normal
    order = np.argsort(aside, kind="stable")
    gaps = np.diff(aside[order])
    if not gaps.min() > 0 or np.abs(gaps / np.median(gaps) - 1).max() > GAP_TOLERANCE:
        raise Refusal("OCT_NON_RASTER", path.name, "B-scans are not equally far apart")
    return order


def _volume(path: Path, values: np.ndarray, spacing: tuple[float, float, float], valid: np.ndarray | None) -> Volume:
    """The volume of B-scans (B-scan, depth, A-scan) with its spacing along A-scans, B-scans and depth in mm."""
    if not all(math.isfinite(mm) and mm > 0 for mm in spacing):
        raise Refusal("BAD_GEOMETRY", path.name, f"spacing {spacing}")
    axes = (2, 0, 1)
    known = None if valid is None or valid.all() else valid.transpose(axes)
    voxels = np.ascontiguousarray(values.transpose(axes))[None]
    return Volume(voxels, np.diag([*spacing, 1.0]), "OPT", "a.u.", known, "header", False)


def xml(path: Path) -> Scan:
    """The scan that an XML export describes, of the pictures beside it, as `vol` gives it.

    Pictures are looked for by their bare names in the folder of the XML, wherever it says that they are. Raises Refusal
    for other XML, for a scan that is no raster, and for a picture that is not there.
    """
    from defusedxml import ElementTree
    from defusedxml.common import DefusedXmlException

    if path.stat().st_size > MOST_XML_BYTES:
        raise Refusal("TOO_LARGE", path.name, f"{path.stat().st_size} bytes")
    try:
        root = ElementTree.parse(path).getroot()
    except DefusedXmlException as error:
        raise Refusal("XML_ENTITIES", path.name, type(error).__name__) from None
    except Exception as error:
        raise Refusal("NOT_AN_ARCHIVE_FILE", path.name, type(error).__name__) from None
    images = [image for image in root.iter("Image") if image.findtext("ImageType/Type") == "OCT"]
    if root.tag != "HEDX" or not images:
        raise Refusal("NOT_AN_ARCHIVE_FILE", path.name)
    context = "OphthalmicAcquisitionContext"
    ends = [f"{context}/{end}/Coord/{axis}" for end in ("Start", "End") for axis in "XY"]
    places = np.array([[_number(image, end) for end in ends] for image in images])
    order = _order(path, places)
    urls = [str(images[number].findtext("ImageData/ExamURL")) for number in order]
    names = tuple(url.replace("\\", "/").split("/")[-1] for url in urls)
    if len(set(names)) < len(names):
        raise Refusal("BAD_GEOMETRY", path.name, "two B-scans are one picture")
    size = tuple(_number(images[0], f"{context}/{side}") for side in ("Width", "Height"))
    if not 0 < len(names) * size[0] * size[1] <= MAXIMUM_VOXELS:
        raise Refusal("TOO_LARGE", path.name, f"{len(names)} pictures of {size}")
    slices = [_slice(path, name, size) for name in names]
    aside = np.linalg.norm(places[order[1], :2] - places[order[0], :2])
    spacing = _number(images[0], f"{context}/ScaleX"), float(aside), _number(images[0], f"{context}/ScaleY")
    volume = _volume(path, np.stack(slices), spacing, None)
    side = SIDES.get(root.findtext(".//Series/Laterality", "").strip(), "")
    return Scan(volume, root.findtext(".//Patient/PatientID", "").strip(), side, names)


def _number(element: Any, place: str) -> float:
    return to_float(element.findtext(place)) if element.findtext(place) else NAN


def _slice(path: Path, name: str, size: tuple[float, ...]) -> np.ndarray:
    """A B-scan's picture (depth, A-scan), grey, eight bits, of the size (A-scans, depth) that the XML tells."""
    from PIL import Image

    place = path.parent / name
    if name in ("", ".", "..") or not place.is_file() or place.is_symlink():
        raise Refusal("XML_PICTURE_MISSING", path.name)
    try:
        with place.open("rb") as file, Image.open(file) as image:
            if image.size != size:
                raise Refusal("BAD_GEOMETRY", path.name, f"a picture of {image.size}, {size} told")
            values = np.asarray(image)
    except Refusal:
        raise
    except Exception as error:
        raise Refusal("XML_PICTURE_MISSING", path.name, type(error).__name__) from None
    grey = values[..., 0] if values.ndim == 3 else values
    if grey.ndim != 2 or grey.dtype != np.uint8:
        raise Refusal("COLOR_IMAGE", path.name, str(values.dtype))
    return grey
