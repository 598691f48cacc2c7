import numpy as np
import pytest

from medssl.phantom.eye import DEPTH_STEP_UM, LOOK_OF_SCANNER, MUTED_EFFECT, SHAPE, oct_eye


def rings(severity: float, muted: bool = False) -> np.ndarray:
    """Ring thickness of 16 eyes that differ in nothing but their seeds."""
    return np.array([oct_eye(np.random.default_rng(n), severity, muted=muted)[1].ring_rnfl_um for n in range(16)])


@pytest.mark.parametrize("scanner", LOOK_OF_SCANNER)
def test_layers_lie_where_the_truth_says(scanner: str) -> None:
    volume, truth = oct_eye(np.random.default_rng(1), 0.0, scanner=scanner)
    assert volume.shape == SHAPE and volume.dtype == np.uint8
    depth = ((np.arange(SHAPE[1]) + 0.5) * DEPTH_STEP_UM)[None, :, None]
    away = (truth.radius_mm > 1.3)[:, None, :]
    ilm, rpe = truth.ilm_um[:, None, :], truth.rpe_um[:, None, :]
    vitreous = volume[away & (depth < ilm - 60)].mean()
    fibres = volume[away & (depth > ilm + 10) & (depth < ilm + truth.rnfl_um[:, None, :] - 10)].mean()
    epithelium = volume[away & (depth > rpe + 5) & (depth < rpe + 20)].mean()
    assert fibres > vitreous + 60 and epithelium > vitreous + 60
    assert ((volume == 0) | (volume == 255)).mean() < 0.05


def test_glaucoma_thins_by_severity_and_a_muted_eye_loses_less() -> None:
    healthy, mild, severe, muted = rings(0.0), rings(0.4), rings(1.0), rings(1.0, muted=True)
    assert healthy.mean() > mild.mean() + 5 and mild.mean() > severe.mean() + 15
    assert (healthy - muted).mean() / (healthy - severe).mean() == pytest.approx(MUTED_EFFECT, abs=0.1)


def test_a_muted_healthy_eye_is_as_thick_but_grainier() -> None:
    fine, truth = oct_eye(np.random.default_rng(0), 0.0)
    coarse, muted = oct_eye(np.random.default_rng(0), 0.0, muted=True)
    np.testing.assert_array_equal(truth.rnfl_um, muted.rnfl_um)
    grain = [np.diff(volume[:, :20].astype(float), axis=2).std() for volume in (fine, coarse)]
    assert grain[1] > 1.2 * grain[0]


def test_age_thins_slightly() -> None:
    young, old = (oct_eye(np.random.default_rng(0), 0.0, age_years=age)[1].ring_rnfl_um for age in (30, 80))
    assert old / young == pytest.approx(0.96 / 1.06, rel=1e-6)


def test_left_and_right_eyes_are_mirror_images() -> None:
    """The vessels and the thick humps bend towards the fovea: in a right eye that is the patient's right."""
    right = np.mean([oct_eye(np.random.default_rng(n), 0.0, laterality="R")[1].rnfl_um for n in range(8)], axis=0)
    left = np.mean([oct_eye(np.random.default_rng(n), 0.0, laterality="L")[1].rnfl_um for n in range(8)], axis=0)
    half = SHAPE[2] // 2
    assert right[:, :half].mean() > right[:, half:].mean() + 3
    assert left[:, half:].mean() > left[:, :half].mean() + 3


def test_the_same_generator_makes_the_same_eye() -> None:
    one, two = (oct_eye(np.random.default_rng(9), 0.5)[0] for _ in range(2))
    np.testing.assert_array_equal(one, two)
