"""Intensities against closed forms; what was not measured has no say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.store.normalise import normalise
from medssl.store.reasons import REASONS
from medssl.volume import Volume


def volume(values, modality, valid=None):
    values = np.asarray(values)
    return Volume(values.reshape(1, 1, 1, -1), np.eye(4), modality=modality, valid=valid)


def of(values, modality, **how):
    return normalise(volume(values, modality), **how).voxels.ravel()


def test_ct_window_is_absolute():
    assert of([-2000, -1000, 0, 40, 500, 1000, 3000], "CT") == pytest.approx([-1, -1, 0, 0.04, 0.5, 1, 1])
    assert of([-160, 40, 240, 999], "CT", ct_window=(-160.0, 240.0)) == pytest.approx([-1, 0, 1, 1])


def test_mr_is_a_robust_z_score_of_the_foreground():
    """Air at 0; tissue evenly from 100 to 300: median 200, quartiles 150 and 250, percentiles 101 and 299."""
    tissue = np.linspace(100, 300, 20001)
    scale = normalise(volume([*np.zeros(30000), *tissue], "MR")).scale
    assert (scale.low, scale.offset, scale.high) == pytest.approx((101, 200, 299), abs=0.02)
    assert scale.scale == pytest.approx(100 / 1.349, rel=1e-3)
    there = of([*np.zeros(30000), *tissue], "MR")
    assert there[:30000] == pytest.approx((101 - 200) / (100 / 1.349), abs=1e-3)
    assert there.max() == pytest.approx((299 - 200) / (100 / 1.349), abs=1e-3)


def test_a_normal_foreground_gets_mean_0_and_standard_deviation_1(rng):
    there = of(rng.normal(1000, 50, 100_000), "MR", clip_percentiles=(0.0, 100.0))
    assert (there.mean(), there.std()) == pytest.approx((0, 1), abs=0.02)


@settings(max_examples=40, deadline=None)
@given(gain=st.floats(1e-3, 1e4), share=st.floats(0, 0.9))
def test_the_gain_of_an_mr_scanner_does_not_matter(gain, share):
    rng = np.random.default_rng(0)
    values = np.where(rng.random(4000) < share, 0, rng.gamma(8, 10, 4000))
    assert np.allclose(of(values * gain, "MR"), of(values, "MR"), atol=1e-3)


def test_dark_tissue_is_not_taken_for_air(rng):
    """A crop without air: most of it at 100, a bright tenth at 400. Both keep their contrast."""
    values = np.r_[rng.normal(100, 10, 9000), rng.normal(400, 10, 1000)]
    there = of(values, "MR")
    assert np.corrcoef(there[:9000], values[:9000])[0, 1] > 0.99
    assert there[:9000].std() == pytest.approx(1, abs=0.15)


def test_mr_outliers_do_not_move_the_rest(rng):
    values = rng.normal(100, 10, 20_000)
    spiked = values.copy()
    spiked[:20] = 1e6
    assert np.abs(of(spiked, "MR")[20:] - of(values, "MR")[20:]).max() < 0.15


@pytest.mark.parametrize("values", [[0] * 999 + [5], [0] * 500 + [7] * 500, [3] * 1000 + [2], [1, 1, 1, 1.000001]])
def test_mr_of_few_values_stays_finite_and_in_order(values):
    there = of(np.array(values, np.float64), "MR")
    assert np.isfinite(there.astype(np.float16)).all()
    assert there.min() < there.max()
    assert (np.diff(there[np.argsort(values)]) >= 0).all()


@pytest.mark.parametrize("modality", ["OPT", "DX", "CR"])
def test_pictures_go_to_0_and_1(modality, rng):
    assert of([0, 51, 255], modality, stored_range=(0.0, 255.0)) == pytest.approx([0, 0.2, 1])
    values = np.linspace(-7, 13, 2001)
    there = of(values, modality)
    low, high = np.percentile(values, (0.5, 99.5))
    assert there == pytest.approx(np.clip((values - low) / (high - low), 0, 1), abs=1e-6)


@pytest.mark.parametrize("modality", ["CT", "MR", "OPT", "DX"])
@pytest.mark.parametrize("junk", [0.0, -3024.0, 1e9, np.nan, np.inf])
def test_what_was_not_measured_has_no_say_and_gets_the_lowest_value(modality, junk, rng):
    values = rng.uniform(10, 200, 5000)
    alone = normalise(volume(values, modality))
    valid = np.r_[np.ones(5000, bool), np.zeros(3000, bool)].reshape(1, 1, -1)
    padded = normalise(volume(np.r_[values, np.full(3000, junk)], modality, valid))
    assert np.array_equal(padded.voxels[..., :5000], alone.voxels)
    assert np.all(padded.voxels[..., 5000:] == padded.voxels.min())
    assert padded.scale == alone.scale
    assert padded.measured.valid_fraction == 5000 / 8000
    assert padded.measured.mean == alone.measured.mean
    lowest = {"CT": -1.0, "OPT": 0.0, "DX": 0.0}
    assert padded.voxels.min() == lowest.get(modality, alone.voxels.min())


def test_not_a_number_is_not_measured_even_without_a_mask(rng):
    values = rng.uniform(10, 200, 500)
    there = normalise(volume(np.r_[values, np.nan], "MR"))
    assert np.array_equal(there.voxels.ravel()[:-1], of(values, "MR"))
    assert there.measured.valid_fraction == 500 / 501


@pytest.mark.parametrize("modality", ["CT", "MR", "OPT", "DX"])
@pytest.mark.parametrize(
    ("values", "valid", "reason"),
    [
        (np.full(64, 42.0), np.ones(64, bool), "CONSTANT_IMAGE"),
        (np.arange(64.0), np.zeros(64, bool), "NO_VALID_VOXELS"),
        (np.full(64, np.nan), np.ones(64, bool), "NO_VALID_VOXELS"),
        (np.arange(64.0), np.arange(64) == 3, "CONSTANT_IMAGE"),
    ],
)
def test_an_image_of_nothing_has_a_reason(modality, values, valid, reason):
    there = normalise(volume(values, modality, valid.reshape(1, 1, -1)))
    assert there.reason == reason
    assert reason in REASONS
    assert not there.voxels.any()
    assert np.isnan(there.scale.scale)


def test_facts_are_of_the_values_before(rng):
    values = rng.normal(60, 8, 10_000).astype(np.float32)
    facts = normalise(volume(values, "CT")).measured
    assert facts.mean == pytest.approx(values.mean(dtype=np.float64))
    assert facts.std == pytest.approx(values.std(dtype=np.float64))
    assert (facts.p0_5, facts.p99_5) == pytest.approx(tuple(np.percentile(values, (0.5, 99.5))))
    assert facts.valid_fraction == 1


def test_the_scale_undoes_it(rng):
    values = rng.uniform(-900, 900, 1000)
    there = normalise(volume(values, "CT"))
    assert np.allclose(there.voxels.ravel() * there.scale.scale + there.scale.offset, values, atol=1e-3)
