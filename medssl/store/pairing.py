"""Which volumes of a study make one prepared case of several channels: T2w, ADC and high-b of biparametric prostate MR.

Decided from the cohort's table alone, before any pixel is read, so it is the same on every machine. Within a study (or
`pair_group`, where the index found one) the T2w gives the grid, the one with a label map before others; each partner is
the candidate that covers most of the T2w in mm, then has the finest voxels, then the lowest id. Every volume of the
group that does not end in a triplet has a reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medssl.store.settings import GROUPS

LEAST_OVERLAP = 0.8
"""Share of the first channel's box that a partner must cover."""

PROBES = 12
"""Points along each axis at which the overlap of two boxes is counted."""


@dataclass(frozen=True, kw_only=True)
class Partner:
    """A volume that becomes a channel of another one's case, and the share of that one's box that it covers."""

    volume_id: str
    role: str
    overlap: float


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Partners by id of the volume that gives the grid, and why the other volumes of these roles are not used."""

    partners: Mapping[str, tuple[Partner, ...]]
    left_out: Mapping[str, str]

    @property
    def absorbed(self) -> set[str]:
        """Ids of the volumes that are a channel of another one's case."""
        return {partner.volume_id for partners in self.partners.values() for partner in partners}


def pair(volumes: pd.DataFrame, group: str) -> Pairing:
    """How the cohort's `volumes` combine into cases of a `group` of GROUPS; nothing is paired for the group "".

    Volumes of other modalities or roles are in neither part of the answer.
    """
    partners: dict[str, tuple[Partner, ...]] = {}
    left_out: dict[str, str] = {}
    if group:
        roles = GROUPS[group]
        members = volumes[(volumes["modality"] == "MR") & volumes["role"].isin(roles)].sort_values("volume_id")
        for _, study in members.groupby(_keys(members), sort=True):
            _pair_study(
                [dict(zip(study.columns, row, strict=True)) for row in study.to_numpy()], roles, partners, left_out
            )
    return Pairing(partners=partners, left_out=left_out)


def _keys(members: pd.DataFrame) -> pd.Series:
    """What the volumes of one case share: the group that the index found, or the study."""
    if "pair_group" not in members:
        return members["study_pid"]
    found = members["pair_group"].fillna("").astype(str)
    return found.where(found != "", members["study_pid"])


def _pair_study(
    rows: list[dict[str, Any]], roles: tuple[str, ...], partners: dict[str, tuple[Partner, ...]], out: dict[str, str]
) -> None:
    by_role = {role: [row for row in rows if row["role"] == role and _placed(row)] for role in roles}
    if not all(by_role.values()):
        out.update({row["volume_id"]: "PAIR_INCOMPLETE" for row in rows})
        return
    best: tuple[tuple[object, ...], str, tuple[Partner, ...]] | None = None
    for first in by_role[roles[0]]:
        found = tuple(_best_partner(first, by_role[role]) for role in roles[1:])
        worst = min(partner.overlap for partner in found)
        rank = (worst < LEAST_OVERLAP, not first["has_mask"], -worst, _voxel_mm3(first), first["volume_id"])
        if best is None or rank < best[0]:
            best = rank, first["volume_id"], found
    assert best is not None
    _, chosen, found = best
    if best[0][0]:
        out.update({row["volume_id"]: "FOV_MISMATCH" for row in rows})
        return
    partners[chosen] = found
    used = {chosen, *(partner.volume_id for partner in found)}
    out.update({row["volume_id"]: "PAIR_SPARE" for row in rows if row["volume_id"] not in used})


def _placed(row: Mapping[str, Any]) -> bool:
    """Whether the volume's place in the patient is known."""
    return len(row["affine"]) == 16 and row["spacing_source"] != "unknown" and row["orientation"] != "unknown"


def _best_partner(first: Mapping[str, Any], candidates: list[dict[str, Any]]) -> Partner:
    ranked = [(-_share(first, row), _voxel_mm3(row), row["volume_id"], row["role"]) for row in candidates]
    less, _, volume_id, role = min(ranked)
    return Partner(volume_id=volume_id, role=role, overlap=-less)


def _share(first: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The overlap of two volumes; none in two frames of reference, whose millimetres do not meet."""
    frames = {frame for row in (first, other) if (frame := row.get("frame_pid"))}
    return 0.0 if len(frames) > 1 else overlap(first, other)


def _voxel_mm3(row: Mapping[str, Any]) -> float:
    return round(float(abs(np.linalg.det(_affine(row)[:3, :3]))), 6)


def _affine(row: Mapping[str, Any]) -> np.ndarray:
    return np.array(row["affine"], dtype=np.float64).reshape(4, 4)


def overlap(first: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The share of a volume's box that lies within another's, 0 to 1, counted at points of a regular grid.

    Both are rows with `shape` and `affine` (16 numbers to RAS+ mm); turned boxes count as they lie.
    """
    steps = [(np.arange(PROBES) + 0.5) / PROBES * n - 0.5 for n in first["shape"]]
    points = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 3)
    to_other = np.linalg.inv(_affine(other)) @ _affine(first)
    index = points @ to_other[:3, :3].T + to_other[:3, 3]
    inside = (index >= -0.5) & (index <= np.array(other["shape"], dtype=np.float64) - 0.5)
    return round(float(inside.all(axis=1).mean()), 4)
