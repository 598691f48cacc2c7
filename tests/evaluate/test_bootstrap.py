"""The bootstrap over patients against scipy, scikit-learn and plain resampling."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, brier_score_loss

from medssl.evaluate import average_precision, brier, sensitivity, specificity
from medssl.evaluate.bootstrap import bootstrap_interval, weighted_average_precision, weighted_mean, weights
from medssl.evaluate.intervals import error_interval, precision_interval
from medssl.evaluate.metrics import measure_brier


def test_every_replicate_draws_as_many_patients_as_there_are():
    drawn = np.concatenate(list(weights(30, 150)), axis=1)
    assert drawn.shape == (30, 150)
    assert (drawn.sum(0) == 30).all()
    assert drawn.mean(1) == pytest.approx(np.ones(30), abs=0.35)
    assert np.array_equal(drawn, np.concatenate(list(weights(30, 150)), axis=1))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([0.1, 0.3, 0.5, 0.9]), st.integers(0, 5)), min_size=3, max_size=30
    )
)
def test_weighted_precision_equals_scikit_learn_with_ties_and_undrawn_patients(rows):
    truth, score, patient = (np.array(column) for column in zip(*rows, strict=True))
    weight = np.array([[0, 2, 1, 0, 3, 1], [1, 1, 1, 1, 1, 1]], float).T
    found = weighted_average_precision(truth.astype(float), score, patient)(weight)
    for column, value in enumerate(found):
        row_weight = weight[patient, column]
        if row_weight[truth].sum() == 0:
            assert math.isnan(value)
        else:
            assert value == pytest.approx(average_precision_score(truth, score, sample_weight=row_weight))
    if truth.any():
        assert found[1] == pytest.approx(average_precision(truth=truth.astype(float), score=score))


def test_the_interval_of_a_mean_is_scipys_bca():
    values = np.random.default_rng(4).exponential(size=80)
    low, high = bootstrap_interval(float(values.mean()), weighted_mean(values), 80)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=8000, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.03)
    assert high - values.mean() > values.mean() - low  # the long tail is on the right


def test_entering_every_patient_twice_gives_the_same_precision_interval():
    rng = np.random.default_rng(0)
    truth = (np.arange(90) < 30).astype(float)
    score = rng.normal(size=90) + truth
    once = precision_interval(truth, score, np.arange(90))
    twice = precision_interval(np.tile(truth, 2), np.tile(score, 2), np.tile(np.arange(90), 2))
    assert twice[:2] == pytest.approx(once[:2])
    assert once[0] < average_precision(truth=truth, score=score) < once[1]


def test_too_few_positives_get_no_precision_interval():
    truth = (np.arange(50) < 9).astype(float)
    low, high, method = precision_interval(truth, truth + np.arange(50) % 3, np.arange(50))
    assert math.isnan(low)
    assert math.isnan(high)
    assert "fewer than 10 patients" in method


def test_a_class_that_is_often_drawn_empty_gives_no_interval():
    found = weighted_average_precision(np.r_[1.0, np.zeros(9)], np.arange(10.0), np.arange(10))
    assert all(math.isnan(end) for end in bootstrap_interval(0.1, found, 10))


def test_brier_and_its_interval():
    truth, score = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.9, 0.2, 0.4, 0.4])
    assert brier(truth=truth, score=score) == pytest.approx(brier_score_loss(truth, score))
    measured = measure_brier(truth, score, np.arange(4), 4)
    squares = np.square(score - truth)
    low, high, _ = error_interval(measured)
    expected = stats.t.interval(0.95, 3, squares.mean(), squares.std(ddof=1) / 2)
    assert (low, high) == pytest.approx((max(0.0, expected[0]), expected[1]))


def test_sensitivity_and_specificity_are_counts_and_nan_for_one_class():
    truth, score = np.array([1.0, 1.0, 0.0, 0.0, 0.0]), np.array([0.5, 0.4, 0.5, 0.1, 0.2])
    assert sensitivity(truth=truth, score=score, threshold=0.5) == 0.5
    assert specificity(truth=truth, score=score, threshold=0.5) == pytest.approx(2 / 3)
    assert math.isnan(sensitivity(truth=truth[2:], score=score[2:], threshold=0.5))
    assert math.isnan(specificity(truth=truth[:2], score=score[:2], threshold=0.5))


@pytest.mark.slow
def test_precision_intervals_cover_the_truth():
    """40 positive and 120 negative patients; the bootstrap runs a little short, 91 to 97 of 100 is what we accept."""
    rng, held, draws = np.random.default_rng(2), 0, 250
    many = (np.arange(400_000) % 4 == 0).astype(float)
    true = average_precision(truth=many, score=rng.normal(size=400_000) + 1.3 * many)
    truth = (np.arange(160) < 40).astype(float)
    for _ in range(draws):
        low, high, _ = precision_interval(truth, rng.normal(size=160) + 1.3 * truth, np.arange(160))
        held += low <= true <= high
    assert 0.91 <= held / draws <= 0.98
