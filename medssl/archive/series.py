"""From headers to volumes: group, split, sort along the normal, validate, and say where every voxel is.

No library stacks a series for us: the usual readers make one volume of three localizer planes or of three b-values,
and close a gap left by a missing slice without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from medssl.archive.bpmri import role_of
from medssl.archive.frames import incomplete, joined, located, slices_of
from medssl.archive.geometry import SAME_POSITION_MM, alike, along_normal, is_lost, is_sound, repeats
from medssl.archive.headers import PICTURE_SOPS, Header

SLICE_GAP_TOLERANCE = 0.01
"""Relative spread of slice gaps above which a series is refused (0.01 = 1 % of the median gap)."""

ASIDE_PIXELS = 0.5
"""How far, in pixels, a slice may lie beside the straight line through the first and the last one."""

TILT_DEGREES = 0.1
"""Angle between the slices' normal and their offset above which a series counts as sheared."""

FEWEST_SLICES = 3
FEWEST_OF_SEVERAL_ORIENTATIONS = 8
"""Slices that a volume needs; more when the series holds several orientations, as localizers do."""

SPLITS: dict[str, Callable[[Header], object]] = {
    "b_value": lambda h: h.b_value,
    "direction": lambda h: h.gradient and tuple(round(part, 3) for part in h.gradient),
    "echo_time": lambda h: h.echo_time,
    "image_type": lambda h: h.image_type[2:],
    "component": lambda h: h.component,
    "stack": lambda h: h.stack,
    "temporal": lambda h: h.temporal,
    "trigger": lambda h: h.trigger,
    "acquisition": lambda h: h.acquisition,
    "kernel": lambda h: h.kernel,
    "energy": lambda h: h.kvp,
    "contrast": lambda h: h.contrast,
    "time": lambda h: h.content_time,
    "instance": lambda h: (h.concatenation or h.sop_uid) if h.n_frames > 1 else "",
}
"""What may tell slices at one position apart, in the order in which it is tried."""

