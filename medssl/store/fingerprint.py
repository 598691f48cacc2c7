"""What a store's volumes are like: sizes, voxels and intensities by modality and site, gathered while preparing.

No pixel is read again: every number comes from the store's table, which holds what was measured of each volume.
Percentiles are over volumes. Means and standard deviations of intensities are over all measured voxels, pooled from
each volume's own; intensities are before normalisation, in the volume's unit. Axes are those of the prepared volumes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nibabel.orientations import io_orientation

from medssl.store.tables import Facts, read_tables

AT = (0, 10, 50, 90, 100)
"""Percentiles that describe a distribution over volumes."""

DIGITS = 6
"""Significant digits that are kept, so that the last bit of a sum is no difference."""


def fingerprint(store: Path | str) -> Facts:
    """What the volumes of a store are like, by DICOM modality code; equal for equal stores, ready for JSON.

    An empty store gives no modality. Raises what `open_store` raises.
    """
    return described(read_tables(Path(store))[0], Path(store))


def described(volumes: pd.DataFrame, store: Path) -> Facts:
    """The fingerprint from the table of volumes, of which `store` has the arrays."""
    table = volumes[volumes["status"] != "excluded"].sort_values("volume_id")
    rows = [_row(facts, store) for facts in table.to_dict("records")]
    modalities = sorted({row["modality"] for row in rows})
    return {"format": 1, "modalities": {m: _modality([r for r in rows if r["modality"] == m]) for m in modalities}}


def _row(facts: dict[Any, Any], store: Path) -> Facts:
    """What of a volume's row the fingerprint is made of; its source's axes in the order of the prepared ones."""
    shape, spacing = source_extent(facts)
    folder = store / "arrays" / facts["volume_id"]
    return {
        "modality": facts["modality"],
        "site": facts["site"],
        "patient": facts["patient_pid"],
        "shape": shape,
        "spacing": spacing,
        "prepared_shape": np.array(facts["prepared_shape"], dtype=float),
        "prepared_spacing": np.array(facts["prepared_spacing"], dtype=float),
        "channels": int(facts["channels"]),
        "bytes": sum(file.stat().st_size for file in sorted(folder.rglob("*")) if file.is_file()),
        "has_mask": bool(facts["has_mask"]),
        "intensities": _intensities(facts),
    }


def source_extent(facts: Mapping[Any, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Shape and spacing (3,) of the source of a prepared volume, whose row is given; its axes in the order of the prepared
    ones.
    """
    order = io_orientation(_directions(facts["affine"]).T @ _directions(facts["prepared_affine"]))[:, 0].astype(int)
    return np.array(facts["shape"], dtype=float)[order], np.array(facts["spacing"], dtype=float)[order]


def _directions(affine: Sequence[float]) -> np.ndarray:
    """A 4x4 matrix whose first three columns point along the axes I, J, K in the world."""
    there = np.array(affine, dtype=float).reshape(4, 4)
    there[:3, :3] /= np.linalg.norm(there[:3, :3], axis=0)
    there[:3, 3] = 0
    return there


def _intensities(facts: dict[Any, Any]) -> list[Facts]:
    """Name, unit, number of voxels and measured values of each channel."""
    several = facts.get("channel_facts")
    parts = [facts | {"role": facts["role"] or "image"}] if several is None else list(several)
    voxels = float(np.prod(facts["prepared_shape"]))
    kept = ("mean", "std", "p0_5", "p99_5")
    return [
        {"name": part["role"], "n": voxels * part["valid_fraction"], **{k: part[k] for k in kept}} for part in parts
    ]


def _modality(rows: list[Facts]) -> Facts:
    sites = sorted({row["site"] for row in rows})
    return {
        **_group(rows),
        "channels": sorted({row["channels"] for row in rows}),
        "with_mask": sum(row["has_mask"] for row in rows),
        "sites": {site: _group([row for row in rows if row["site"] == site]) for site in sites},
    }


def _group(rows: list[Facts]) -> Facts:
    def axes(name: str) -> list[list[float]]:
        return [_percentiles([row[name][axis] for row in rows]) for axis in range(3)]

    names = sorted({part["name"] for row in rows for part in row["intensities"]})
    return {
        "volumes": len(rows),
        "patients": len({row["patient"] for row in rows}),
        "bytes": sum(row["bytes"] for row in rows),
        "percentiles": list(AT),
        "spacing_mm": axes("spacing"),
        "shape": axes("shape"),
        "anisotropy": _percentiles([_anisotropy(row) for row in rows]),
        "prepared_spacing_mm": axes("prepared_spacing"),
        "prepared_shape": axes("prepared_shape"),
        "intensity": {
            name: _pooled([p for r in rows for p in r["intensities"] if p["name"] == name]) for name in names
        },
    }


def _anisotropy(row: Facts) -> float:
    """Coarsest over finest voxel size, of axes that have more than one voxel."""
    sizes = row["spacing"][row["shape"] > 1]
    return float(sizes.max() / sizes.min()) if sizes.size else 1.0


def _pooled(parts: list[Facts]) -> Facts:
    """Mean and standard deviation over the voxels of all volumes; the range's two ends over volumes."""
    n, mean, std = (np.array([part[key] for part in parts]) for key in ("n", "mean", "std"))
    whole = float((n * mean).sum() / n.sum())
    spread = float(np.sqrt((n * (std**2 + (mean - whole) ** 2)).sum() / n.sum()))
    of: Callable[[str], list[float]] = lambda key: _percentiles([part[key] for part in parts])  # noqa: E731
    return {"mean": _rounded(whole), "std": _rounded(spread), "p0_5": of("p0_5"), "p99_5": of("p99_5")}


def _percentiles(values: list[float]) -> list[float]:
    return [_rounded(float(value)) for value in np.percentile(values, AT)]


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
