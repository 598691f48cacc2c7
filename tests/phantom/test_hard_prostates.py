"""Lesions that hardly show, and benign nodules that look like one: how hard the phantom is is set, and the rest stays."""

import numpy as np
import pytest

from medssl.errors import UserError
from medssl.phantom import PhantomSettings, prostate
from medssl.phantom.cohort import people

AFFINE, SHAPE = np.diag([1.5, 1.5, 3.5, 1.0]), (64, 64, 16)
AFFINE[:3, 3] = -AFFINE[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
POINTS = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1) @ AFFINE[:3, :3].T + AFFINE[:3, 3]


def seen(anatomy, column: int, middle: np.ndarray, radius: float) -> tuple[float, float]:
    """A property of the tissue in the core of a ball, and in a shell around it."""
    value = prostate._paint(anatomy, POINTS, column, 0.0)
    away = np.linalg.norm(POINTS - middle, axis=-1)
    return float(value[away < 0.6 * radius].mean()), float(value[(away > radius + 2) & (away < radius + 5)].mean())


@pytest.mark.parametrize("seed", range(4))
def test_what_is_asked_for_changes_nothing_else(seed):
    plain = prostate.pelvis(np.random.default_rng(seed), True)
    hard = prostate.pelvis(np.random.default_rng(seed), True, faintest=0.3, clearest=0.5, mimics=True)
    for name in ("gland", "gland_radii", "zone", "lesion", "lesion_mm", "rectum_mm", "body", "seed", "mimic"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(hard, name))
    assert plain.shows == 1 and 0.3 <= hard.shows <= 0.5 and plain.mimic_mm == 0


def test_a_faint_lesion_differs_less_from_what_is_around_it():
    full = prostate.pelvis(np.random.default_rng(1), True)
    faint = type(full)(**{**vars(full), "shows": 0.4})
    for column in (0, 1):
        inside, outside = seen(full, column, full.lesion, full.lesion_mm)
        less, _ = seen(faint, column, full.lesion, full.lesion_mm)
        assert inside < less < outside


def test_a_mimic_is_as_dark_on_the_t2w_and_hardly_so_in_diffusion_and_is_no_lesion():
    for seed in range(20):
        anatomy = prostate.pelvis(np.random.default_rng(seed), True, mimics=True)
        if anatomy.mimic_mm:
            break
    t2, adc = (seen(anatomy, column, anatomy.mimic, anatomy.mimic_mm)[0] for column in (0, 1))
    lesion_t2, lesion_adc = (seen(anatomy, column, anatomy.lesion, anatomy.lesion_mm)[0] for column in (0, 1))
    assert abs(t2 - lesion_t2) < 0.05 and adc > 1.6 * lesion_adc
    near = np.linalg.norm(POINTS - anatomy.mimic, axis=-1) < anatomy.mimic_mm
    assert not (prostate.labels(anatomy, POINTS)[near] == 2).any()
    assert np.linalg.norm(anatomy.mimic - anatomy.lesion) > anatomy.mimic_mm + anatomy.lesion_mm


def test_half_of_the_prostates_have_a_mimic_whether_sick_or_not():
    for sick in (True, False):
        found = [prostate.pelvis(np.random.default_rng(n), sick, mimics=True).mimic_mm > 0 for n in range(200)]
        assert 0.38 < np.mean(found) < 0.62


def test_severity_lies_where_it_is_asked_for_and_nobody_else_changes():
    usual, mild = people("eye", 60, 0), people("eye", 60, 0, (0.1, 0.2))
    assert all(0.1 <= one.severity <= 0.2 for one in mild if one.affected)
    assert [one.affected for one in usual] == [one.affected for one in mild]
    assert [one.row() for one in usual] == [one.row() for one in mild]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mildest": 0.0}, r"severities from 0 to 1; give 0 < mildest"),
        ({"mildest": 0.6, "worst": 0.5}, r"severities from 0\.6 to 0\.5"),
        ({"faintest": 0.6, "clearest": 0.5}, r"faintest is 0\.6 and clearest 0\.5; give"),
        ({"faintest": 0.0}, r"faintest is 0 and clearest 1; give shares above 0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        PhantomSettings(**settings)
