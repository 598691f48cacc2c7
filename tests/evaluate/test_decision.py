"""Net benefit: worked by hand, as loops have it, with a band over patients, and nobody to be told from its steps."""

import math
import re
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.evaluate import evaluate
from medssl.evaluate.bootstrap import weights
from medssl.evaluate.decision import GRID, Acted, benefits, cuts, net_benefit
from medssl.report.sections.decision import draw_decision

drawn = st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.integers(0, 5)), min_size=1, max_size=50)


def columns(rows):
    truth, score, patient = (np.array(one, float) for one in zip(*rows, strict=True))
    return truth, score / 20, np.unique(patient, return_inverse=True)[1]


def cohort(patients, seed=0, rows=2):
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rows)
    score = np.clip(rng.beta(1, 2, patients)[patient] + 0.02 * rng.normal(size=len(patient)), 0, 1)
    return (rng.random(patients)[patient] < score).astype(float), score, patient


def test_worked_by_hand():
    """Of 100, 30 have it; at .25 the model finds 26 and raises 46 false alarms, each worth a third of a find.

    26/100 - 46/100 / 3 = .1067. Multiplied instead of subtracted, as a well-known library has it, it would be .0399.
    """
    truth = np.r_[np.ones(30), np.zeros(70)]
    score = np.r_[np.full(26, 0.4), np.full(4, 0.1), np.full(46, 0.25), np.full(24, 0.2)]
    assert net_benefit(truth=truth, score=score, threshold=0.25) == pytest.approx(26 / 100 - 46 / 100 / 3)
    (found,) = benefits([Acted(truth, score, np.arange(100), np.array([0.1, 0.25, 0.45]))], 100)
    everybody = [0.3 - 0.7 / 9, 0.3 - 0.7 / 3, 0.3 - 0.7 * 9 / 11]
    assert found.value == pytest.approx([everybody[0], 26 / 100 - 46 / 300, 0])
    assert found.everybody == pytest.approx(everybody)
    assert found.gain == pytest.approx([0, 26 / 100 - 46 / 300 - everybody[1], 0])
    assert math.isnan(net_benefit(truth=np.zeros(0), score=np.zeros(0), threshold=0.5))


@settings(deadline=None, max_examples=40)
@given(drawn)
def test_curves_are_those_of_loops_over_rows(rows):
    truth, score, patient = columns(rows)
    thresholds = np.array([0.05, 0.1, 0.3, 0.5, 0.75, 0.95])
    (found,) = benefits([Acted(truth, score, patient, thresholds)], int(patient.max()) + 1)
    for k, threshold in enumerate(thresholds):
        price = threshold / (1 - threshold)
        worth = sum((1 if sick else -price) for sick, s in zip(truth, score, strict=True) if s >= threshold)
        worth_of_all = sum(1 if sick else -price for sick in truth)
        assert found.value[k] == pytest.approx(worth / len(truth), abs=1e-12)
        assert found.everybody[k] == pytest.approx(worth_of_all / len(truth), abs=1e-12)
        assert found.value[k] == pytest.approx(net_benefit(truth=truth, score=score, threshold=threshold), abs=1e-12)


def test_the_band_is_that_of_drawing_patients_one_by_one():
    truth, score, patient = cohort(40, rows=3)
    part = patient < 25
    thresholds = np.array([0.1, 0.4, 0.7])
    whole, group = benefits([
        Acted(truth, score, patient, thresholds), Acted(truth[part], score[part], patient[part], thresholds),
    ], 40)  # fmt: skip
    for found, inside in (whole, patient >= 0), (group, part):
        values, gains = [], []
        for weight in np.concatenate(list(weights(40)), axis=1).T.astype(int):
            rows = np.repeat(np.flatnonzero(inside), weight[patient[inside]])
            own = [net_benefit(truth=truth[rows], score=score[rows], threshold=t) for t in thresholds]
            everybody = [net_benefit(truth=truth[rows], score=np.ones(len(rows)), threshold=t) for t in thresholds]
            values.append(own)
            gains.append(np.array(own) - np.maximum(everybody, 0))
        assert found.band == pytest.approx(np.quantile(values, [0.025, 0.975], axis=0), abs=1e-6)
        assert found.gain_band == pytest.approx(np.quantile(gains, [0.025, 0.975], axis=0), abs=1e-6)


def test_the_band_is_as_wide_as_errors_over_patients_say_and_two_eyes_alike_are_one():
    truth, score, patient = cohort(500, rows=1)
    thresholds = np.array([0.2, 0.4])
    (once,) = benefits([Acted(truth, score, patient, thresholds)], 500)
    twice = [np.repeat(one, 2) for one in (truth, score, patient)]
    (both,) = benefits([Acted(*twice, thresholds)], 500)
    assert both.band == pytest.approx(once.band, abs=1e-6)
    for k, threshold in enumerate(thresholds):
        worth = np.where(truth == 1, 1, -threshold / (1 - threshold)) * (score >= threshold)
        assert np.ptp(once.band[:, k]) == pytest.approx(2 * 1.96 * worth.std() / math.sqrt(500), rel=0.08)


def test_a_group_that_draws_are_often_without_has_no_band():
    truth, score, patient = cohort(100, rows=1)
    (found,) = benefits([Acted(truth[:1], score[:1], patient[:1], np.array([0.5]))], 100)
    assert np.isfinite(found.value).all() and np.isnan(found.band).all() and np.isnan(found.gain_band).all()