MOST_SPLITS = 3
"""Tags that are tried together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stack:
    """The files of one volume in order along the normal, or of what was left out, with the reason.

    A header of a multi-frame file names its `frames` that belong to the volume, in their order; where the frames of
    several files lie between each other there is a header for each piece. `affine` maps (column, row, slice) to RAS+
    mm. `status` is "ok", "warn" or "excluded".
    """

    headers: tuple[Header, ...]
    shape: tuple[int, ...] = ()
    affine: np.ndarray | None = None
    modality: str = "unknown"
    role: str = ""
    split_by: str = ""
    spacing_source: str = "header"
    oriented: bool = True
    status: str = "ok"
    reason: str = ""


def assemble(headers: Sequence[Header]) -> list[Stack]:
    """Stacks of all headers, sorted; every header is in exactly one of them."""
    groups: dict[tuple[object, ...], list[Header]] = {}
    stacks = []
    parts = {header.path.parent / name for header in headers for name in header.parts}
    for header in sorted(headers, key=lambda h: str(h.path)):
        if header.path in parts:
            stacks.append(_left_out([header], "PART_OF_SCAN"))
        elif header.kind != "dicom":
            stacks.append(_file_stack(header))
        elif header.sop_class_uid in PICTURE_SOPS:
            stacks.append(_picture(header))
        else:
            alone = (header.concatenation or str(header.path)) if header.modality == "OPT" else ""
            key = (header.study_uid, header.series_uid, header.frame_of_reference, header.rows, header.columns,
                   header.sop_class_uid, alone)  # fmt: skip
            groups.setdefault(key, []).append(header)
    for group in groups.values():
        stacks.extend(_series(group))
    return sorted(stacks, key=lambda stack: str(stack.headers[0].path))


def _file_stack(header: Header) -> Stack:
    nowhere = header.kind in ("nifti", "itk") and not header.oriented and header.shape[2] > 1
    return Stack(
        headers=(header,), shape=header.shape, affine=np.reshape(header.affine, (4, 4)), modality=header.modality,
        spacing_source=header.spacing_source, oriented=header.oriented, status="warn" if nowhere else "ok",
        reason="XFORM_UNKNOWN" if nowhere else "",
    )  # fmt: skip


def _left_out(headers: Sequence[Header], reason: str, split_by: str = "") -> Stack:
    return Stack(
        headers=tuple(headers), modality=headers[0].modality, split_by=split_by, status="excluded", reason=reason
    )


def _picture(header: Header) -> Stack:
    """A radiograph."""
    if header.n_frames > 1:
        return _left_out([header], "NDIM")
    row, column = header.pixel_spacing or (1.0, 1.0)
    return Stack(
        headers=(header,), shape=(header.columns, header.rows, 1), affine=np.diag([column, row, 1.0, 1.0]),
        modality=header.modality, spacing_source=header.spacing_source, oriented=False,
    )  # fmt: skip


def _series(headers: list[Header]) -> list[Stack]:
    if len({header.patient_id for header in headers}) > 1:
        return [_left_out(headers, "PATIENT_CONFLICT")]
    stacks = []
    known: dict[str, Header] = {}
    for header in headers:
        if header.sop_uid and header.sop_uid in known:
            same = header.path.read_bytes() == known[header.sop_uid].path.read_bytes()
            if not same:
                return [_left_out(headers, "DUP_UID_CONFLICT")]
            stacks.append(_left_out([header], "DUP_INSTANCE"))
        else:
            known[header.sop_uid or str(header.path)] = header
    for uid in sorted(incomplete(list(known.values()))):
        parts = [name for name, header in known.items() if header.concatenation == uid]
        stacks.append(_left_out([known.pop(name) for name in parts], "CONCATENATION_INCOMPLETE"))
    slices = [one for header in known.values() for one in slices_of(header)]
    if slices:
        found = [_raster(slices)] if slices[0].modality == "OPT" else _by_orientation(slices)
        stacks += [replace(stack, headers=joined(stack.headers)) for stack in found]
    return stacks


def _raster(scans: list[Header]) -> Stack:
    """An OCT raster: I along the B-scan, J over the B-scans, K into the depth; the world is the scanner's.

    Where each B-scan begins further aside than the one before, J is at no right angle to I.
    """
    if any(scan.position is None for scan in scans):
        scans = located(scans)
    if len(alike(scans)) != 1 or any(map(is_lost, scans)):
        return _left_out(scans, "OCT_NON_RASTER")
    stack = _validated(scans, "", 2)
    if stack.affine is None:
        return _left_out(scans, "OCT_NON_RASTER")
    lengths = np.linalg.norm(stack.affine[:3, :3], axis=0)
    x, y = (stack.affine[:3, axis] / lengths[axis] for axis in (0, 1))
    offset, affine = stack.affine[:3, 2], np.diag([*lengths[[0, 2, 1]], 1.0])
    if stack.reason == "GANTRY_TILT":
        aside, deeper = offset @ x, offset @ y
        affine[:3, 1] = aside, np.sqrt(lengths[2] ** 2 - aside**2 - deeper**2), deeper
    return replace(stack, shape=(scans[0].columns, len(scans), scans[0].rows), affine=affine, oriented=False)


def _by_orientation(headers: list[Header]) -> list[Stack]:
    lost = list(filter(is_lost, headers))
    groups = alike(headers)
    stacks = [_left_out(lost, "BAD_GEOMETRY")] if lost else []
    split_by = "orientation" if len(groups) > 1 else ""
    fewest = FEWEST_OF_SEVERAL_ORIENTATIONS if split_by else FEWEST_SLICES
    for group in groups:
        stacks.extend(_by_tags(group, split_by, fewest))
    return stacks


def _by_tags(headers: list[Header], split_by: str, fewest: int) -> list[Stack]:
    """One stack when no position repeats; else the fewest tags that make volumes of the slices.

    Where no tags do so without a remainder, the fewest that tell the slices at each position apart: one of the volumes
    lacks a slice, the others are kept.
    """
    if not is_sound(headers[0]) or not repeats(along_normal(headers)):
        whole = _with_role(_validated(headers, split_by, fewest))
        if whole.status != "excluded" or len({header.stack for header in headers}) == 1:
            return [whole]
        # Stacks of one file that lie beside each other; those that continue each other are one volume.
        apart = _parted(headers, {"stack": [header.stack for header in headers]}, split_by, fewest)
        return apart if any(stack.status != "excluded" for stack in apart) else [whole]
    partly: list[Stack] = []
    said = {name: [str(of(header)) for header in headers] for name, of in SPLITS.items()}
    telling = [name for name, words in said.items() if len(set(words)) > 1]
    for count in range(1, MOST_SPLITS + 1):
        for names in combinations(telling, count):
            stacks = _parted(headers, {name: said[name] for name in names}, split_by, fewest)
            kept = [stack for stack in stacks if stack.status != "excluded"]
            if kept and len(kept) == len(stacks):
                return stacks
            if kept and not partly:
                partly = stacks
    return partly or [_left_out(headers, "AMBIGUOUS_STACK", split_by)]


def _parted(headers: list[Header], said: dict[str, list[str]], split_by: str, fewest: int) -> list[Stack]:
    """A stack for each set of what slices say; none where positions still repeat, or where no part is large enough."""
    parts: dict[tuple[str, ...], list[Header]] = {}
    for header, words in zip(headers, zip(*said.values(), strict=True), strict=True):
        parts.setdefault(words, []).append(header)
    if max(map(len, parts.values())) < fewest or any(repeats(along_normal(part)) for part in parts.values()):
        return []
    label = "+".join(filter(None, [split_by, *said]))
    return [_with_role(_validated(part, label, fewest)) for _, part in sorted(parts.items())]


def _with_role(stack: Stack) -> Stack:
    return replace(stack, role=role_of(stack.headers)) if stack.status != "excluded" else stack


def _validated(headers: Sequence[Header], split_by: str, fewest: int) -> Stack:
    """The stack in order along the normal with its affine, or left out with the reason."""
    first = headers[0]
    cosines = np.array(first.orientation)
    x, y = cosines[:3], cosines[3:]
    row, column = first.pixel_spacing or (0.0, 0.0)
    if not is_sound(first):
        return _left_out(headers, "BAD_GEOMETRY", split_by)
    if len(headers) < fewest:
        single = "SINGLE_SLICE" if len(headers) == 1 and not split_by else "LOCALIZER_OR_TOO_FEW"
        return _left_out(headers, single, split_by)
    normal = np.cross(x, y)
    order = sorted(headers, key=lambda header: float(np.dot(header.position or (), normal)))
    places = np.array([header.position for header in order])
    gaps = np.diff(places @ normal)
    step = float(np.percentile(gaps, 50, method="lower"))  # of two middle gaps, one could be the missing slice's
    if step < SAME_POSITION_MM:
        return _left_out(headers, "AMBIGUOUS_STACK", split_by)
    if np.abs(gaps / step - 1).max() > SLICE_GAP_TOLERANCE:
        multiples = gaps / step
        whole = np.abs(multiples - np.round(multiples)).max() < 2 * SLICE_GAP_TOLERANCE * multiples.max()
        return _left_out(order, "MISSING_SLICE" if whole else "NONUNIFORM_SPACING", split_by)
    offset = (places[-1] - places[0]) / (len(order) - 1)
    line = places[0] + np.arange(len(order))[:, None] * offset
    across = (places - line) - np.outer((places - line) @ normal, normal)
    if np.linalg.norm(across, axis=1).max() > ASIDE_PIXELS * min(row, column):
        return _left_out(order, "BAD_GEOMETRY", split_by)
    tilt = np.degrees(np.arccos(min(1.0, float(offset @ normal / np.linalg.norm(offset)))))
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2], lps[:3, 3] = x * column, y * row, offset, places[0]
    tilted = tilt > TILT_DEGREES
    return Stack(
        headers=tuple(order), shape=(first.columns, first.rows, len(order)), affine=np.diag([-1.0, -1, 1, 1]) @ lps,
        modality=first.modality, split_by=split_by, spacing_source=first.spacing_source, oriented=first.oriented,
        status="warn" if tilted else "ok", reason="GANTRY_TILT" if tilted else "",
    )  # fmt: skip
