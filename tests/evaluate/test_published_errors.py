"""Errors that published evaluations make, shown on simulated cohorts, and that ours does not make them."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from medssl.evaluate import bootstrap, compare
from medssl.evaluate.bootstrap import bootstrap_interval, counts, resampled, weighted_auroc
from medssl.evaluate.groups import estimate, gaps
from medssl.evaluate.measures import AUROC
from medssl.evaluate.metrics import measure_auroc


def eyes_of(patients, positives, eyes, rng, shift):
    """(patient, label, score) of eyes that are alike by .8."""
    patient = np.repeat(np.arange(patients), eyes)
    label = (patient < positives).astype(float)
    noise = math.sqrt(0.8) * rng.normal(size=patients)[patient] + math.sqrt(0.2) * rng.normal(size=len(patient))
    return patient, label, noise + shift * label


def replicates(label, score, seed, many=100):
    statistic = weighted_auroc(label, score, np.arange(len(label)))
    return np.concatenate([statistic(chunk) for chunk in counts(len(label), many, seed)])


def test_equal_models_rarely_differ_where_a_t_test_over_replicates_says_so_most_times():
    """500 patients, two models of the same worth with noise of their own, 120 cohorts. A t-test over bootstraps drawn apart
    counts replicates as if each were a new cohort.
    """
    rng, shown, theirs, times = np.random.default_rng(4), 0, 0, 120
    label = (np.arange(500) < 150).astype(float)
    rows = pd.DataFrame({"sample_id": np.arange(500), "patient_id": np.arange(500), "split": "test", "label": label})
    for k in range(times):
        shared = rng.normal(size=500) + 1.5 * label
        first, second = (1 / (1 + np.exp(-shared - 0.7 * rng.normal(size=500))) for _ in range(2))
        (row,) = compare(rows.assign(score=first), rows.assign(score=second))["results"]
        shown += not row["low"] <= 0 <= row["high"]
        pair = replicates(label, first, 2 * k), replicates(label, second, 2 * k + 1)
        theirs += stats.ttest_rel(*pair).pvalue < 0.05
    assert shown / times <= 0.10
    assert theirs / times >= 0.60


@pytest.mark.parametrize(("eyes", "positives", "shift"), [(1, 8, 2.2), (2, 15, 1.35)], ids=["few patients", "two eyes"])
def test_intervals_hold_the_truth_where_naive_ones_lose_it(eyes, positives, shift):
    """8 positives and 40 negatives with one eye, 15 and 85 with two. Wald's interval over rows is too short for either
    reason, and so are the percentiles of rows drawn again.
    """
    rng, times = np.random.default_rng(6), 300
    patients = 6 * positives if eyes == 1 else 100
    true, held = stats.norm.cdf(shift / math.sqrt(2)), np.zeros(3)
    for _ in range(times):
        patient, label, score = eyes_of(patients, positives, eyes, rng, shift)
        row = estimate(pd.DataFrame({"patient_id": patient, "label": label, "score": score}), AUROC, "", "all", 1)
        blind = measure_auroc(label, score, np.arange(len(label)), len(label))
        low, high = np.nanquantile(replicates(label, score, 0, 200), [0.025, 0.975])
        held += [
            row["low"] <= true <= row["high"],
            abs(blind.value - true) <= 1.96 * blind.error,
            low <= true <= high,
        ]
    assert held[0] / times >= 0.92
    assert (held[1:] / times <= 0.88).all()


def test_a_small_group_keeps_its_own_uncertainty():
    """A group of 120 patients in 4,000. Drawn up to the size of the large one, its error is several times too small."""
    rng = np.random.default_rng(1)
    small, label = np.arange(4000) < 120, (rng.random(4000) < 0.2).astype(float)
    apart = []
    for _ in range(200):
        fresh = rng.normal(size=120) + 1.2 * label[small]
        apart.append(measure_auroc(label[small], fresh, np.arange(120), 120).value)
    score = rng.normal(size=4000) + 1.2 * label
    statistic = weighted_auroc(label[small], score[small], np.flatnonzero(small))
    ours = np.concatenate([statistic(chunk) for chunk in counts(4000)])
    assert np.nanstd(ours) == pytest.approx(np.std(apart), rel=0.25)
    balanced = []
    for _ in range(200):
        rows = rng.integers(0, 120, 2000)
        balanced.append(measure_auroc(label[rows], score[rows], np.arange(2000), 2000).value)
    assert np.std(balanced) < np.std(apart) / 3
    lone = measure_auroc(label[small], score[small], np.arange(120), 120)
    assert lone.error == pytest.approx(np.nanstd(ours), rel=0.15)


def test_asking_about_six_groups_does_not_find_gaps_by_chance():
    """Six equal groups of 60, 150 cohorts: six tests at 5 % each find one in about a quarter of them."""
    rng, shown, theirs, times = np.random.default_rng(8), 0, 0, 150
    race = np.repeat(np.array(list("abcdef"), object), 60)
    label = np.tile(np.repeat([1.0, 0.0], [20, 40]), 6)
    for _ in range(times):
        score = rng.normal(size=360) + 1.4 * label
        rows = pd.DataFrame({"patient_id": np.arange(360), "label": label, "score": score, "race": race})
        shown += any(row["verdict"] == "gap" for row in gaps(rows, AUROC, "race", 11, 0.05))
        each = []
        for name in "abcdef":
            sides = [
                measure_auroc(label[inside], score[inside], np.flatnonzero(inside), 360)
                for inside in (race == name, race != name)
            ]
            each.append(abs(sides[0].value - sides[1].value) > 1.96 * math.hypot(sides[0].error, sides[1].error))
        theirs += any(each)
    assert shown / times <= 0.08
    assert theirs / times >= 0.20


def test_the_acceleration_costs_no_pass_for_every_patient(monkeypatch):
    """Of 3,000 patients, 200 blocks are left out, not 3,000 patients; of a mean both say the same."""
    values = np.random.default_rng(2).exponential(size=3000)
    asked = []

    def mean(weight):
        asked.append(weight.shape[1])
        return values @ weight / weight.sum(0, dtype=float)

    _, left_out = resampled(mean, 3000)
    assert left_out.shape == (200,) and sum(asked) == 2200
    of_blocks = bootstrap_interval(float(values.mean()), mean, 3000)
    monkeypatch.setattr(bootstrap, "BLOCKS", 3000)
    assert bootstrap_interval(float(values.mean()), mean, 3000) == pytest.approx(of_blocks, abs=2e-4)
