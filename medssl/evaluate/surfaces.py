"""How far two surfaces lie from each other, in mm. Judging sees no voxels: `predict` measures, through outlines.py.

A surface is cut into pieces as by Nikolov et al., arXiv:1809.04430: one for each corner of a voxel where inside meets
outside, with the area of its marching-cubes triangles there. Distances are between corners. So a thick slice counts by
its area and not by how many voxels it has, which is where distances between boundary voxels (MONAI's, without
`use_subvoxels`) differ. Of a plane (one axis of one voxel) pieces are of its contour, with lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np

MOST = 0.95
"""Share of a surface that HD95 is about; the rest may lie farther away."""

SLACK_MM = 1e-4
"""What a distance may exceed the tolerance by: the spacing of an oblique scan is 1.0000001 where 1 is meant."""

SPARSE = 10
"""Voxels of the box for each piece of surface from which on a search among pieces is faster than distances everywhere."""


class Apart(NamedTuple):
    """HD95 in mm and the surface Dice (NSD) in 0..1."""

    hd95: float
    nsd: float


def apart(truth: np.ndarray, found: np.ndarray, spacing: Sequence[float], tolerance_mm: float) -> Apart:
    """HD95 and surface Dice of two masks on one grid of `spacing` mm.

    HD95 is the larger of two distances: that within which 95 % of truth's surface is from the one found, and the reverse
    (surface-distance and MONAI; medpy and others take 95 % of both together, which is never larger). Surface Dice is the
    share of both surfaces that lies within `tolerance_mm` of the other one.
    Both empty: nan, there is nothing to measure. One empty: HD95 is the diagonal of the volume and surface Dice 0, so that
    a total failure counts.
    """
    there = bool(truth.any()), bool(found.any())
    if there == (False, False):
        return Apart(float("nan"), float("nan"))
    axes = [axis for axis, length in enumerate(truth.shape) if length > 1] or [0]
    step, shape = np.array(spacing, float)[axes], np.array(truth.shape)[axes]
    if there != (True, True):
        return Apart(float(np.linalg.norm(shape * step)), 0.0)
    sides = _sides(truth.reshape(shape), found.reshape(shape), tuple(step.tolist()))
    near = sum(float(areas[distances <= tolerance_mm + SLACK_MM].sum()) for distances, areas in sides)
    return Apart(max(_reach(*side) for side in sides), near / sum(float(areas.sum()) for _, areas in sides))


def _reach(distances: np.ndarray, areas: np.ndarray) -> float:
    """The smallest distance within which MOST of the area is."""
    order = np.argsort(distances)
    share = np.cumsum(areas[order]) / areas.sum()
    return float(distances[order][min(int(np.searchsorted(share, MOST)), len(order) - 1)])


def _sides(truth: np.ndarray, found: np.ndarray, spacing: tuple[float, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each mask, the distances of its pieces of surface from the other's surface, and their areas."""
    box = _box(truth | found)
    codes = [_codes(mask[box]) for mask in (truth, found)]
    table = _areas(spacing)
    surfaces = [(code > 0) & (code < len(table) - 1) for code in codes]
    return [
        (_distances(own, other, spacing), table[code[own]])
        for code, own, other in zip(codes, surfaces, reversed(surfaces), strict=True)
    ]


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that holds a mask."""
    sides = [mask.any(tuple(other for other in range(mask.ndim) if other != axis)) for axis in range(mask.ndim)]
    ends = [np.flatnonzero(side)[[0, -1]] for side in sides]
    return tuple(slice(int(first), int(last) + 1) for first, last in ends)


def _codes(mask: np.ndarray) -> np.ndarray:
    """For each corner (n + 1 along each axis) which of the voxels around it are inside, a bit for each."""
    padded = np.pad(mask, 1)
    codes = np.zeros([length - 1 for length in padded.shape], np.uint8)
    for bit, corner in enumerate(product((0, 1), repeat=mask.ndim)):
        around = tuple(slice(first, first + length) for first, length in zip(corner, codes.shape, strict=True))
        codes |= padded[around].astype(np.uint8) << bit
    return codes


@lru_cache
def _areas(spacing: tuple[float, ...]) -> np.ndarray:
    """The area (mm²; of a plane the length, mm) of the surface around a corner, by its code."""
    from skimage.measure import marching_cubes, mesh_surface_area

    corners = list(product((0, 1), repeat=len(spacing)))
    table = np.zeros(1 << len(corners))
    for code in range(1, len(table) - 1):
        block = np.zeros((2,) * len(spacing))
        for bit, corner in enumerate(corners):
            block[corner] = code >> bit & 1
        # Where voxels touch by an edge, the surface is drawn around the fewer: inside and outside have the same one.
        block = 1 - block if block.mean() > 0.5 else block
        while block.ndim < 3:  # a contour is the surface of a sheet of 1 mm
            block = np.repeat(block[..., None], 2, -1)
        points, triangles, _, _ = marching_cubes(block, 0.5, spacing=(*spacing, 1.0, 1.0)[:3], method="lorensen")
        table[code] = mesh_surface_area(points, triangles)
    return table


def _distances(own: np.ndarray, other: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """How far (mm) each corner of `own` is from the nearest of `other`."""
    from scipy.ndimage import distance_transform_edt
    from scipy.spatial import KDTree

    if own.size > SPARSE * (np.count_nonzero(own) + np.count_nonzero(other)):
        return KDTree(np.argwhere(other) * spacing).query(np.argwhere(own) * spacing)[0]
    return distance_transform_edt(~other, sampling=spacing)[own]
