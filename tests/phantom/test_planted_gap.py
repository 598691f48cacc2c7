"""The planted subgroup effect can be measured: on the truth (fast) and on written files with a simple model (slow)."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from scipy.ndimage import gaussian_filter

from medssl.phantom import PhantomSettings, people, write_archive
from medssl.phantom.eye import oct_eye


def auroc(label: np.ndarray, score: np.ndarray) -> float:
    """Share of (sick, well) pairs in which the sick one scores higher."""
    sick, well = score[label == 1][:, None], score[label == 0][None]
    return float((sick > well).mean() + 0.5 * (sick == well).mean())


def ring(number: int, severity: float, muted: bool) -> float:
    """Ring thickness of one invented patient."""
    rng = np.random.default_rng([77, number])
    thickness = float(np.exp(rng.normal(0, 0.09)))
    return oct_eye(rng, severity, muted=muted, thickness=thickness)[1].ring_rnfl_um


@pytest.mark.parametrize(("muted", "low", "high"), [(False, 0.85, 0.99), (True, 0.50, 0.80)])
def test_the_true_thickness_separates_worse_in_the_muted_group(muted: bool, low: float, high: float) -> None:
    severity = np.concatenate([np.zeros(40), np.linspace(0.25, 1, 40)])
    rings = np.array([ring(n, s, muted) for n, s in enumerate(severity)])
    assert low < auroc((severity > 0).astype(int), -rings) < high


def eyes(folder: Path) -> tuple[np.ndarray, list[str]]:
    """All OCT volumes of an archive, row 0 inferior, and their patient ids."""
    volumes, ids = [], []
    for path in sorted((folder / "oct_npz").iterdir()):
        with np.load(path, allow_pickle=False) as content:
            volumes.append(content["oct_bscans"])
        ids.append(path.stem.split("_")[0])
    for path in sorted(folder.glob("pacs/FAKE-E*/*/*/*.dcm")):
        image = pydicom.dcmread(path)
        upwards = image.ManufacturerModelName != "Gamma OCT"
        volumes.append(image.pixel_array if upwards else image.pixel_array[::-1])
        ids.append(str(image.PatientID))
    return np.stack(volumes).astype(np.float32), ids


def aligned_profiles(volumes: np.ndarray) -> np.ndarray:
    """Mean depth profile below the retina's surface in a ring around the disc, each of mean 0 and deviation 1."""
    smooth = np.stack([gaussian_filter(volume, (1, 1.5, 2)) for volume in volumes])
    surface = np.argmax(np.diff(smooth, axis=2)[:, :, 5:70], axis=2) + 5
    index = np.clip(surface[:, :, None] + np.arange(-4, 36)[None, None, :, None], 0, volumes.shape[2] - 1)
    columns = np.take_along_axis(volumes, index, axis=2).transpose(0, 2, 1, 3)
    up = ((np.arange(24) + 0.5) / 4 - 3)[:, None]
    across = ((np.arange(64) + 0.5) * 6 / 64 - 3)[None]
    radius = np.hypot(up, across)
    profile = columns[:, :, (radius > 1.1) & (radius < 2.6)].mean(-1)
    return (profile - profile.mean(1, keepdims=True)) / profile.std(1, keepdims=True)


def out_of_fold_scores(features: np.ndarray, label: np.ndarray, ids: list[str]) -> np.ndarray:
    """Scores of a logistic regression for patients it was not fitted on."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(PCA(20, random_state=0), LogisticRegression(C=0.1, max_iter=2000))
    return cross_val_predict(model, features, label, groups=ids, cv=GroupKFold(10), method="decision_function")


@pytest.mark.slow
@pytest.mark.parametrize("planted", [True, False])
def test_a_simple_model_on_the_files_finds_the_gap_and_no_other(tmp_path: Path, planted: bool) -> None:
    settings = PhantomSettings(
        prostate_patients=0, chest_patients=0, xray_patients=0, head_patients=0, planted_gap=planted
    )
    write_archive(tmp_path / "archive", settings)
    volumes, ids = eyes(tmp_path / "archive")
    known = {person.patient_id: person for person in people("eye", settings.eye_patients, settings.seed)}
    label, race, sex = (np.array([getattr(known[i], name) for i in ids]) for name in ("affected", "race", "sex"))
    score = out_of_fold_scores(aligned_profiles(volumes), label, ids)
    black, others = (auroc(label[m], score[m]) for m in (race == "Black", race != "Black"))
    women, men = (auroc(label[m], score[m]) for m in (sex == "F", sex == "M"))
    assert abs(women - men) < 0.08
    if planted:
        assert 0.80 < auroc(label, score) < 0.93
        assert 0.55 < black < 0.76 and others - black > 0.15
    else:
        assert abs(others - black) < 0.08