@settings(deadline=None, max_examples=60)
@given(drawn, st.integers(1, 4), st.sampled_from([None, 0.33, 0.5]))
def test_between_two_thresholds_is_nobody_or_enough_to_hide_among(rows, minimum, fixed):
    _, score, patient = columns(rows)
    kept = cuts(score, patient, minimum, fixed)
    assert (np.diff(kept) > 0).all()
    assert fixed is None or fixed in kept
    assert set(kept) - {fixed} <= set(GRID)
    edges = [-np.inf, *kept, np.inf] if len(kept) else []
    for low, high in pairwise(edges):
        people = len(set(patient[(score >= low) & (score < high)]))
        # The fixed threshold is told in any case, with what happens at it.
        assert not 0 < people < minimum or fixed in (low, high)


def test_of_many_patients_every_threshold_is_told():
    score = np.random.default_rng(0).random(5000)
    assert cuts(score, np.arange(5000), 11).tolist() == list(GRID)
    assert len(cuts(score[:150], np.arange(150), 11)) < 15


def table(patients=1200):
    rng = np.random.default_rng(1)
    score = rng.beta(1, 3, patients)
    names, n = np.arange(patients).astype(str), np.arange(patients)
    small = np.array(["rare", "rarer", "rarest"])[n // 6 % 3]  # three: who hides one alone must hide another
    race = np.where(n < 18, small, np.where(n < 64, "few", np.where(n % 3 == 0, "some", "many")))
    return pd.DataFrame({"sample_id": names, "patient_id": names, "split": np.where(n % 4 == 3, "val", "test"),
                         "score": score, "race": race, "label": (rng.random(patients) < score).astype(float)})  # fmt: skip


def section(rows):
    (analysis,) = evaluate({"it": rows}, by=["race"])["analyses"]
    return analysis["sections"]["decision"]


def test_a_calibrated_model_is_of_use_and_one_that_guesses_is_not():
    rows = table()
    found = section(rows)
    whole = found["rows"][0]
    assert any(first < 0.25 < last for first, last in whole["better"])
    shown = [point["threshold"] for point in whole["curve"] if point["gain_low"] > 0]
    assert shown == [
        point["threshold"] for point in whole["curve"]
        if any(first <= point["threshold"] <= last for first, last in whole["better"])
    ]  # fmt: skip
    assert 0 < len(shown) < sum(point["gain"] > 0 for point in whole["curve"])
    (at,) = [point for point in whole["curve"] if point["threshold"] == found["fixed"]]
    assert at["gain_low"] > 0 and at["low"] < at["value"] < at["high"]
    guessed = section(rows.assign(score=np.random.default_rng(2).random(len(rows))))["rows"][0]
    assert sum(last - first for first, last in guessed["better"]) < 0.05
    assert all(point["gain"] < 0.02 for point in guessed["curve"])


@pytest.mark.parametrize(("prevalence", "cut"), [(0.02, False), (0.5, True)])
def test_words_at_a_curve_stay_beside_it(prevalence, cut):
    curve = [
        {"threshold": t, "value": v, "everybody": (prevalence - t) / (1 - t), "low": v - 0.01, "high": v + 0.01}
        for t in GRID
        for v in [prevalence / 2 - t]
    ]
    whole = {"attribute": "", "group": "all", "curve": curve}
    svg = draw_decision({"rows": [whole], "fixed": None}, "d")["everybody"]
    places = {
        name: re.search(rf'<text ([^>]*) y="([-\d.]+)"[^>]*>{name}<', svg) for name in ("flag everybody", "the model")
    }
    assert ("text-anchor: end" in places["flag everybody"][1]) == cut
    assert all(0 < float(place[2]) < 3.6 * 72 for place in places.values())


def test_groups_that_are_too_small_have_a_reason_and_no_curve():
    rows = {row["group"]: row for row in section(table())["rows"]}
    assert rows["rare"]["reason"] == "fewer than 11 patients"
    assert rows["few"]["reason"] == "fewer than 50 patients"
    assert all(
        rows[name]["curve"] == [] and rows[name]["n_patients"] is None for name in ("rare", "rarer", "rarest", "few")
    )
    assert len(rows["many"]["curve"]) > 10 and rows["some"]["n_patients"] > 100


def test_where_no_threshold_hides_those_at_the_ends_there_is_no_curve():
    n = np.arange(90)
    score = np.select([n < 5, n < 10], [0.0, 1.0], 0.5)
    rows = table(90).assign(score=score, label=n % 2, split="test", race="one")
    assert section(rows)["rows"][0]["reason"] == "no threshold parts enough patients from the others"


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_of_one_class_there_is_no_curve(label):
    rows = section(table().assign(label=label))["rows"]
    assert {row["reason"] for row in rows} <= {
        "fewer than 5 patients with a positive", "fewer than 5 patients with a negative", "fewer than 50 patients",
        "fewer than 11 patients",
    }  # fmt: skip


@pytest.mark.parametrize("scores", ["equal", "0 and 1"])
def test_scores_at_the_edge(scores):
    rows = table()
    found = section(rows.assign(score=0.3 if scores == "equal" else rows["label"]))
    curve = found["rows"][0]["curve"]
    assert [point["threshold"] for point in curve if point["threshold"] != found["fixed"]] == [
        one for one in GRID if one != found["fixed"]
    ]
    prevalence = rows.loc[rows["split"] == "test", "label"].mean()
    if scores == "0 and 1":
        assert all(point["value"] == pytest.approx(prevalence) for point in curve)
