"""Predictive values and net benefit where the finding is as common as in use: Bayes by hand, errors by a jackknife."""

import math

import numpy as np
import pandas as pd
import pytest

from medssl.errors import UserError
from medssl.evaluate import evaluate
from medssl.evaluate.decision import Acted, benefits
from medssl.evaluate.deployment import predictive_value


def cohort(patients=150, seed=0):
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), 2)
    sick = rng.random(2 * patients) < 0.45  # often of one eye: both rates then move with the same patient
    return sick, (rng.random(patients)[patient] < np.where(sick, 0.8, 0.25)), patient


def by_bayes(sick, flagged, prevalence):
    found, alarmed = flagged[sick].mean(), flagged[~sick].mean()
    yes = prevalence * found / (prevalence * found + (1 - prevalence) * alarmed)
    no = (1 - prevalence) * (1 - alarmed) / ((1 - prevalence) * (1 - alarmed) + prevalence * (1 - found))
    return yes, no


@pytest.mark.parametrize("prevalence", [0.01, 0.3, 0.9])
@pytest.mark.parametrize("positive", [True, False], ids=["ppv", "npv"])
def test_value_is_bayes_and_error_a_jackknifes(prevalence, positive):
    sick, flagged, patient = cohort(400)
    found = predictive_value(sick, flagged, patient, prevalence, positive=positive)
    odds = [by_bayes(sick[patient != p], flagged[patient != p], prevalence)[not positive] for p in range(400)]
    odds = np.log(np.array(odds) / (1 - np.array(odds)))
    error = math.sqrt(399 / 400 * np.square(odds - odds.mean()).sum())
    assert found["value"] == pytest.approx(by_bayes(sick, flagged, prevalence)[not positive])
    ends = [math.log(found[end] / (1 - found[end])) for end in ("low", "high")]
    assert (ends[1] - ends[0]) / 2 / error == pytest.approx(1.98, abs=0.06)


def test_at_the_cohorts_own_prevalence_it_is_the_cohorts_own():
    sick, flagged, patient = cohort()
    found = predictive_value(sick, flagged, patient, sick.mean(), positive=True)
    assert found["value"] == pytest.approx(sick[flagged].mean())
    found = predictive_value(sick, flagged, patient, sick.mean(), positive=False)
    assert found["value"] == pytest.approx((~sick[~flagged]).mean())


def test_where_a_rate_is_at_its_end_or_a_class_is_missing_there_is_none():
    sick, patient = np.repeat([True, False], 20), np.arange(40)
    for flagged in (sick, ~sick, np.ones(40, bool), np.zeros(40, bool)):
        assert predictive_value(sick, flagged, patient, 0.1, positive=True) is None
    assert predictive_value(sick[:20], patient[:20] < 5, patient[:20], 0.1, positive=False) is None
    assert predictive_value(sick[:0], sick[:0], patient[:0], 0.1, positive=False) is None


def test_net_benefit_in_use_is_that_of_rates_and_prevalence():
    sick, _, patient = cohort()
    score = np.random.default_rng(1).beta(np.where(sick, 3, 1), 2)
    thresholds = np.array([0.1, 0.5])
    own = Acted(sick.astype(float), score, patient, thresholds)
    (rare,), (same,), (here,) = (benefits([own], 150, prevalence=one) for one in (0.05, sick.mean(), None))
    for k, t in enumerate(thresholds):
        found, alarmed = (score[sick] >= t).mean(), (score[~sick] >= t).mean()
        assert rare.value[k] == pytest.approx(0.05 * found - 0.95 * alarmed * t / (1 - t))
        assert rare.everybody[k] == pytest.approx(0.05 - 0.95 * t / (1 - t))
        assert rare.band[0, k] < rare.value[k] < rare.band[1, k]
    assert same.value == pytest.approx(here.value)
    # What is known of the place of use is not drawn.
    assert np.ptp(same.band, axis=0)[0] < np.ptp(here.band, axis=0)[0]


def test_the_report_tells_it_only_where_it_was_declared():
    n = np.arange(400)
    rng = np.random.default_rng(0)
    label = (rng.random(400) < 0.4).astype(float)
    rows = pd.DataFrame({"sample_id": n.astype(str), "patient_id": n.astype(str), "label": label,
                         "split": np.where(n % 4 == 0, "val", "test"), "race": np.where(n < 8, "rare", "A"),
                         "score": np.clip(0.3 * label + 0.7 * rng.random(400), 0, 1)})  # fmt: skip
    told, silent = (
        evaluate({"it": rows}, by=["race"], prevalence=one)["analyses"][0]["sections"] for one in (0.02, None)
    )
    whole, _, rare = told["operating"]["rows"]
    assert whole["deployment"]["ppv"]["value"] < whole["rates"]["ppv"]["value"]
    assert whole["deployment"]["npv"]["value"] > whole["rates"]["npv"]["value"]
    assert rare["deployment"] == {}
    assert told["decision"]["prevalence"] == 0.02
    assert all(row["deployment"] == {} for row in silent["operating"]["rows"])
    with pytest.raises(UserError, match="prevalence 2"):
        evaluate({"it": rows}, prevalence=2)
