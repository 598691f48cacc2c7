"""The numbers of a comparison against closed forms, other libraries, slow twins and simulations with a known truth."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from medssl.evaluate import compare
from medssl.evaluate.comparison.compared import METRICS, measure_precision
from medssl.evaluate.comparison.effects import covariance, effect


def logistic(x):
    return 1 / (1 + np.exp(-x))


def tables(seed, *, patients=200, eyes=1, muted=0.0, lift=0.0, noise=0.7, races="abcd"):
    """Two models' predictions of the same patients: both see a common signal and have noise of their own. The second sees
    `muted` less of the signal in race d, and `lift` more of it in everybody.
    """
    rng = np.random.default_rng(seed)
    n = np.repeat(np.arange(patients), eyes)
    race = np.array(list(races))[rng.integers(0, len(races), patients)][n]
    label = rng.integers(0, 2, patients)[n].astype(float)
    eye = rng.normal(size=patients)[n] + 0.5 * rng.normal(size=len(n))
    plain = pd.DataFrame({
        "sample_id": [f"s{k}" for k in range(len(n))], "patient_id": [f"p{k}" for k in n], "split": "test",
        "label": label, "race": race,
    })  # fmt: skip
    first, second = (
        plain.assign(score=logistic(eye + strength * label - 0.7 + noise * rng.normal(size=len(n))))
        for strength in (1.3, 1.3 + lift - muted * (race == "d"))
    )
    return first, second


def columns(first, second):
    """What `effect` takes, of rows in the same order."""
    codes = pd.factorize(first["patient_id"])[0]
    return first.assign(patient=codes, first0=first["score"], second0=second["score"]), int(codes.max()) + 1


def test_paired_delong_by_loops():
    first, second = tables(0, patients=60)
    truth = first["label"].to_numpy() == 1
    components = []
    for table in (first, second):
        high, low = table["score"].to_numpy()[truth], table["score"].to_numpy()[~truth]
        wins = np.array([[(a > b) + 0.5 * (a == b) for b in low] for a in high])
        components.append((wins.mean(1), wins.mean(0)))
    (a10, a01), (b10, b01) = components
    variance = np.var(b10 - a10, ddof=1) / truth.sum() + np.var(b01 - a01, ddof=1) / (~truth).sum()
    (row,) = compare(first, second)["results"]
    half = stats.t.ppf(0.975, min(truth.sum(), (~truth).sum()) - 1) * np.sqrt(variance)
    assert row["value"] == pytest.approx(b10.mean() - a10.mean())
    assert (row["low"], row["high"]) == pytest.approx((row["value"] - half, row["value"] + half))


def test_influences_on_average_precision_are_derivatives():
    rng = np.random.default_rng(3)
    truth, score = rng.integers(0, 2, 40), rng.integers(0, 12, 40) / 12  # with ties
    patient = rng.permutation(np.repeat(np.arange(20), 2))
    measured = measure_precision(truth.astype(float), score, patient, 20)
    assert measured.value == pytest.approx(average_precision_score(truth, score))
    for who in range(20):
        heavy, light = (1 + sign * 1e-5 * (patient == who) for sign in (1, -1))
        slope = np.subtract(*(average_precision_score(truth, score, sample_weight=w) for w in (heavy, light))) / 2e-5
        assert measured.influence[who] / np.sqrt(20 / 19) == pytest.approx(slope, abs=1e-8)
    assert measured.influence.sum() == pytest.approx(0, abs=1e-12)
    assert np.isnan(measure_precision(np.zeros(4), score[:4], np.arange(4), 4).value)


@pytest.mark.parametrize("metric", ["brier", "sensitivity", "specificity"])
def test_means_of_one_row_a_patient_are_a_paired_t(metric):
    first, second = tables(1)
    both = []
    for table in (first, second):
        judged = table.assign(split=np.where(np.arange(len(table)) % 3 == 0, "val", "test"))
        both.append(judged)
    test = [table[table["split"] == "test"] for table in both]
    found = compare(*both, metric=metric)
    if metric == "brier":
        values = [np.square(table["score"] - table["label"]) for table in test]
    else:
        cuts = [float(told["provenance"][0].split(",")[0]) for told in found["thresholds"]]
        wanted = float(metric == "sensitivity")
        kept = test[0]["label"] == wanted
        values = [
            ((table["score"] >= cut) == wanted)[kept].astype(float) for table, cut in zip(test, cuts, strict=True)
        ]
        assert cuts[0] != cuts[1]
    expected = stats.ttest_rel(values[1], values[0]).confidence_interval(0.95)
    row = found["results"][0]
    assert (row["first"], row["second"]) == pytest.approx((values[0].mean(), values[1].mean()))
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))


def test_two_eyes_are_one_patient():
    """The variance of a ratio of sums over patients, by hand; and the same table twice is no better known."""
    first, second = tables(2, eyes=2)
    first.loc[0, "label"] = second.loc[0, "label"] = np.nan  # patients do not all have two rows
    wide = (np.square(second["score"] - second["label"]) - np.square(first["score"] - first["label"])).dropna()
    mean, names = wide.mean(), first["patient_id"][wide.index]
    sums = (wide - mean).groupby(names).sum()
    error = np.sqrt(len(sums) / (len(sums) - 1) * np.square(sums).sum()) / len(wide)
    (row,) = compare(first, second, metric="brier")["results"]
    assert (row["high"] - row["low"]) / 2 == pytest.approx(stats.t.ppf(0.975, len(sums) - 1) * error)
    alone = tables(2)
    twice = [pd.concat([t, t.assign(sample_id="again" + t["sample_id"])]) for t in alone]
    for metric in ("auroc", "average_precision", "brier"):
        once, again = (compare(*pair, metric=metric)["results"][0] for pair in (alone, twice))
        assert (once["value"], once["low"], once["high"]) == pytest.approx(
            (again["value"], again["low"], again["high"])
        )


@pytest.mark.parametrize(
    ("metric", "score", "by", "group"),
    [
        ("auroc", roc_auc_score, "race", "d"),
        ("average_precision", average_precision_score, "race", "d"),
        ("auroc", roc_auc_score, "eye", "L"),  # of every patient one eye is in the group and one in the rest
    ],
)
def test_a_gap_that_changed_has_the_spread_of_a_slow_bootstrap(metric, score, by, group):
    first, second = (
        table.assign(eye=["R", "L"] * 240) for table in tables(5, patients=240, eyes=2, muted=0.8, noise=0.3)
    )
    (row,) = [one for one in compare(first, second, metric=metric, by=[by])["gap_changes"] if one["group"] == group]
    label, inside = first["label"].to_numpy(), (first[by] == group).to_numpy()
    models = [table["score"].to_numpy() for table in (first, second)]

    def change(rows):
        a, b = (
            score(label[rows][inside[rows]], model[rows][inside[rows]])
            - score(label[rows][~inside[rows]], model[rows][~inside[rows]])
            for model in models
        )
        return b - a

    rng, eyes = np.random.default_rng(0), np.arange(len(first)).reshape(-1, 2)
    draws = [change(eyes[rng.integers(0, len(eyes), len(eyes))].ravel()) for _ in range(400)]
    assert row["value"] == pytest.approx(change(np.arange(len(first))))
    assert row["smallest_detectable"] / 2.8 == pytest.approx(np.std(draws), rel=0.12)


def test_runs_and_patients_are_crossed():
    """The two-way analysis of variance of squared errors, by hand."""
    first, second = tables(7, patients=50)
    rng = np.random.default_rng(1)
    rows, patients = columns(first, second)
    for n in range(4):
        for side in ("first", "second"):
            # Runs differ: some are bolder than others.
            rows[f"{side}{n}"] = logistic((1 + rng.normal() / 2) * (rows["label"] - 0.5) + rng.normal(size=50) / 3)
    found = effect(rows, METRICS["brier"], patients)
    cells = np.stack([
        np.square(rows[f"second{n}"] - rows["label"]) - np.square(rows[f"first{n}"] - rows["label"]) for n in range(4)
    ])  # fmt: skip
    runs, people, whole = cells.mean(1, keepdims=True), cells.mean(0, keepdims=True), cells.mean()
    of_people, of_runs = 4 * np.var(people, ddof=1), 50 * np.var(runs, ddof=1)
    of_both = np.square(cells - runs - people + whole).sum() / (3 * 49)
    assert of_runs > of_both
    assert found.value == pytest.approx(whole)
    # Influences are scaled for P - 1 in each run, the interaction as well.
    assert covariance([found])[0, 0] == pytest.approx((of_people + of_runs - of_both) / 200)


def test_equal_models_are_rejected_about_as_often_as_said():
    """Alone about one in twenty; of four groups, and of their gaps, at least one of all about one in twenty."""
    alone = groups = gaps = singles = 0
    for seed in range(150):
        told = compare(*tables(seed, patients=200), by=["race"])
        whole, *rows = told["results"]
        alone += whole["low"] > 0 or whole["high"] < 0
        singles += any(row["low"] > 0 or row["high"] < 0 for row in rows)
        groups += any(row["adjusted_low"] > 0 or row["adjusted_high"] < 0 for row in rows)
        gaps += any(row["verdict"] in ("widened", "narrowed") for row in told["gap_changes"])
    # 150 draws at .05: 7.5, standard deviation 2.7; with degrees of freedom of the smallest group it is rather fewer.
    assert 2 <= alone <= 16
    assert 1 <= groups <= 14
    assert 1 <= gaps <= 14
    assert singles > groups


def test_a_planted_change_of_a_gap_is_found_and_told_as_wider():
    told = compare(*tables(11, patients=1600, muted=1.2), by=["race"])
    rows = {row["group"]: row for row in told["gap_changes"]}
    assert rows["d"]["verdict"] == "widened"
    assert rows["d"]["adjusted_high"] < 0 < rows["a"]["value"]
    back = {
        row["group"]: row for row in compare(*tables(11, patients=1600, muted=1.2)[::-1], by=["race"])["gap_changes"]
    }
    assert back["d"]["verdict"] == "narrowed"
    assert back["d"]["value"] == pytest.approx(-rows["d"]["value"])
    assert {row["group"]: row["verdict"] for row in told["results"] if row["attribute"]}["d"] == "worse"


def test_intervals_over_runs_hold_the_truth():
    """Two ways of training that are as good, whose runs differ: one run of each is taken for a difference too often."""
    held = fooled = 0
    count = 60
    for seed in range(count):
        rng = np.random.default_rng(1000 + seed)
        label = rng.integers(0, 2, 300).astype(float)
        eye = rng.normal(size=300)
        plain = pd.DataFrame({
            "sample_id": [f"s{k:03d}" for k in range(300)], "patient_id": [f"p{k}" for k in range(300)], "split": "test",
            "label": label,
        })  # fmt: skip
        runs = [
            plain.assign(score=logistic(eye + (1.2 + 0.5 * rng.normal()) * label + 0.3 * rng.normal(size=300)))
            for _ in range(6)
        ]
        (row,) = compare(runs[:3], runs[3:])["results"]
        held += row["low"] <= 0 <= row["high"]
        (one,) = compare(runs[0], runs[3])["results"]
        fooled += not one["low"] <= 0 <= one["high"]
    assert held / count >= 0.9
    assert fooled / count > 0.3
