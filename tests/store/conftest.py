"""Small cohorts written by hand, so that a test decides what each row and each file says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import google_crc32c
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
"""LPS with thick slices: prepared volumes have other axes and another spacing."""


class Clinic:
    """An archive of NIfTI files and the cohort that an index of it would give."""

    def __init__(self, folder: Path) -> None:
        self.archive, self.cohort, self.store = folder / "archive", folder / "cohort", folder / "store"
        self.rows: list[dict[str, object]] = []
        self.files: list[dict[str, object]] = []
        self.archive.mkdir()

    def scan(
        self,
        name: str,
        *,
        modality: str = "MR",
        voxels: np.ndarray | None = None,
        affine: np.ndarray = AFFINE,
        **told: object,
    ) -> str:
        """The id of a volume added; its file holds `voxels`, a bright ball in noise by default."""
        voxels = ball(seed=len(self.rows)) if voxels is None else voxels
        path = self.archive / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(voxels, affine), path)
        volume_id = hashlib.sha256(path.read_bytes() + name.encode()).hexdigest()[:26]
        row = {
            "volume_id": volume_id,
            "series_pid": f"s{name}",
            "study_pid": f"t{name}",
            "patient_pid": f"p{name}",
            "split": "train",
            "modality": modality,
            "role": "",
            "site": "north",
            "scanner": "x",
            "shape": list(voxels.shape),
            "spacing": np.linalg.norm(affine[:3, :3], axis=0).tolist(),
            "affine": affine.ravel().tolist(),
            "orientation": "LPS",
            "spacing_source": "header",
            "age_years": 40.0,
            "has_mask": False,
            "status": "ok",
            "reason": "",
        }
        self.rows.append(row | told)
        crc = google_crc32c.value(path.read_bytes())
        self.files.append({"volume_id": volume_id, "order": 0, "path": path.name, "crc32c": crc, "mask_path": ""})
        return volume_id

    def mask(self, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> None:
        """Nothing; the last scan has this label map."""
        name = f"mask_{self.files[-1]['path']}"
        nib.save(nib.Nifti1Image(voxels, affine), self.archive / name)
        self.files[-1]["mask_path"] = name
        self.rows[-1]["has_mask"] = True

    def write(self) -> Path:
        """The cohort's folder, with its tables as they are now."""
        volumes = pd.DataFrame(self.rows)
        pids = volumes["patient_pid"].drop_duplicates()
        patients = pd.DataFrame({"patient_pid": pids, "sex": "F", "race": "unknown", "site": "north", "split": "train"})
        labels = pd.DataFrame({"volume_id": volumes["volume_id"], "name": "big", "value": 1.0, "source": "card"})
        (self.cohort / "phi").mkdir(parents=True, exist_ok=True)
        tables = {"volumes": volumes, "patients": patients, "labels": labels, "instances": volumes[["series_pid"]]}
        for name, table in tables.items():
            table.to_parquet(self.cohort / f"{name}.parquet")
        pd.DataFrame(self.files).assign(archive=str(self.archive)).to_parquet(self.cohort / "phi" / "sources.parquet")
        (self.cohort / "receipt.json").write_text('{"tables": {}}')
        return self.cohort


def ball(shape: tuple[int, int, int] = (20, 24, 16), seed: int = 0) -> np.ndarray:
    """A bright ball in noise, int16."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    inside = np.linalg.norm(grid - np.array(shape) / 2, axis=-1) < 5
    return (inside * 300 + np.random.default_rng(seed).normal(100, 10, shape)).astype(np.int16)


def sign(store: Path) -> None:
    """Nothing; store.json has the checksums of the tables as they are now, whoever changed them."""
    told = json.loads((store / "store.json").read_text())
    told["tables"] = {name: f"{google_crc32c.value((store / name).read_bytes()):08x}" for name in told["tables"]}
    (store / "store.json").write_text(json.dumps(told))


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    return Clinic(tmp_path)
