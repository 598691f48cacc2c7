"""Numbers against slow twins: pairwise loops, jackknives, closed forms; and rates counted over simulated cohorts."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import brier_score_loss

from medssl.evaluate.analysis import AUROC
from medssl.evaluate.groups import _critical, gaps
from medssl.evaluate.intervals import (
    _newcombe_bound,
    auroc_interval,
    expit,
    logit,
    mean_interval,
    quantile,
    share_interval,
)
from medssl.evaluate.metrics import auroc, brier, measure_auroc, measure_share
from medssl.evaluate.threshold import fix_threshold

scored = st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1), st.integers(0, 8)), min_size=8, max_size=40).filter(
    lambda rows: {0, 1} == {label for label, _, _ in rows}
)


def columns(rows):
    truth, score, patient = (np.array(column) for column in zip(*rows, strict=True))
    return truth.astype(float), np.round(score, 1), patient.astype(int)


def looped_variance(truth, score, patient):
    """Obuchowski's clustered variance by loops over pairs and patients."""
    positive, negative = np.flatnonzero(truth == 1), np.flatnonzero(truth == 0)

    def win(i, j):
        return 1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0

    area = sum(win(i, j) for i in positive for j in negative) / (len(positive) * len(negative))
    influence = dict.fromkeys(patient, 0.0)
    for own, others, turned in (positive, negative, False), (negative, positive, True):
        clusters = {patient[i] for i in own}
        for who in clusters:
            part = 0.0
            for i in own:
                if patient[i] == who:
                    mean = sum(win(j, i) if turned else win(i, j) for j in others) / len(others)
                    part += (mean - area) / len(own)
            influence[who] += part * math.sqrt(len(clusters) / max(len(clusters) - 1, 1))
    return area, sum(part**2 for part in influence.values())


@settings(max_examples=60, deadline=None)
@given(scored)
def test_clustered_delong_equals_loops_over_pairs_and_patients(rows):
    truth, score, patient = columns(rows)
    measured = measure_auroc(truth, score, patient, int(patient.max()) + 1)
    area, variance = looped_variance(truth, score, patient)
    assert measured.value == pytest.approx(area)
    assert measured.error**2 == pytest.approx(variance, abs=1e-12)


@settings(deadline=None)
@given(scored)
def test_brier_equals_scikit_learn(rows):
    truth, score, _ = columns(rows)
    assert brier(truth=truth, score=score) == pytest.approx(brier_score_loss(truth, score))


@pytest.mark.parametrize("mixed", [False, True], ids=["same label in both eyes", "one sick eye each"])
def test_two_rows_a_patient_match_a_jackknife_over_patients(rng, mixed):
    patients = 80
    patient = np.repeat(np.arange(patients), 2)
    truth = np.tile([1.0, 0.0], patients) if mixed else np.repeat((np.arange(patients) < 40).astype(float), 2)
    score = np.repeat(rng.normal(size=patients), 2) + 0.5 * rng.normal(size=2 * patients) + truth
    left_out = [auroc(truth=truth[patient != p], score=score[patient != p]) for p in range(patients)]
    jackknife = math.sqrt((patients - 1) / patients * np.square(left_out - np.mean(left_out)).sum())
    assert measure_auroc(truth, score, patient, patients).error == pytest.approx(jackknife, rel=0.05)


def test_what_newcombes_bound_is():
    """The bound solves the score equation, rises with patients, lies under what was seen; 0 mirrors 1."""
    z = stats.norm.ppf(0.975)
    for positives, negatives in (5, 5), (15, 100), (100, 15):
        bound = _newcombe_bound(1.0, positives, negatives, 0.95)
        star = (positives + negatives) / 2 - 1
        share = 1 + star * (1 - bound) / (2 - bound) + star * bound / (1 + bound)
        variance = bound * (1 - bound) * share / (positives * negatives)
        assert (1 - bound) ** 2 == pytest.approx(z**2 * variance, rel=1e-6)
    assert np.all(np.diff([_newcombe_bound(1.0, n, 2 * n, 0.95) for n in (2, 5, 10, 50, 500)]) > 0)
    assert _newcombe_bound(0.9, 20, 20, 0.95) < 0.9
    truth = np.repeat([1.0, 0.0], 10)
    perfect = auroc_interval(measure_auroc(truth, truth, np.arange(20), 20), 10, 10)
    inverted = auroc_interval(measure_auroc(truth, 1 - truth, np.arange(20), 20), 10, 10)
    assert perfect[1] == 1.0
    assert inverted[:2] == pytest.approx((0.0, 1 - perfect[0]))


def test_a_score_that_says_nothing_has_no_interval_but_a_reason():
    truth = np.repeat([1.0, 0.0], 10)
    low, high, method = auroc_interval(measure_auroc(truth, np.full(20, 0.5), np.arange(20), 20), 10, 10)
    assert math.isnan(low)
    assert math.isnan(high)
    assert method == "none: all scores are equal"


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (15, 148, 0.0624, 0.1605), (1, 29, 0.0061, 0.1718), (10, 10, 0.7225, 1.0)],
)
def test_wilson_to_four_places(hits, n, low, high):
    measured = measure_share(np.r_[np.ones(hits), np.zeros(n - hits)], np.arange(n), n)
    assert share_interval(measured, n, n)[:2] == pytest.approx((low, high), abs=1e-4)


