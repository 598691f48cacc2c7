"""Sensitivity at a specificity and the reverse in a report, and that metrics share their draws."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_curve

from medssl.evaluate import bootstrap, evaluate, resampling
from medssl.evaluate.groups import estimate
from medssl.evaluate.intervals import attained_interval, precision_interval
from medssl.evaluate.ranking import rank, sensitivity_at, specificity_at
from medssl.evaluate.resampling import resampled_metrics

NAMES = ["average_precision", "sensitivity_at_specificity_90", "specificity_at_sensitivity_90"]


def table(positives=60, negatives=140, eyes=1, shift=1.7, seed=0):
    rng = np.random.default_rng(seed)
    n = np.repeat(np.arange(positives + negatives), eyes)
    label = (n < positives).astype(float)
    raw = rng.normal(size=positives + negatives)[n] + 0.4 * rng.normal(size=len(n)) + shift * label
    return pd.DataFrame({
        "sample_id": np.arange(len(n)).astype(str), "patient_id": n.astype(str), "split": "test", "label": label,
        "score": 1 / (1 + np.exp(-raw)), "race": np.array(list("ab"))[n % 2],
    })  # fmt: skip


def told(rows, name):
    (metric,) = [metric for metric in resampled_metrics() if metric.name == name]
    return estimate(rows, metric, "", "all", 1)


def test_values_are_those_of_scikit_learns_curve():
    rows = table(eyes=2)
    false, true, _ = roc_curve(rows["label"], rows["score"], drop_intermediate=False)
    assert told(rows, NAMES[1])["value"] == pytest.approx(true[false <= 0.1].max())
    assert told(rows, NAMES[2])["value"] == pytest.approx(1 - false[true >= 0.9].min())
    for name in NAMES[1:]:
        row = told(rows, name)
        assert row["low"] < row["value"] < row["high"]
        assert "threshold of its own" in row["method"]


def test_the_threshold_moves_with_the_replicate():
    """At a threshold held where it was found, the interval would leave out that it was found on these patients."""
    wide = [told(table(seed=seed), NAMES[1]) for seed in range(3)]
    for row in wide:
        p, n = row["value"], 60
        fixed = 2 * stats.norm.ppf(0.975) * np.sqrt(p * (1 - p) / n)
        assert row["high"] - row["low"] > 1.03 * fixed


def test_entering_every_patient_twice_changes_no_interval():
    rows = table()
    twice = pd.concat([rows, rows.assign(sample_id=rows["sample_id"] + "b")])
    for name in NAMES:
        once, again = told(rows, name), told(twice, name)
        assert [again[key] for key in ("value", "low", "high")] == pytest.approx(
            [once[key] for key in ("value", "low", "high")]
        )


@pytest.mark.parametrize(("positives", "negatives", "lacking"), [(19, 80, "positive"), (80, 19, "negative")])
def test_fewer_than_twenty_of_a_class_have_a_reason(positives, negatives, lacking):
    for name in NAMES[1:]:
        row = told(table(positives, negatives, eyes=2), name)
        assert row["value"] is None and row["status"] == "undefined"
        assert row["reason"] == f"fewer than 20 patients with a {lacking}"
    assert told(table(20, 20), NAMES[1])["value"] is not None


def test_what_never_fails_has_wilsons_bound_and_not_certainty():
    rows = table(30, 60, shift=30.0)
    for name, people in (NAMES[1], 30), (NAMES[2], 60):
        row = told(rows, name)
        z = stats.norm.ppf(0.975) ** 2
        assert (row["value"], row["high"]) == (1.0, 1.0)
        assert row["low"] == pytest.approx(people / (people + z))
    perfect = told(rows, NAMES[0])
    assert (perfect["value"], perfect["low"], perfect["method"]) == (1.0, None, "none: at its boundary")
    low, high, _ = attained_interval(0.0, np.zeros(2000), 25)
    assert low == 0.0 and high > 0.1


def test_scores_that_are_all_equal_have_values_and_intervals():
    rows = table().assign(score=0.5)
    assert told(rows, NAMES[1])["value"] == 0.0
    assert told(rows, NAMES[2])["value"] == 0.0
    assert told(rows, NAMES[2])["high"] == pytest.approx(1 - 140 / (140 + stats.norm.ppf(0.975) ** 2))


def test_a_class_that_is_often_not_drawn_has_a_reason_and_no_interval():
    drawn = np.r_[np.full(30, np.nan), np.full(1970, 0.8)]
    assert np.isnan(attained_interval(0.8, drawn, 25)[0])
    assert attained_interval(0.8, drawn, 25)[2] == "none: a class is often drawn empty"


def test_draws_are_shared_and_precision_is_what_it_is_alone(monkeypatch):
    asked = []
    real = bootstrap.resampled
    monkeypatch.setattr(resampling, "resampled", lambda *given: asked.append(given) or real(*given))
    rows = table(eyes=2)
    numbered = rows.assign(patient=pd.factorize(rows["patient_id"])[0])
    metrics = resampled_metrics()
    values = [metric.interval(numbered, metric.measure(numbered, 200)) for metric in metrics]
    assert len(asked) == 1
    alone = precision_interval(*(numbered[name].to_numpy() for name in ("label", "score", "patient")))
    assert values[0] == alone
    truth, score, patient = (numbered[name].to_numpy() for name in ("label", "score", "patient"))
    for place, share in (1, sensitivity_at), (2, specificity_at):
        drawn = [share(rank(truth, score, patient).levels(chunk), 0.9) for chunk in bootstrap.counts(200)]
        assert values[place][:2] == pytest.approx(np.quantile(np.concatenate(drawn), [0.025, 0.975]))
    metrics[0].interval(numbered.assign(score=1 - numbered["score"]), metrics[0].measure(numbered, 200))
    assert len(asked) == 2


def test_a_report_tells_them_and_compares_no_groups_by_them():
    (analysis,) = evaluate({"eye": table(200, 300)}, by=["race"])["analyses"]
    assert {row["metric"] for row in analysis["estimates"]} >= set(NAMES)
    assert not {gap["metric"] for gap in analysis["gaps"]} & set(NAMES)
    for row in analysis["estimates"]:
        assert row["metric"] not in NAMES or row["low"] < row["value"] < row["high"]


@pytest.mark.slow
def test_intervals_at_a_target_cover_the_truth():
    """40 and 100 patients, two eyes: a threshold found on few patients flatters, so 90 to 99 of 100 are accepted."""
    held, draws = np.zeros(2), 250
    true = stats.norm.cdf(1.7 / np.sqrt(1.16) - stats.norm.ppf(0.9))
    for seed in range(draws):
        for place, name in enumerate(NAMES[1:]):
            row = told(table(40, 100, eyes=2, seed=seed), name)
            held[place] += row["low"] <= true <= row["high"]
    assert (held / draws >= 0.90).all() and (held / draws <= 0.99).all()
