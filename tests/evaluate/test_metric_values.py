"""Metrics and intervals against scikit-learn, closed forms, textbooks and slow twins."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from medssl.evaluate.intervals import auroc_interval, expit, logit, mean_interval, share_interval
from medssl.evaluate.metrics import (
    auroc,
    average_precision,
    brier,
    freedom_of,
    measure_auroc,
    measure_mean,
    measure_share,
    patient_means,
)

cases = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.1, 0.2, 0.25, 0.5, 0.7, 0.9])), min_size=4, max_size=40
).filter(lambda rows: len({label for label, _ in rows}) == 2)


def arrays(rows):
    return np.array([float(label) for label, _ in rows]), np.array([score for _, score in rows])


@given(cases)
def test_ranking_metrics_equal_scikit_learn_with_ties(rows):
    truth, score = arrays(rows)
    assert auroc(truth=truth, score=score) == pytest.approx(roc_auc_score(truth, score))
    assert average_precision(truth=truth, score=score) == pytest.approx(average_precision_score(truth, score))


@given(cases, st.randoms())
def test_order_and_monotone_rescaling_change_nothing(rows, random):
    truth, score = arrays(rows)
    order = np.array(random.sample(range(len(rows)), len(rows)))
    once = auroc(truth=truth, score=score)
    assert auroc(truth=truth[order], score=score[order]) == pytest.approx(once)
    assert auroc(truth=truth, score=score**3) == pytest.approx(once)
    assert auroc(truth=truth, score=1 - score) == pytest.approx(1 - once)


def test_one_class_has_no_ranking():
    assert math.isnan(auroc(truth=np.ones(3), score=np.arange(3.0)))
    assert math.isnan(average_precision(truth=np.zeros(3), score=np.arange(3.0)))
    assert math.isnan(measure_auroc(np.ones(3), np.arange(3.0), np.arange(3), 3).value)
    assert brier(truth=np.array([1.0, 0.0]), score=np.array([0.8, 0.4])) == pytest.approx((0.04 + 0.16) / 2)


def plain_delong(truth, score):
    """DeLong's variance by loops over all pairs."""
    positive, negative = score[truth == 1], score[truth == 0]
    wins = [[1.0 if p > n else 0.5 if p == n else 0.0 for n in negative] for p in positive]
    area = sum(map(sum, wins)) / (len(positive) * len(negative))
    rows = [sum(row) / len(negative) for row in wins]
    columns = [sum(row[j] for row in wins) / len(positive) for j in range(len(negative))]
    s10 = sum((v - area) ** 2 for v in rows) / (len(positive) - 1)
    s01 = sum((v - area) ** 2 for v in columns) / (len(negative) - 1)
    return area, s10 / len(positive) + s01 / len(negative)


def test_the_variance_is_delongs_when_every_row_is_a_patient(rng):
    truth = (np.arange(40) < 15).astype(float)
    score = np.round(rng.normal(size=40) + truth, 1)
    measured = measure_auroc(truth, score, np.arange(40), 40)
    area, variance = plain_delong(truth, score)
    assert measured.value == pytest.approx(area)
    assert measured.error**2 == pytest.approx(variance)


def test_two_eyes_of_a_patient_are_not_two_patients(rng):
    truth = (np.arange(60) < 25).astype(float)
    score = rng.normal(size=60) + truth
    once = measure_auroc(truth, score, np.arange(60), 60)
    twice = measure_auroc(np.tile(truth, 2), np.tile(score, 2), np.tile(np.arange(60), 2), 60)
    blind = measure_auroc(np.tile(truth, 2), np.tile(score, 2), np.arange(120), 120)
    assert twice.error == pytest.approx(once.error)
    assert blind.error < 0.75 * once.error


def test_the_clustered_variance_is_that_of_a_patient_bootstrap(rng):
    sick = np.repeat((np.arange(120) < 60).astype(float), 2)
    score = np.repeat(rng.normal(size=120), 2) + 0.5 * rng.normal(size=240) + sick
    patient = np.repeat(np.arange(120), 2)
    measured = measure_auroc(sick, score, patient, 120)
    draws = []
    for _ in range(400):
        rows = (2 * np.concatenate([rng.integers(0, 60, 60), rng.integers(60, 120, 60)])[:, None] + [0, 1]).ravel()
        draws.append(auroc(truth=sick[rows], score=score[rows]))
    assert measured.error == pytest.approx(np.std(draws), rel=0.15)


def test_the_interval_is_students_on_the_logit_scale():
    truth, score = np.repeat([1.0, 0.0], 10), np.r_[np.arange(10) + 3.0, np.arange(10.0)]
    measured = measure_auroc(truth, score, np.arange(20), 20)
    low, high, _ = auroc_interval(measured, 10, 10)
    half = stats.t.ppf(0.975, measured.freedom) * measured.error / (measured.value * (1 - measured.value))
    assert (low, high) == pytest.approx((expit(logit(measured.value) - half), expit(logit(measured.value) + half)))
    assert 9 <= measured.freedom <= 18