def test_the_design_effect_of_entering_everybody_twice_is_two():
    hit, patient = np.tile(np.r_[np.ones(300), np.zeros(200)], 2), np.tile(np.arange(500), 2)
    measured = measure_share(hit, patient, 500)
    assert measured.error**2 * (1000 - 1) / 0.24 == pytest.approx(2, abs=0.005)
    for share in (0.0, 1.0):
        low, high, _ = share_interval(measure_share(np.full(20, share), np.repeat(np.arange(10), 2), 10), 20, 10)
        once = share_interval(measure_share(np.full(10, share), np.arange(10), 10), 10, 10)
        assert (low, high) == pytest.approx(once[:2])


def test_students_interval_of_known_numbers():
    """Mean 5, standard deviation sqrt(10), t(4) 2.776: 5 -+ 3.926."""
    assert mean_interval(np.array([1.0, 3.0, 5.0, 7.0, 9.0]))[:2] == pytest.approx((1.0735, 8.9265), abs=1e-3)
    assert mean_interval(np.full(60, 0.75))[:2] == pytest.approx((0.75, 0.75))


def test_the_bootstrap_stays_in_memory_and_is_repeatable():
    values = np.random.default_rng(0).beta(8, 2, 6000)
    assert mean_interval(values) == mean_interval(values)
    low, high, _ = mean_interval(values)
    assert (low, high) == pytest.approx(
        stats.norm.interval(0.95, values.mean(), values.std() / math.sqrt(6000)), abs=1e-3
    )


def test_the_critical_value_of_one_is_students_and_of_several_is_larger():
    one = np.array([[0.1, 0.2, -0.3]])
    assert _critical(one, np.sqrt(np.square(one).sum(1)), math.inf) == pytest.approx(stats.norm.ppf(0.975))
    assert _critical(one, np.sqrt(np.square(one).sum(1)), 10) == pytest.approx(stats.t.ppf(0.975, 10))
    values = [_critical(np.eye(n), np.ones(n), math.inf) for n in (2, 4, 8)]
    for n, value in zip((2, 4, 8), values, strict=True):
        assert value == pytest.approx(stats.norm.ppf((1 + 0.95 ** (1 / n)) / 2), abs=0.03)
    assert quantile(0.95, math.inf) < values[0] < values[1] < values[2]
    mirrored = np.array([[1.0, -1.0], [-1.0, 1.0]])
    assert _critical(mirrored, np.sqrt(np.square(mirrored).sum(1)), math.inf) == pytest.approx(1.96, abs=0.03)


def test_youden_by_hand():
    """At .55 and above 4 of 5 sick, 0 of 5 well: .8; at .25 it is 5 of 5 and 2 of 5: .6. The cut is half way down."""
    rows = pd.DataFrame({"patient_id": list("abcdefghij"), "label": [1.0] * 5 + [0.0] * 5,
                         "score": [0.25, 0.55, 0.6, 0.7, 0.8, 0.05, 0.1, 0.15, 0.3, 0.45]})  # fmt: skip
    found = fix_threshold(rows, "abc")
    assert found.value == pytest.approx(0.5)
    for said in ("0.500", "10 validation rows of 10 patients", "5 positive", "table abc"):
        assert said in found.provenance
    few = fix_threshold(rows[1:], "abc")
    assert few.value is None
    assert "4 positives and 5 negatives" in few.provenance
    assert fix_threshold(rows.assign(score=0.5), "abc").value is None


def test_a_gap_has_the_degrees_of_freedom_of_its_own_two_sides():
    """Eleven patients against 300: both rows are as wide as Student's t of the two sides says."""
    rng = np.random.default_rng(5)
    race, label = np.repeat(["few", "many"], [11, 300]), np.r_[np.arange(11) < 4, np.arange(300) < 100].astype(float)
    score = rng.normal(size=311) + 1.2 * label
    rows = pd.DataFrame({"patient_id": np.arange(311), "label": label, "score": score, "race": race})
    few, many = (measure_auroc(label[r], score[r], np.flatnonzero(r), 311) for r in (race == "few", race == "many"))
    parts = [(one.error / (one.value * (1 - one.value)), one.freedom) for one in (few, many)]
    variance = sum(error**2 for error, _ in parts)
    freedom = variance**2 / sum(error**4 / free for error, free in parts)
    first, second = gaps(rows, AUROC, "race", 11, 0.05)
    assert (first["low"], first["high"]) == pytest.approx((-second["high"], -second["low"]))
    difference, middle = logit(few.value) - logit(many.value), (logit(few.value) + logit(many.value)) / 2
    half = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    for end, sign in ("low", -1), ("high", 1):
        moved = difference + sign * half
        assert first[end] == pytest.approx(expit(middle + moved / 2) - expit(middle - moved / 2), abs=0.01)
    assert stats.t.ppf(0.975, freedom) > 2.1


@pytest.mark.slow
def test_four_equal_groups_with_two_eyes_rarely_show_a_gap():
    """Family-wise rate of false gaps over 300 null cohorts of 4 groups and 2 rows a patient; meant 5 %, 9 % allowed."""
    false, rng = 0, np.random.default_rng(11)
    label, patient = np.repeat(np.arange(240) % 3 == 0, 2).astype(float), np.repeat(np.arange(240), 2)
    for _ in range(300):
        score = np.repeat(rng.normal(size=240), 2) + 0.5 * rng.normal(size=480) + 1.2 * label
        rows = pd.DataFrame({"patient_id": patient.astype(str), "label": label, "score": score,
                             "race": np.repeat(np.array(list("abcd"))[rng.permutation(240) % 4], 2)})  # fmt: skip
        false += any(gap["verdict"] == "gap" for gap in gaps(rows, AUROC, "race", 11, 0.05))
    assert false / 300 <= 0.09
