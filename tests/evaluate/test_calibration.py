"""Calibration: as statsmodels and scikit-learn have it, against what chance shows, and at the edges."""

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss

from medssl.evaluate import evaluate
from medssl.evaluate.calibration import (
    fit_logistic,
    integrated_index,
    interval,
    kinship,
    measure_in_the_large,
    measure_log_loss,
    measure_ratio,
    measure_scaled_brier,
    measure_slope,
    spline,
)
from medssl.evaluate.reliability import BINS, bins_of, curve, expected_error, spread, squared_error


def expit(x):
    return 1 / (1 + np.exp(-x))


def cohort(patients, seed=0, slope=0.7, shift=0.4, rows=2):
    """Several rows a patient that share a part of their luck; scores are too extreme and too low."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rows)
    odds = rng.normal(-1, 1.2, patients)[patient] + 0.6 * rng.normal(size=len(patient))
    luck = np.where(rng.random(patients)[patient] < 0.5, rng.random(patients)[patient], rng.random(len(patient)))
    truth = (luck < expit(shift + slope * odds)).astype(float)
    return truth, expit(odds), patient


def calibrated(n, seed):
    rng = np.random.default_rng(seed)
    score = rng.beta(0.5, 0.5, n)
    return (rng.random(n) < score).astype(float), score, np.arange(n)


def test_recalibration_is_that_of_statsmodels_with_errors_over_patients():
    truth, score, patient = cohort(150)
    odds, few = np.log(score / (1 - score)), 150 / 149
    clusters = {"cov_type": "cluster", "cov_kwds": {"groups": patient, "use_correction": False}}
    large = sm.GLM(truth, np.ones_like(odds), offset=odds, family=sm.families.Binomial()).fit(**clusters)
    slope = sm.Logit(truth, sm.add_constant(odds)).fit(disp=0, **clusters)
    for ours, theirs, place in (measure_in_the_large, large, 0), (measure_slope, slope, 1):
        found = ours(truth, score, patient, 150)
        assert found.value == pytest.approx(theirs.params[place], abs=1e-8)
        assert found.error == pytest.approx(theirs.bse[place] * math.sqrt(few), rel=1e-6)


def test_the_smooth_curve_is_that_of_statsmodels_on_the_same_columns():
    truth, score, patient = cohort(300)
    odds = np.log(score / (1 - score))
    design = spline(odds)
    assert design.shape[1] == 4
    theirs = sm.Logit(truth, design).fit(disp=0).predict(design)
    found = integrated_index(truth, score, patient, 300)
    assert found.value == pytest.approx(np.abs(theirs - score).mean(), abs=1e-6)


def test_the_spline_is_smooth_and_straight_beyond_its_outer_knots():
    odds = np.linspace(-4, 4, 4001)
    bent = np.diff(spline(odds), 2, axis=0)
    assert np.abs(bent[:190]).max() < 1e-12 and np.abs(bent[-190:]).max() < 1e-12  # knots at 5 and 95 %
    assert np.abs(bent[200:-200, 2:]).max() > 1e-7
    assert np.abs(np.diff(bent, axis=0)).max() < 1e-7  # no kink
    assert spline(np.zeros(9)).shape == (9, 1) and spline(np.arange(9.0) % 2).shape == (9, 2)


@pytest.mark.parametrize("a", [-0.8, 0.0, 1.3])
def test_two_levels_of_scores_have_a_closed_form(a):
    """Two distinct scores: the recalibrated line goes through both observed log odds."""
    score = np.repeat([0.2, 0.6], 50)
    hits = (10, 35)
    truth = np.concatenate([np.r_[np.ones(k), np.zeros(50 - k)] for k in hits])
    lows, highs = np.log(0.2 / 0.8), np.log(0.6 / 0.4)
    wanted = (np.log(35 / 15) - np.log(10 / 40)) / (highs - lows)
    assert measure_slope(truth, score, np.arange(100), 100).value == pytest.approx(wanted, abs=1e-9)
    # All scores moved by a on the log odds: the intercept gives it back.
    even = np.tile([0.0, 1.0], 50)
    moved = measure_in_the_large(even, np.full(100, expit(a)), np.arange(100), 100)
    assert moved.value == pytest.approx(-a, abs=1e-9)
    assert moved.error == pytest.approx(math.sqrt(1 / (100 * 0.25) * 100 / 99))


def test_observed_over_expected_has_the_error_of_a_jackknife_over_patients():
    truth, score, patient = cohort(120, seed=3)
    found = measure_ratio(truth, score, patient, 120)
    assert found.value == pytest.approx(math.log(truth.sum() / score.sum()))
    left = [math.log(truth[patient != p].sum() / score[patient != p].sum()) for p in range(120)]
    assert found.error == pytest.approx(math.sqrt(119 / 120 * np.square(left - np.mean(left)).sum()), rel=0.03)


def test_scaled_brier_has_the_error_of_a_jackknife_over_patients():
    truth, score, patient = cohort(120, seed=4)

    def scaled(kept):
        share = truth[kept].mean()
        return 1 - brier_score_loss(truth[kept], score[kept]) / (share * (1 - share))

    found = measure_scaled_brier(truth, score, patient, 120)
    assert found.value == pytest.approx(scaled(patient >= 0))
    left = [scaled(patient != p) for p in range(120)]
    assert found.error == pytest.approx(math.sqrt(119 / 120 * np.square(left - np.mean(left)).sum()), rel=0.03)


def test_log_loss_is_scikit_learns():
    truth, score, patient = cohort(80)
    assert measure_log_loss(truth, score, patient, 80).value == pytest.approx(log_loss(truth, score))
    sure = measure_log_loss(np.array([1.0, 0.0]), np.array([0.0, 0.0]), np.arange(2), 2)
    assert sure.value == pytest.approx(-math.log(1e-6) / 2, rel=1e-5)  # a certain error is dear, not infinite


def test_intervals_hold_19_in_20_also_with_few_positives_and_two_eyes():
    """400 cohorts of 115 patients, 15 positive, both eyes alike; .95 meant, within three errors."""
    rng, held = np.random.default_rng(5), {"large": [], "slope": [], "ratio": []}
    for _ in range(400):
        score = expit(rng.normal(-2.6, 1.3, 115))
        truth, score = np.repeat((rng.random(115) < score).astype(float), 2), np.repeat(score, 2)
        for name, measure, right in (
            ("large", measure_in_the_large, 0), ("slope", measure_slope, 1), ("ratio", measure_ratio, 0),
        ):  # fmt: skip
            found = measure(truth, score, np.repeat(np.arange(115), 2), 115)
            if not math.isnan(found.value):
                low, high = interval(found)
                held[name].append(low <= right <= high)
    for name, hits in held.items():
        assert len(hits) > 390
        assert 0.92 <= np.mean(hits) <= 0.985, name


# Fractions of a power of two: sums are exact in any order, so that the slow twin can be compared exactly.
rows = st.lists(st.tuples(st.booleans(), st.integers(0, 16), st.integers(0, 5)), min_size=1, max_size=60)


def columns(drawn):
    truth, score, patient = (np.array(one, float) for one in zip(*drawn, strict=True))
    return truth, score / 16, np.unique(patient, return_inverse=True)[1]


@settings(deadline=None, max_examples=60)
@given(rows)
def test_ece_is_that_of_loops_over_bins(drawn):
    truth, score, patient = columns(drawn)
    n, binned = len(score), {}
    for i in range(n):
        below, equal = sum(s < score[i] for s in score), sum(s == score[i] for s in score)
        rank = below + equal / 2
        binned.setdefault(min(int(rank * BINS / n), BINS - 1), []).append(i)
    wanted = sum(abs(sum(truth[i] for i in inside) - sum(score[i] for i in inside)) for inside in binned.values()) / n
    assert expected_error(truth, score, patient).value == pytest.approx(wanted, abs=1e-12)


def test_bins_hold_equally_many_and_never_part_equal_scores():
    rng = np.random.default_rng(0)
    assert np.bincount(bins_of(rng.permutation(1000) / 1000)).tolist() == [100] * 10
    tied = np.round(rng.random(500), 1)
    for value in np.unique(tied):
        assert len(np.unique(bins_of(tied)[tied == value])) == 1
    assert set(bins_of(np.full(7, 0.3))) == {5}


@pytest.mark.parametrize(
    ("n", "published"), [(50, 0.103), (100, 0.076), (200, 0.053), (500, 0.035), (2000, 0.017), (10_000, 0.008)]
)
def test_a_perfectly_calibrated_model_has_the_ece_that_chance_gives_it_and_no_debiased_one(n, published):
    """The error that makes minorities look badly calibrated. The published values are of other scores: within a tenth."""
    cohorts = 1500 if n <= 100 else 200 if n < 5000 else 25
    errors, squares, ranges = [], [], []
    for seed in range(cohorts):
        truth, score, patient = calibrated(n, seed)
        place = bins_of(score)
        errors.append(np.abs(np.bincount(place, truth - score)).sum() / n)
        squares.append(squared_error(truth, score, patient))
        if seed < 8:
            ranges.append(expected_error(truth, score, patient))
            assert ranges[-1].value == pytest.approx(errors[-1])
    told = np.mean([one.chance for one in ranges])
    assert told == pytest.approx(np.mean(errors), rel=0.06)
    assert told == pytest.approx(math.sqrt(2 / math.pi * BINS / n) / math.pi, rel=0.09)  # mean of sqrt(p q) is 1 / pi
    assert told == pytest.approx(published, rel=0.12)
    assert np.mean([one.low <= one.value <= one.high for one in ranges]) >= 0.6
    values = np.array([one["value"] for one in squares])
    assert abs(values.mean()) < 3.5 * values.std() / math.sqrt(cohorts)
    assert abs(values.mean()) < 0.25 * np.mean(errors) ** 2
    assert np.mean([one["low"] <= 0 for one in squares]) >= 0.88


def test_the_debiased_error_is_on_average_the_true_one_and_its_interval_holds_it():
    held, off, wanted = [], [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        score = rng.uniform(0.02, 0.98, 400)
        likely = expit(0.3 + 0.7 * np.log(score / (1 - score)))
        truth, place = (rng.random(400) < likely).astype(float), bins_of(score)
        true = float((np.square(np.bincount(place, likely - score) / 40)).mean())
        found = squared_error(truth, score, np.arange(400))
        wanted.append(true)
        off.append(found["value"] - true)
        held.append(found["low"] <= true <= found["high"])
    assert abs(np.mean(off)) < 3 * np.std(off) / math.sqrt(150)
    assert np.mean(off) == pytest.approx(0, abs=0.1 * np.mean(wanted))
    assert 0.90 <= np.mean(held) <= 0.99


def test_entering_everybody_twice_makes_nothing_surer():
    truth, score, patient = calibrated(400, 1)
    once = expected_error(truth, score, patient)
    both = [np.repeat(one, 2) for one in (truth, score, patient)]
    twice = expected_error(*both)
    assert kinship(*both) == pytest.approx(1.0) and kinship(truth, score, patient) == 0.0
    assert twice.value == pytest.approx(once.value)
    assert twice.chance == pytest.approx(once.chance, rel=0.05)
    one, two = (squared_error(*rows) for rows in ((truth, score, patient), both))
    assert two == pytest.approx(one, rel=1e-9)
    ici, ici_twice = integrated_index(truth, score, patient, 400), integrated_index(*both, 400)
    assert ici_twice.value == pytest.approx(ici.value)
    assert ici_twice.chance == pytest.approx(ici.chance, rel=0.02)
    for measure in (measure_in_the_large, measure_slope, measure_ratio, measure_log_loss, measure_scaled_brier):
        first, second = measure(truth, score, patient, 400), measure(*both, 400)
        assert (second.value, second.error) == pytest.approx((first.value, first.error))


def test_ici_of_a_perfectly_calibrated_model_is_what_chance_gives_it():
    found = [integrated_index(*calibrated(600, seed), 600) for seed in range(120)]
    assert np.mean([one.value for one in found]) == pytest.approx(np.mean([one.chance for one in found]), rel=0.1)
    assert 0.9 <= np.mean([one.low <= one.value <= one.high for one in found]) <= 1


def test_ici_sees_what_a_straight_line_cannot():
    """Right on average and in slope, wrong in between: only the smooth curve tells."""
    rng = np.random.default_rng(0)
    score = rng.random(20_000)
    truth = (rng.random(20_000) < np.clip(score + 0.1 * np.cos(3 * math.pi * score), 0, 1)).astype(float)
    assert integrated_index(truth, score, np.arange(20_000), 20_000).value == pytest.approx(0.064, abs=0.02)


@pytest.mark.parametrize(
    ("truth", "score", "reason"),
    [
        ([1, 1, 1, 1], [0.2, 0.4, 0.6, 0.8], "one class only"),
        ([0, 0, 1, 1], [0.2, 0.4, 0.6, 0.8], "no finite slope"),
        ([0, 0, 1, 1], [0.2, 0.4, 0.4, 0.8], "no finite slope"),
        ([1, 1, 0, 0], [0.2, 0.4, 0.6, 0.8], "no finite slope"),
        ([0, 1, 0, 1], [0.3, 0.3, 0.3, 0.3], "all scores are equal"),
    ],
    ids=["one class", "separated", "with a tie", "the wrong way round", "equal scores"],
)
def test_where_no_slope_is_the_best_there_is_none(truth, score, reason):
    found = measure_slope(np.array(truth, float), np.array(score), np.arange(4), 4)
    assert math.isnan(found.value) and reason in found.reason


@settings(deadline=None, max_examples=80)
@given(rows)
def test_any_scores_give_finite_numbers_or_a_reason(drawn):
    truth, score, patient = columns(drawn)
    for measure in (measure_in_the_large, measure_slope, measure_ratio, measure_log_loss, measure_scaled_brier):
        found = measure(truth, score, patient, 6)
        assert math.isfinite(found.value) or found.reason
    assert math.isfinite(expected_error(truth, score, patient).chance)
    assert all(map(math.isfinite, squared_error(truth, score, patient).values()))
    found = integrated_index(truth, score, patient, 6)
    assert math.isfinite(found.value) or found.reason


def test_scores_of_0_and_1_are_taken_for_nearly_so():
    rng = np.random.default_rng(2)
    truth = (rng.random(300) < 0.5).astype(float)
    score = np.where(rng.random(300) < 0.1, 1 - truth, truth)  # 0 or 1, and every tenth wrong
    found = measure_slope(truth, score, np.arange(300), 300)
    wrong = [(truth[score == s] == 1).mean() for s in (0, 1)]
    ends = 2 * np.log((1 - 1e-6) / 1e-6)
    assert found.value == pytest.approx((np.log(wrong[1] / (1 - wrong[1])) - np.log(wrong[0] / (1 - wrong[0]))) / ends)
    assert math.isfinite(measure_in_the_large(truth, score, np.arange(300), 300).value)
    assert fit_logistic(np.ones((4, 2)), np.array([0.0, 1, 0, 1]), np.zeros(4), np.arange(4), 4) is None


@settings(deadline=None, max_examples=60)
@given(rows, st.integers(1, 4))
def test_every_point_of_the_curve_has_enough_patients_and_no_row_is_lost(drawn, minimum):
    truth, score, patient = columns(drawn)
    points = curve(truth, score, patient, minimum)
    enough = min(minimum, len(np.unique(patient)))
    assert all(point["n_patients"] >= enough for point in points)
    assert all(point["low"] - 1e-12 <= point["value"] <= point["high"] + 1e-12 for point in points)
    assert [p["score"] for p in points] == sorted(p["score"] for p in points)
    if len(points) == 1:
        assert points[0]["value"] == pytest.approx(truth.mean())


@settings(deadline=None, max_examples=100)
@given(rows, st.integers(1, 4))
def test_hidden_cells_of_the_histogram_cannot_be_found_by_subtraction(drawn, minimum):
    _, score, patient = columns(drawn)
    edges = [0, 0.25, 0.5, 0.75, 1]
    cells = spread(score, patient, edges, minimum)
    counts, _ = np.histogram(score, edges)
    inside = [patient[np.clip(np.searchsorted(edges, score, "right") - 1, 0, 3) == k] for k in range(4)]
    hidden = [len(set(inside[k])) for k in range(4) if cells[k] is None]
    assert all(cell in (None, count) for cell, count in zip(cells, counts, strict=True))
    assert all(cells[k] is None or len(set(inside[k])) >= minimum or not len(inside[k]) for k in range(4))
    told = any(cell for cell in cells)
    assert not hidden or sum(hidden) >= minimum or not told


def test_a_bin_of_too_few_patients_is_joined_to_its_neighbour():
    truth, score = np.array([0.0, 1, 0, 1, 1]), np.array([0.2, 0.2, 0.2, 0.2, 0.8])
    (point,) = curve(truth, score, np.arange(5), 2)
    assert (point["n_patients"], point["value"], point["score"]) == (5, 0.6, pytest.approx(0.32))
    first, last = curve(truth, score[::-1], np.arange(5), 1)
    assert (first["n_patients"], last["n_patients"]) == (4, 1)
    assert [point["n_patients"] for point in curve(truth, score, np.array([0, 0, 1, 2, 3]), 1)] == [3, 1]


def table(few=6, patients=900):
    rng = np.random.default_rng(8)
    score = rng.beta(1, 2, patients)
    n = np.arange(patients)
    small = np.array(["rare", "rarer", "rarest"])[n // few % 3]  # three: who hides one alone must hide another
    race = np.where(n < 3 * few, small, np.where(n < 3 * few + 60, "some", "many"))
    names = np.arange(patients).astype(str)
    return pd.DataFrame({"sample_id": names, "patient_id": names, "split": "test", "score": score, "race": race,
                         "label": (rng.random(patients) < score).astype(float)})  # fmt: skip


def section(rows, **options):
    (analysis,) = evaluate({"it": rows}, by=["race"], **options)["analyses"]
    return analysis["sections"]["calibration"]


def test_groups_that_are_too_small_are_told_as_such():
    whole, many, rare, _, _, some = section(table())["rows"]
    assert (rare["reason"], rare["numbers"], rare["curve"]) == ("fewer than 11 patients", {}, [])
    assert all(number["value"] is not None for number in whole["numbers"].values())
    assert whole["numbers"]["slope"]["low"] < 1 < whole["numbers"]["slope"]["high"]
    assert whole["numbers"]["ece"]["chance"]["low"] < whole["numbers"]["ece"]["value"]
    assert many["numbers"]["ece"]["value"] is not None
    for name in ("ece", "ici", "debiased"):
        assert some["numbers"][name]["value"] is None
        assert "fewer than 200 patients" in some["numbers"][name]["reason"]
    assert some["numbers"]["slope"]["value"] is not None
    assert len(some["curve"]) == 5 and len(whole["curve"]) == 10


def test_one_class_has_a_brier_score_and_reasons():
    (row, *_) = section(table().assign(label=0.0))["rows"]
    numbers = row["numbers"]
    assert numbers["brier"]["value"] is not None and numbers["log_loss"]["value"] is not None
    for name in ("in_the_large", "slope", "ratio", "scaled_brier", "ece", "ici"):
        assert numbers[name]["value"] is None and numbers[name]["reason"] == "no positive"


def test_one_patient_has_no_intervals_but_reasons():
    rows = table().head(1)
    (row, *_) = section(rows, minimum_patients=1)["rows"]
    assert all(number["reason"] for number in row["numbers"].values())
    assert row["numbers"]["brier"]["value"] is not None and row["numbers"]["brier"]["low"] is None


def test_perfect_scores_break_nothing():
    rows = table()
    (row, *_) = section(rows.assign(score=rows["label"]))["rows"]
    assert row["numbers"]["brier"]["value"] == 0
    assert "no finite slope" in row["numbers"]["slope"]["reason"]
    assert section(rows.assign(score=rows["label"]))["extreme_share"] == 1
