"""Balanced gaps: weights by hand, metrics with weights as scikit-learn's, a gap that is the site's and one that is not."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from medssl.evaluate import evaluate
from medssl.evaluate.casemix import balance, effective_patients, measure_weighted_auroc, measure_weighted_share
from medssl.evaluate.metrics import measure_auroc, measure_share

scored = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 8), st.integers(0, 3)), min_size=6, max_size=40
).filter(lambda rows: {0, 1} == {label for label, _, _, weight in rows if weight})


def columns(rows):
    return (np.array(column, float if k != 2 else int) for k, column in enumerate(zip(*rows, strict=True)))


@settings(max_examples=80, deadline=None)
@given(scored)
def test_auroc_with_weights_is_scikit_learns_and_its_influence_a_derivative(rows):
    truth, score, patient, weight = columns(rows)
    found = measure_weighted_auroc(truth=truth, score=score, weight=weight, patient=patient, patients=9)
    assert found.value == pytest.approx(roc_auc_score(truth, score, sample_weight=weight))
    classes = [patient[(truth == label) & (weight > 0)] for label in (1, 0)]
    counts = [len(np.unique(one)) for one in classes]
    if counts[0] == counts[1]:  # then the small-sample factor is one
        factor = math.sqrt(counts[0] / max(counts[0] - 1, 1))
        for one in range(9):
            heavier = weight * (1 + 1e-6 * (patient == one))
            slope = (roc_auc_score(truth, score, sample_weight=heavier) - found.value) / 1e-6
            assert found.influence[one] == pytest.approx(factor * slope, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(scored)
def test_with_equal_weights_it_is_the_metric_without(rows):
    truth, score, patient, _ = columns(rows)
    if len(set(truth)) < 2:
        return
    equal = np.full(len(truth), 2.5)
    ours = measure_weighted_auroc(truth=truth, score=score, weight=equal, patient=patient, patients=9)
    plain = measure_auroc(truth, score, patient, 9)
    assert ours.value == pytest.approx(plain.value)
    assert ours.influence == pytest.approx(plain.influence, abs=1e-12)
    assert ours.freedom == pytest.approx(plain.freedom, nan_ok=True)
    ours = measure_weighted_share(hit=truth, weight=equal, patient=patient, patients=9)
    plain = measure_share(truth, patient, 9)
    assert (ours.value, ours.freedom) == pytest.approx((plain.value, plain.freedom))
    assert ours.influence == pytest.approx(plain.influence, abs=1e-12)


def test_nothing_with_weight_is_nan():
    none = {"weight": np.zeros(4), "patient": np.arange(4), "patients": 4}
    assert math.isnan(measure_weighted_share(hit=np.ones(4), **none).value)
    assert math.isnan(measure_weighted_auroc(truth=np.array([0, 1, 0, 1.0]), score=np.arange(4.0), **none).value)
    assert effective_patients(none["weight"], none["patient"]) == 0


def test_what_weighted_rows_are_worth():
    assert effective_patients(np.ones(10), np.repeat(np.arange(5), 2)) == pytest.approx(5)
    assert effective_patients(np.array([3, 1.0, 0]), np.arange(3)) == pytest.approx(16 / 10)


def test_weights_by_hand():
    """Positives: the group has 1 of x and 3 of y, the rest 3 of x and 1 of y, both together 4 and 4; z is one-sided."""
    truth = np.ones(10)
    inside = np.array([True] * 5 + [False] * 5)
    stratum = np.array(list("xyyyz" + "xxxyx"))
    stratum[-1] = "w"
    found = balance(truth=truth, inside=inside, stratum=stratum)
    assert found.weight == pytest.approx([2, 2 / 3, 2 / 3, 2 / 3, 0, 2 / 3, 2 / 3, 2 / 3, 2, 0])
    assert found.outside == pytest.approx((1.0, 0.2))  # of negatives there are none


def test_a_balanced_rate_is_the_directly_standardised_one():
    rng = np.random.default_rng(0)
    inside, stratum = rng.random(800) < 0.3, rng.integers(0, 4, 800)
    hit = (rng.random(800) < 0.4 + 0.15 * stratum).astype(float)
    weight = balance(truth=np.ones(800), inside=inside, stratum=stratum).weight
    found = measure_weighted_share(
        hit=hit[inside], weight=weight[inside], patient=np.arange(inside.sum()), patients=800
    )
    by_stratum = [hit[inside & (stratum == s)].mean() for s in range(4)]
    assert found.value == pytest.approx(np.dot(by_stratum, np.bincount(stratum) / 800))


def test_the_error_of_a_balanced_rate_is_not_too_small():
    """Against a bootstrap over patients that weighs anew each time: not below it, and not half as large again."""
    rng = np.random.default_rng(1)
    count, truth = 600, np.ones(600)
    inside, stratum = rng.random(count) < 0.4, rng.integers(0, 3, count)
    inside |= (stratum == 0) & (rng.random(count) < 0.5)
    hit = (rng.random(count) < 0.3 + 0.2 * stratum).astype(float)

    def gap(rows):
        weight = balance(truth=truth[rows], inside=inside[rows], stratum=stratum[rows]).weight
        sides = [
            measure_weighted_share(
                hit=hit[rows][s], weight=weight[s], patient=np.arange(len(rows))[s], patients=len(rows)
            )
            for s in (inside[rows], ~inside[rows])
        ]
        return sides[0].value - sides[1].value, np.linalg.norm(sides[0].influence - sides[1].influence)

    again = np.std([gap(rng.integers(0, count, count))[0] for _ in range(600)])
    assert 0.97 * again < gap(np.arange(count))[1] < 1.5 * again


def table(of_site, of_race, patients=4000, seed=0):
    """Race b is mostly at the site where the score is worse by `of_site`; race itself takes `of_race`."""
    rng = np.random.default_rng(seed)
    label = (rng.random(patients) < 0.4).astype(float)
    race = np.where(rng.random(patients) < 0.3, "b", "a")
    site = np.where(rng.random(patients) < np.where(race == "b", 0.8, 0.2), "south", "north")
    apart = 1.8 - of_site * (site == "south") - of_race * (race == "b")
    return pd.DataFrame({
        "sample_id": np.arange(patients).astype(str), "patient_id": np.arange(patients).astype(str),
        "split": np.where(np.arange(patients) % 4 == 0, "val", "test"), "label": label,
        "score": norm.cdf(rng.normal(size=patients) + label * apart - 0.8), "race": race, "site": site,
        "age": np.array(["young", "old", "unknown"])[rng.integers(0, 3, patients)],
    })  # fmt: skip


def lines(rows, by=("race", "site", "age")):
    (analysis,) = evaluate({"it": rows}, by=list(by))["analyses"]
    content = analysis["sections"]["casemix"]
    found = {
        line["group"]: line for line in content["lines"] if (line["attribute"], line["metric"]) == ("race", "auroc")
    }
    return analysis, content, found


def test_a_gap_that_is_the_sites_goes_when_sites_are_balanced():
    analysis, content, found = lines(table(of_site=1.2, of_race=0))
    line = found["b"]
    assert (line["crude"]["verdict"], line["crude"]["value"] < -0.05) == ("gap", True)
    site, age, both = line["balanced"]
    assert [one["by"] for one in line["balanced"]] == [["site"], ["age"], ["site", "age"]]
    assert age["gap"]["verdict"] == "gap"
    for one in site, both:
        assert one["gap"]["low"] < 0 < one["gap"]["high"]
        assert abs(one["gap"]["value"]) < 0.03
        assert one["outside"] == 0
        assert one["largest_weight"] > 2
    gaps = {(row["metric"], row["group"]): row for row in analysis["gaps"] if row["attribute"] == "race"}
    crude = [line for line in content["lines"] if line["attribute"] == "race"]
    assert len(crude) == 6
    for line in crude:
        theirs = gaps[line["metric"], line["group"]]
        for key in ("value", "low", "high"):
            assert line["crude"][key] == pytest.approx(theirs[key], abs=1e-9)


def test_a_gap_of_the_groups_stays():
    _, _, found = lines(table(of_site=0, of_race=1.2))
    assert [one["gap"]["verdict"] for one in found["b"]["balanced"]] == ["gap"] * 3


def test_what_cannot_be_separated_is_said_to_be_so():
    rows = table(of_site=1.2, of_race=0)
    rows["site"] = np.where(rows["race"] == "b", "south", "north")
    _, content, found = lines(rows, by=("race", "site"))
    (site,) = found["b"]["balanced"]
    assert (site["gap"], site["outside"]) == (None, 1)
    assert site["reason"] == "100 % of the rows are of a kind that only one side has: not separable"
    assert content["left_out"] == []


def test_a_group_with_too_little_is_left_out_by_name():
    rows = table(of_site=0, of_race=0)
    rows.loc[rows.index % 400 < 3, "race"] = "rare"
    rows.loc[rows["race"] == "rare", "label"] = np.where(np.arange((rows["race"] == "rare").sum()) < 4, 1.0, 0.0)
    _, content, found = lines(rows)
    assert set(found) == {"a", "b"}
    told = {
        (line["group"], line["metric"]): line["reason"] for line in content["left_out"] if line["attribute"] == "race"
    }
    assert told["rare", "auroc"] == "a class of a side is worth fewer than 5 patients of equal weight"
    (analysis,) = evaluate({"it": rows}, minimum_patients=40)["analyses"]
    why = {
        line["group"]: line["reason"]
        for line in analysis["sections"]["casemix"]["left_out"]
        if line["attribute"] == "race"
    }
    assert why["rare"] == "fewer than 40 patients"


def test_one_attribute_has_nothing_to_balance():
    (analysis,) = evaluate({"it": table(1, 1)}, by=["race"])["analyses"]
    assert "casemix" not in analysis["sections"]
    assert "intersections" not in analysis["sections"]
