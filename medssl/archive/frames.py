"""Multi-frame files as the slices that they hold, so that one core splits, sorts and validates them and files of one
slice alike. What a file says of the order of its frames is not looked at: it is often wrong, and the places are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, groupby

import numpy as np

from medssl.archive.headers import Header

SAME_LENGTH = 0.01
"""Relative difference of the lengths of B-scans above which they are no raster."""

ROUNDED_PIXELS, WIDE_PIXELS = 1.0, 4.0
"""How far from equally spaced lines B-scans may lie whose places are whole pixels of a picture, which half a pixel at
either end explains, and how far apart they must be: then a missing one is still seen.
"""


def slices_of(header: Header) -> list[Header]:
    """A header for each of the frames that a header stands for; of a file with one slice the header itself.

    A part of a concatenation names its frame even where it has only one, so that a volume made of some of the parts can
    be opened without the others.
    """
    if header.n_frames == 1:
        return [replace(header, frames=(0,)) if header.concatenation else header]
    return [
        replace(header, varying=(), frames=(k,), **{name: values[k] for name, values in header.varying})
        for k in header.frames or range(header.n_frames)
    ]


def joined(slices: Sequence[Header]) -> tuple[Header, ...]:
    """The headers of slices in their order; frames of one file that follow each other have one header."""
    runs = (list(run) for _, run in groupby(slices, key=lambda header: header.path))
    return tuple(
        replace(run[0], frames=tuple([k for header in run for k in header.frames])) if len(run) > 1 else run[0]
        for run in runs
    )


def incomplete(headers: Sequence[Header]) -> set[str]:
    """The uids of the concatenations (images in several files) of which a file is missing.

    Those of which only some frames are asked for are not looked at. A last file that is missing shows only where the
    others say how many there are.
    """
    parts: dict[str, list[Header]] = {}
    for header in headers:
        if header.concatenation and not header.frames:
            parts.setdefault(header.concatenation, []).append(header)
    return {uid for uid, files in parts.items() if not _is_whole(files)}


def _is_whole(files: list[Header]) -> bool:
    files = sorted(files, key=lambda header: header.first_frame)
    ends = accumulate(header.n_frames for header in files)
    starts = [header.first_frame for header in files]
    return starts == [0, *ends][:-1] and all(header.n_parts in (0, len(files)) for header in files)


def located(scans: list[Header]) -> list[Header]:
    """B-scans with position and orientation where a picture of the eye says which line each of them is; as they are
    where it does not, or where the lines are of several lengths or not straight.

    x and y go along the columns and rows of the picture, z into the eye. The file does not hold the picture, so the size
    of its pixels is that with which the lines are as long as their B-scans are wide. That they are square is assumed:
    the distance between B-scans is nominal.
    """
    first = scans[0]
    told = all(scan.location and scan.pixel_spacing == first.pixel_spacing for scan in scans)
    if not told or first.pixel_spacing is None or len({scan.localizer for scan in scans}) > 1:
        return scans
    ends = np.array([scan.location for scan in scans]).reshape(-1, 2, 2)[:, :, ::-1]  # (scan, end, column and row)
    lengths = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1)
    if not lengths.min() or np.ptp(lengths) > SAME_LENGTH * lengths.max():
        return scans
    ends = _evened(ends)
    lengths = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1, keepdims=True)
    along = (ends[:, 1] - ends[:, 0]) / lengths
    places = ends[:, 0] * first.pixel_spacing[1] * (first.columns - 1) / lengths.mean()
    return [
        replace(scan, position=(*place, 0.0), orientation=(*line, 0.0, 0.0, 0.0, 1.0), spacing_source="nominal")
        for scan, place, line in zip(scans, places.tolist(), along.tolist(), strict=True)
    ]


def _evened(ends: np.ndarray) -> np.ndarray:
    """Lines between equally spaced ones, where whole pixels are all that keeps them from it; else as they are."""
    x, y = ends[0, 1] - ends[0, 0]
    order = np.argsort(ends.mean(axis=1) @ (-y, x))
    even = np.linspace(ends[order[0]], ends[order[-1]], len(ends))
    step = np.linalg.norm((even[-1] - even[0]).mean(axis=0)) / max(1, len(ends) - 1)
    whole = (ends == np.round(ends)).all()
    if not whole or step < WIDE_PIXELS or np.abs(ends[order] - even).max() > ROUNDED_PIXELS:
        return ends
    found = np.empty_like(ends)
    found[order] = even
    return found
