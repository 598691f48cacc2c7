"""Ranking metrics under weights against scikit-learn's, and how patients are drawn."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score, roc_curve

from medssl.evaluate import bootstrap
from medssl.evaluate.bootstrap import counts, resampled, weighted_auroc, weighted_confusion, weights
from medssl.evaluate.metrics import auroc, average_precision
from medssl.evaluate.ranking import auroc_of, average_precision_of, rank, sensitivity_at, specificity_at

rows_of_patients = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]), st.integers(0, 7)), max_size=40
)
bytes_of_weight = st.lists(st.integers(0, 255), min_size=8, max_size=8)
fractions_of_weight = st.lists(st.sampled_from([0.0, 0.25, 0.75, 1.5]), min_size=8, max_size=8)


def found(rows, weight):
    truth, score, patient = (np.array([row[k] for row in rows]) for k in range(3))
    levels = rank(truth.astype(float), score, patient.astype(int)).levels(weight[:, None])
    return [
        float(one[0])
        for one in (
            auroc_of(levels), average_precision_of(levels), sensitivity_at(levels, 0.9), specificity_at(levels, 0.9),
        )
    ]  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(rows_of_patients, st.one_of(bytes_of_weight, fractions_of_weight))
def test_weighted_metrics_equal_scikit_learn(rows, weight):
    weight = np.array(weight, np.uint8 if all(isinstance(one, int) for one in weight) else float)
    area, precision, sensitivity, specificity = found(rows, weight)
    truth, score = np.array([row[0] for row in rows], bool), np.array([row[1] for row in rows])
    each = weight[[row[2] for row in rows]].astype(float) if rows else np.zeros(0)
    if each[truth].sum() == 0:
        assert math.isnan(precision)
    else:
        assert precision == pytest.approx(average_precision_score(truth, score, sample_weight=each), abs=1e-12)
    if each[truth].sum() == 0 or each[~truth].sum() == 0:
        assert all(math.isnan(one) for one in (area, sensitivity, specificity))
        return
    assert area == pytest.approx(roc_auc_score(truth, score, sample_weight=each), abs=1e-12)
    false, true, _ = roc_curve(truth, score, sample_weight=each, drop_intermediate=False)
    assert sensitivity == pytest.approx(true[false <= 0.1 + 1e-9].max(), abs=1e-12)
    assert specificity == pytest.approx(1 - false[true >= 0.9 - 1e-9].min(), abs=1e-12)


def test_weights_of_one_give_the_metrics_of_the_rows(rng):
    truth = (rng.random(500) < 0.3).astype(float)
    score = np.round(rng.normal(size=500) + truth, 1)
    levels = rank(truth, score, np.arange(500)).levels(np.ones((500, 1), np.uint8))
    assert auroc_of(levels)[0] == pytest.approx(auroc(truth=truth, score=score), abs=1e-15)
    assert average_precision_of(levels)[0] == pytest.approx(average_precision(truth=truth, score=score), abs=1e-15)


def test_a_target_that_is_reached_exactly_is_reached():
    """27 of 30 negatives that weigh .3 each, and 9 of 10 positives: .9 of what there is, but not in floats."""
    truth = np.r_[np.zeros(30), np.ones(10)]
    levels = rank(truth, np.r_[np.arange(30.0), np.full(10, 26.5)], np.arange(40)).levels(np.full((40, 1), 0.3))
    assert sensitivity_at(levels, 0.9)[0] == 1.0
    assert sensitivity_at(levels, 0.901)[0] == 0.0
    score = np.r_[np.full(30, 0.5), 0.0, np.full(9, 1.0)]
    levels = rank(truth, score, np.arange(40)).levels(np.ones((40, 1), np.uint8))
    assert specificity_at(levels, 0.9)[0] == 1.0
    assert specificity_at(levels, 0.901)[0] == 0.0


def test_chunks_do_not_change_what_is_drawn(monkeypatch):
    one = np.random.default_rng(7).integers(0, 30, (150, 30))
    once = np.stack([np.bincount(row, minlength=30) for row in one], axis=1)
    for cells in (1, 100, 2**18):
        monkeypatch.setattr(bootstrap, "CELLS", cells)
        drawn = list(counts(30, 150, 7))
        assert np.array_equal(np.concatenate(drawn, axis=1), once)
        assert max(chunk.size for chunk in drawn) <= max(cells, 30)
        assert drawn[0].dtype == np.uint8
    assert np.array_equal(np.concatenate(list(weights(30, 150, 7)), axis=1), once)


def test_replicates_of_scores_are_those_of_rows_drawn_again(rng):
    """The slow twin: each patient's rows repeated as often as it was drawn."""
    patient = rng.integers(0, 40, 90)
    truth = (rng.random(90) < 0.4).astype(float)
    score = np.round(rng.normal(size=90) + truth, 1)
    drawn, left_out = resampled(weighted_auroc(truth, score, patient), 40)
    assert drawn.shape == (2000,) and left_out.shape == (40,)
    every = np.concatenate(list(counts(40)), axis=1)
    for replicate in range(0, 2000, 400):
        rows = np.repeat(np.arange(90), every[patient, replicate])
        assert drawn[replicate] == pytest.approx(auroc(truth=truth[rows], score=score[rows]), abs=1e-15)
    for who in range(40):
        kept = patient != who
        assert left_out[who] == pytest.approx(auroc(truth=truth[kept], score=score[kept]), abs=1e-15)


def test_weighted_counts_are_those_of_the_confusion_matrix(rng):
    patient, truth, flagged = rng.integers(0, 20, 60), rng.random(60) < 0.4, rng.random(60) < 0.5
    drawn = next(counts(25, 5))
    cells = weighted_confusion(truth.astype(float), flagged, patient)(drawn)
    for replicate in range(5):
        (spared, false), (missed, hit) = confusion_matrix(truth, flagged, sample_weight=drawn[patient, replicate])
        assert cells[:, replicate].tolist() == [hit, missed, false, spared]


def test_memory_does_not_grow_with_replicates(rng):
    """20,000 patients, 2,000 replicates: as floats 320 MB; and no more than a few MB at a time are held."""
    truth = (rng.random(20_000) < 0.2).astype(float)
    statistic = weighted_auroc(truth, rng.normal(size=20_000) + truth, np.arange(20_000))
    tracemalloc.start()
    drawn, _ = resampled(statistic, 20_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(drawn) == 2000
    assert peak < 20e6