def test_a_perfect_auroc_has_a_lower_bound_that_rises_with_patients():
    bounds = []
    for n in (5, 20, 200):
        truth = np.repeat([1.0, 0.0], n)
        measured = measure_auroc(truth, truth + np.arange(2 * n) * 1e-6, np.arange(2 * n), 2 * n)
        low, high, method = auroc_interval(measured, n, n)
        assert (high, method) == (1.0, "Newcombe score bound")
        bounds.append(low)
    assert 0.4 < bounds[0] < bounds[1] < bounds[2] < 1.0
    assert bounds[2] > 0.97


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"), [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (81, 263, 0.2553, 0.3662)]
)
def test_wilson_has_its_textbook_values(hits, n, low, high):
    """Newcombe, Statistics in Medicine 1998; the middle case is the rule of three's neighbour."""
    measured = measure_share(np.r_[np.ones(hits), np.zeros(n - hits)], np.arange(n), n)
    assert share_interval(measured, n, n)[:2] == pytest.approx((low, high), abs=2e-3)


def test_entering_everybody_twice_gains_nothing():
    hit, patient = np.r_[np.ones(30), np.zeros(20)], np.arange(50)
    once = share_interval(measure_share(hit, patient, 50), 50, 50)
    twice = share_interval(measure_share(np.tile(hit, 2), np.tile(patient, 2), 50), 100, 50)
    assert twice[:2] == pytest.approx(once[:2], abs=0.01)


def test_means_are_of_patients():
    values, patient = np.array([1.0, 0.0, 0.5, np.nan]), np.array([0, 0, 1, 2])
    measured = measure_mean(values, patient, 3)
    assert measured.value == pytest.approx(0.5)
    assert patient_means(values, patient).tolist() == [0.5, 0.5]
    few = np.array([0.7, 0.8, 0.9, 0.6])
    low, high, method = mean_interval(few)
    expected = stats.t.interval(0.95, 3, few.mean(), few.std(ddof=1) / 2)
    assert (low, high) == pytest.approx(expected)
    assert method.startswith("Student")
    assert math.isnan(mean_interval(np.array([0.5]))[0])
    many = np.random.default_rng(0).normal(0.8, 0.1, 200)
    low, high, method = mean_interval(many)
    assert method.startswith("BCa")
    assert (low, high) == pytest.approx(
        stats.norm.interval(0.95, many.mean(), many.std(ddof=1) / math.sqrt(200)), abs=2e-3
    )


def test_degrees_of_freedom_are_those_of_a_variance_whose_values_are_not_normal():
    """Of exponential values (kurtosis 9), 30 at a time: 2 over the relative variance of S^2 over many samples."""
    rng = np.random.default_rng(0)
    many = rng.exponential(size=(40_000, 30)) - 1
    spread = many.var(1, ddof=1)
    wanted = 2 / (spread.var() / spread.mean() ** 2)
    assert wanted == pytest.approx(2 / (2 / 29 + (9 - 3) / 30), rel=0.05)
    parts = rng.exponential(size=200_000)
    assert freedom_of(parts - parts.mean(), 200_000) / 200_000 == pytest.approx(2 / 8, rel=0.15)
    flat = np.tile([1.0, -1.0], 15)
    assert freedom_of(flat, 30) == 29  # certain variances are not taken for more certain than normal ones
    one = np.r_[29.0, np.full(29, -1.0)]
    assert freedom_of(one, 30) == pytest.approx(2 / (2 / 29 + (30 * (29**4 + 29) / (29**2 + 29) ** 2 - 3) / 30))
    assert freedom_of(np.zeros(5), 5) == 4
    assert freedom_of(np.zeros(1), 1) == 1


def test_an_aurocs_degrees_of_freedom_are_of_both_classes_and_their_placements(rng):
    truth = (np.arange(60) < 20).astype(float)
    measured = measure_auroc(truth, rng.normal(size=60) + 2.5 * truth, np.arange(60), 60)
    parts = [(np.square(measured.influence[side]).sum(), freedom_of(measured.influence[side], side.sum()))
             for side in (truth == 1, truth == 0)]  # fmt: skip
    assert measured.freedom == pytest.approx(sum(v for v, _ in parts) ** 2 / sum(v**2 / f for v, f in parts))
    assert measured.freedom < 15 < 19


@pytest.mark.slow
@pytest.mark.parametrize("eyes", [1, 2])
def test_intervals_cover_the_truth(eyes):
    """15 positive and 100 negative patients, true AUROC .83; each draw's interval should hold it 95 times in 100."""
    rng, held, draws = np.random.default_rng(eyes), 0, 2000
    sick = np.repeat((np.arange(115) < 15).astype(float), eyes)
    patient = np.repeat(np.arange(115), eyes)
    truth = stats.norm.cdf(1.35 / math.sqrt(2))
    for _ in range(draws):
        noise = np.repeat(rng.normal(size=115), eyes) * math.sqrt(0.8) + rng.normal(size=115 * eyes) * math.sqrt(0.2)
        low, high, _ = auroc_interval(measure_auroc(sick, noise + 1.35 * sick, patient, 115), 15, 100)
        held += low <= truth <= high
    assert 0.93 <= held / draws <= 0.97
