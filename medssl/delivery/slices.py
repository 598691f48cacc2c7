"""A map on the prepared grid, seen from the pixels of the DICOM series that it was made of."""

# F frames, R rows, C columns
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pydicom
from scipy.ndimage import label

from medssl.errors import UserError

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

PLACED_BY = {
    "PlanePositionSequence": "ImagePositionPatient",
    "PlaneOrientationSequence": "ImageOrientationPatient",
    "PixelMeasuresSequence": "PixelSpacing",
}
"""Functional groups that place a frame, and the attribute of each."""

SAME_PLACE_MM = 0.01
"""Frames nearer than this along their normal are of one place, seen again: at another time, or differently weighted."""

TOUCHING = np.ones((3, 3, 3))


def pixel_to_world(slice_: pydicom.Dataset) -> np.ndarray:
    """The matrix (4, 4) from (row, column, 0, 1) of a slice to RAS+ mm. Raises UserError for one without a place."""
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        if name not in slice_:
            raise UserError(
                f"{slice_.get('SOPInstanceUID', 'slice')}: has no {name}; only slices with a place can be drawn on"
            )
    along_row, along_column = np.array(slice_.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = map(float, slice_.PixelSpacing)
    matrix = np.eye(4)
    matrix[:3, 0] = along_column * between_rows  # the next row lies along a column
    matrix[:3, 1] = along_row * between_columns
    matrix[:3, 2] = np.cross(along_row, along_column)
    matrix[:3, 3] = np.array(slice_.ImagePositionPatient, float)
    return LPS_TO_RAS @ matrix


def frames_of(image: pydicom.Dataset) -> list[pydicom.Dataset]:
    """The frames of an image, in its order, as slices of their own: size and place, told by the functional groups of what
    has several. Of an image that is one slice, itself.
    """
    if int(image.get("NumberOfFrames", 1)) == 1 and "PerFrameFunctionalGroupsSequence" not in image:
        return [image]
    shared = image.get("SharedFunctionalGroupsSequence", [pydicom.Dataset()])[0]
    found = []
    for each in image.get("PerFrameFunctionalGroupsSequence", []):
        one = pydicom.Dataset()
        one.SOPInstanceUID, one.Rows, one.Columns = image.SOPInstanceUID, image.Rows, image.Columns
        for group, name in PLACED_BY.items():
            told = each.get(group) or shared.get(group)
            if told and name in told[0]:
                setattr(one, name, told[0][name].value)
        found.append(one)
    if len(found) != int(image.get("NumberOfFrames", 1)):
        raise UserError(
            f"{image.SOPInstanceUID}: has {image.NumberOfFrames} frames and tells the place of {len(found)}; only frames "
            "with a place can be drawn on"
        )
    return found


def places_of(frames: Sequence[pydicom.Dataset]) -> list[int]:
    """The numbers of frames, by where they lie along their normal, one of each place."""
    normal = pixel_to_world(frames[0])[:3, 2]
    along = [float(pixel_to_world(one)[:3, 3] @ normal) for one in frames]
    found: list[int] = []
    for number in np.argsort(along, kind="stable").tolist():
        if not found or along[number] - along[found[-1]] > SAME_PLACE_MM:
            found.append(number)
    return found


def on_slices(found: np.ndarray, affine: np.ndarray, slices: Sequence[pydicom.Dataset]) -> np.ndarray:
    """The values (F, R, C) of a map (I, J, K) at the pixels of slices: those of the nearest voxel, 0 beyond the map."""
    frames = []
    for one in slices:
        matrix = np.linalg.inv(affine) @ pixel_to_world(one)
        row, column = np.meshgrid(np.arange(one.Rows), np.arange(one.Columns), indexing="ij")
        place = matrix[:3, :2] @ np.stack([row.ravel(), column.ravel()]) + matrix[:3, 3:]
        voxel = np.floor(place + 0.5).astype(int)
        inside = ((voxel >= 0) & (voxel < np.array(found.shape)[:, None])).all(0)
        values = np.zeros(row.size, found.dtype)
        values[inside] = found[tuple(voxel[:, inside])]
        frames.append(values.reshape(row.shape))
    return np.stack(frames)


def regions(found: np.ndarray) -> int:
    """How many connected regions above 0 a map (I, J, K) has."""
    return int(label(found > 0, TOUCHING)[1])
