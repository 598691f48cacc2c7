"""A stricter world than users live in, and the small archives, cohorts and stores that tests share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def strict_world():
    """Numbers that overflow or divide by zero are errors; torch is deterministic and keeps to one thread."""
    import torch

    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real public data; the test is skipped without it."""
    folder = os.environ.get("MEDSSL_DATA")
    if not folder:
        pytest.skip("MEDSSL_DATA is not set: no real data to test on")
    return Path(folder)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


CARD = """\
name: balls
files: images/*.nii.gz
modality: MR
table: clinical.csv
key: file
columns: {file: file, patient_id: who, sex: sex, race: race, age_years: age, scanner: scanner}
labels: {big: column big}
masks: masks/{name}
splits: {train: 0.6, val: 0.15, test: 0.25}
split_seed: "3"
"""


def write_balls(folder: Path, patients: int = 32) -> Path:
    """An archive of NIfTI volumes with a bright ball in each; big balls are the disease. Two scans of some patients."""
    import nibabel as nib

    rng = np.random.default_rng(7)
    shape = (20, 24, 16)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    rows = ["file,who,sex,race,age,scanner,big"]
    for patient in range(patients):
        for visit in range(1 + patient % 3 // 2):
            big = patient % 2
            ball = np.linalg.norm(grid - rng.uniform(8, 10, 3), axis=-1) < (6 if big else 3.5)
            image = (100 * ball + rng.normal(50, 5, shape)).astype(np.float32)
            name = f"p{patient:03d}_{visit}.nii.gz"
            for kind, values in ("images", image), ("masks", ball.astype(np.uint8)):
                (folder / kind).mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(values, np.diag([1.0, 1.0, 1.5, 1.0])), folder / kind / name)
            sex = ["F", "M", ""][min(patient % 7, 2)] if patient % 7 > 4 else "FM"[patient // 2 % 2]
            rows.append(
                f"images/{name},{patient:03d},{sex},{['A', 'B'][patient // 4 % 2]},{40 + patient},s{patient % 2},{big}"
            )
    (folder / "clinical.csv").write_text("\n".join(rows) + "\n")
    (folder / "card.yaml").write_text(CARD)
    return folder


RECIPE = """\
name: balls
prepare: {mr_spacing: [1, 1, 1.5]}
data: {modality: MR}
views: {size: [16, 16, 16], turn: 5, count: 2}
trunk: {name: resenc, widths: [4, 8, 8]}
method: {rebuild: {}, contrast: {weight: 0.1, masked: true}}
pretrain: {steps: 6, batch: 2, precision: 32-true, save_every: 2, log_every: 1, picture_every: 4}
head: {name: classify, label: big}
finetune: {steps: 6, batch: 2, precision: 32-true, save_every: 2, log_every: 1}
"""


@pytest.fixture(scope="session")
def balls(tmp_path_factory) -> Path:
    """A folder with archive/, cohort/, store/ and recipe.yaml, made by the real path from files to store."""
    from medssl.manifest import index, read_card
    from medssl.recipe import make, read_recipe
    from medssl.store import Preparation, prepare

    folder = tmp_path_factory.mktemp("balls")
    archive = write_balls(folder / "archive")
    (folder / "recipe.yaml").write_text(RECIPE)
    index(archive, folder / "cohort", card=read_card(archive / "card.yaml"))
    section = read_recipe(folder / "recipe.yaml")["prepare"]
    prepare(folder / "cohort", folder / "store", settings=make(Preparation, section, "prepare"))
    return folder


VISITS_CARD = """\
name: visits
files: images/*.nii.gz
modality: OPT
table: clinical.csv
key: file
columns: {file: file, patient_id: who, age_years: age, study_date: day, laterality: side}
labels: {grows: column grows, pressure: column pressure}
splits: {train: 0.6, val: 0.15, test: 0.25}
split_seed: "3"
"""

VISITS_RECIPE = """\
name: visits
prepare: {modalities: [OPT], oct_spacing: [1, 1, 1]}
data: {modality: OPT}
views: {size: [12, 12, 12], turn: 5, intensity: {noise: 0.01}}
trunk: {name: resenc, widths: [4, 8]}
head: {name: forecast, label: grows, visits: 2, covariates: [age_years, pressure]}
finetune: {steps: 4, batch: 4, precision: 32-true, save_every: 2, log_every: 1}
"""


def write_visits(folder: Path, patients: int = 24) -> Path:
    """An archive of both eyes of each patient, at three visits a year apart, with a ball that grows in every second patient
    and is of any size; the pressure is known of two visits of three.
    """
    import nibabel as nib

    rng = np.random.default_rng(5)
    shape = (12, 12, 12)
    middle = np.linalg.norm(np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) - 5.5, axis=-1)
    (folder / "images").mkdir(parents=True)
    rows = ["file,who,age,day,side,pressure,grows"]
    for patient in range(patients):
        for side in "RL":
            size, grows = rng.uniform(2.5, 3.5), patient % 2
            for visit in range(3):
                image = (100 * (middle < size + grows * visit) + rng.normal(50, 5, shape)).astype(np.float32)
                name = f"p{patient:03d}_{side}{visit}.nii.gz"
                nib.save(nib.Nifti1Image(image, np.eye(4)), folder / "images" / name)
                pressure = "" if visit == 2 else f"{15 + patient + visit}"
                rows.append(f"images/{name},{patient:03d},{50 + patient},{2010 + visit}-01-0{patient % 9 + 1},"
                            f"{side},{pressure},{grows}")  # fmt: skip
    (folder / "clinical.csv").write_text("\n".join(rows) + "\n")
    (folder / "card.yaml").write_text(VISITS_CARD)
    return folder


@pytest.fixture(scope="session")
def visits(tmp_path_factory) -> Path:
    """A folder with archive/, cohort/, store/ and recipe.yaml of eyes that were seen three times."""
    from medssl.manifest import index, read_card
    from medssl.recipe import make, read_recipe
    from medssl.store import Preparation, prepare

    folder = tmp_path_factory.mktemp("visits")
    archive = write_visits(folder / "archive")
    (folder / "recipe.yaml").write_text(VISITS_RECIPE)
    index(archive, folder / "cohort", card=read_card(archive / "card.yaml"))
    section = read_recipe(folder / "recipe.yaml")["prepare"]
    prepare(folder / "cohort", folder / "store", settings=make(Preparation, section, "prepare"))
    return folder
