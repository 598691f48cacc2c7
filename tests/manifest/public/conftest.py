"""Small archives in the exact layout of public data sets: names, headings, encodings; the pixels are noise."""

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medssl.manifest import index, read_card, read_cohort

CARDS = Path(__file__).parents[3] / "data_manifests"


def noise(path: Path, shape: tuple[int, ...], top: int = 200) -> np.ndarray:
    """Other pixels in each file: equal content would count as a copy."""
    return np.random.default_rng([*str(path).encode()]).integers(0, top, shape).astype(np.uint8)


def picture(path: Path, *, colour: bool = False) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(path, (8, 9, 3) if colour else (8, 9))).save(path)


def nifti(path: Path, shape: tuple[int, ...] = (4, 5, 6), top: int = 200) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(noise(path, shape, top), np.diag([1.5, 1.5, 3.0, 1.0])), path)


def mha(path: Path) -> None:
    import SimpleITK as sitk

    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(noise(path, (4, 5, 6))), str(path))


def npz(path: Path, **members: object) -> None:
    """As the Harvard sets write them: images beside scalars, all plain arrays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = {} if "rnflt" in members else {"oct_bscans": noise(path, (5, 6, 7))}
    np.savez_compressed(path, **images, **{name: np.asarray(value) for name, value in members.items()})


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


class Imported:
    """A cohort by the paths of its files: what the manifest says of each."""

    def __init__(self, archive: Path, cohort: Path, name: str) -> None:
        self.receipt = index(archive, cohort, card=read_card(CARDS / f"{name}.yaml"))
        tables = read_cohort(cohort)
        sources = pd.read_parquet(cohort / "phi" / "sources.parquet").set_index("path")
        self.paths = sources["volume_id"].to_dict()
        self.masks = sources["mask_path"].to_dict()
        self.volumes = tables.volumes.set_index("volume_id")
        self.people = tables.patients.set_index("patient_pid")
        self.labels = tables.labels

    def volume(self, path: str) -> pd.Series:
        return self.volumes.loc[self.paths[path]]

    def patient(self, path: str) -> pd.Series:
        return self.people.loc[self.volume(path)["patient_pid"]]

    def label(self, path: str) -> dict[str, float]:
        rows = self.labels[self.labels["volume_id"] == self.paths[path]]
        return dict(zip(rows["name"], rows["value"], strict=True))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    return tmp_path / "a"


@pytest.fixture
def imported(archive: Path, tmp_path: Path) -> Callable[[str], Imported]:
    """Indexes the archive with a shipped card."""
    return lambda name: Imported(archive, tmp_path / "c", name)
