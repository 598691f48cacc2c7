"""Differences between groups: as fairlearn's and scikit-learn's, beside what chance makes, with intervals that hold."""

import math

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equal_opportunity_difference,
    equalized_odds_difference,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, ncx2, norm
from sklearn.metrics import precision_score, recall_score, roc_auc_score

from medssl.errors import UserError
from medssl.evaluate import evaluate
from medssl.evaluate.bootstrap import weights
from medssl.evaluate.disparity import (
    AT_ITS_END,
    Cohort,
    between,
    equity_scaled,
    largest,
    measure,
    no_error,
    null_draws,
    range_interval,
    values_by_group,
)
from medssl.evaluate.metrics import Measured
from medssl.report import write_report
from medssl.report.sections.disparity import differences


def cohort(rng, sizes, prevalence=0.3, apart=1.466, rows=1, threshold=1.0):
    """Binormal scores; AUROC of a group is the normal probability of `apart` over the root of two (1.466: .85)."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    truth = (rng.random(len(group)) < np.broadcast_to(prevalence, len(sizes))[group]).astype(float)
    score = rng.normal(size=len(group)) + truth * np.broadcast_to(apart, len(sizes))[group]
    patient, group, truth, score = (np.repeat(x, rows) for x in (np.arange(len(group)), group, truth, score))
    return Cohort(truth=truth, score=score, patient=patient, group=group, threshold=threshold)


def measured(found, name="auroc"):
    return [measure(found, name, found.group == g, found.patient.max() + 1) for g in range(found.group.max() + 1)]


def table(patients=600, seed=3, **columns):
    rng = np.random.default_rng(seed)
    label = (rng.random(patients) < 0.35).astype(float)
    return pd.DataFrame({
        "sample_id": np.arange(patients).astype(str), "patient_id": np.arange(patients).astype(str),
        "split": np.where(np.arange(patients) % 4 == 0, "val", "test"), "label": label,
        "score": np.round(norm.cdf(rng.normal(size=patients) + 1.4 * label - 0.7), 2),
        "race": np.array(list("abc"))[rng.choice(3, patients, p=[0.6, 0.3, 0.1])], **columns,
    })  # fmt: skip


def section(rows, by=("race",), name="it", **options):
    (analysis,) = evaluate({name: rows}, by=list(by), **options)["analyses"]
    return analysis["sections"]["disparity"]


def test_the_named_differences_are_those_of_fairlearn():
    rows = table()
    found = section(rows)
    rows = rows[rows["split"] == "test"]
    said, race = (rows["score"] >= found["threshold"]).astype(int), rows["race"]
    (attribute,) = found["attributes"]
    ours = {row["criterion"]: row for row in attribute["criteria"]} | {
        row["measure"]: row for row in attribute["spreads"]
    }
    asked = {"y_true": rows["label"], "sensitive_features": race}
    theirs = {
        "demographic_parity": demographic_parity_difference(y_pred=said, **asked),
        "equalised_odds": equalized_odds_difference(y_pred=said, **asked),
        "equal_opportunity": equal_opportunity_difference(y_pred=said, **asked),
        "predictive_parity": MetricFrame(metrics=precision_score, y_pred=said, **asked).difference(),
        "auroc": MetricFrame(metrics=roc_auc_score, y_pred=rows["score"], **asked).difference(),
        "sensitivity": MetricFrame(metrics=recall_score, y_pred=said, **asked).difference(),
    }
    assert {name: ours[name]["value"] for name in theirs} == pytest.approx(theirs, abs=1e-12)
    for row in ours.values():
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
        assert 0 < row["null_mean"] < row["null_far"]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=40))
def test_all_groups_at_once_are_each_group_by_itself(rows):
    truth, score, group = (np.array(column, float) for column in zip(*rows, strict=True))
    found = Cohort(truth=truth, score=score, patient=np.arange(len(rows)), group=group.astype(int), threshold=2.5)
    values = values_by_group(found, 3)(found.group)
    for g in range(3):
        t, s = truth[group == g], score[group == g]
        yes = s >= 2.5
        wanted = [
            roc_auc_score(t, s) if 0 < t.sum() < len(t) else math.nan,
            yes[t == 1].mean() if (t == 1).any() else math.nan,
            (~yes)[t == 0].mean() if (t == 0).any() else math.nan,
            t[yes].mean() if yes.any() else math.nan,
            yes.mean() if len(t) else math.nan,
        ]
        assert values[:, g] == pytest.approx(wanted, nan_ok=True)
        names = [name for name, value in zip(found.measures, wanted, strict=True) if not math.isnan(value)]
        alone = {name: measure(found, name, group == g, len(rows)).value for name in names}
        assert list(alone.values()) == pytest.approx([value for value in wanted if not math.isnan(value)])


def test_equity_scaled_forms_of_known_numbers():
    """Eight eyes in two groups: AUROC .9375, of the groups .75 and 1."""
    truth, score = np.array([0, 0, 1, 1, 0, 0, 1, 1.0]), np.array([0.1, 0.4, 0.35, 0.8, 0.2, 0.3, 0.6, 0.7])
    found = Cohort(truth=truth, score=score, patient=np.arange(8), group=np.repeat([0, 1], 4), threshold=0.5)
    values = values_by_group(found, 2)(found.group)
    assert values[0].tolist() == [0.75, 1.0]
    forms = equity_scaled(whole=roc_auc_score(truth, score), groups=values[0])
    wanted = {"es_auc_sum": 0.75, "es_auc_std": 0.833333, "disparity_std": 0.133333, "disparity_max": 0.266667}
    assert forms == pytest.approx(wanted, abs=1e-6)
    sensitivity, specificity, flagged = largest(values)[[1, 2, 4]]
    assert (flagged, max(sensitivity, specificity)) == (0.25, 0.5)


def test_the_sum_form_falls_with_every_group_and_the_other_does_not():
    two, four = (equity_scaled(whole=0.8, groups=np.tile([0.7, 0.9], n)) for n in (1, 2))
    assert two["es_auc_sum"] > four["es_auc_sum"] + 0.05
    assert two["es_auc_std"] == four["es_auc_std"]


def test_truth_and_score_are_not_swapped_in_silence():
    rng = np.random.default_rng(0)
    truth, score, rest = np.tile([0.0, 1.0], 10), rng.random(20), {"patient": np.arange(20), "group": np.zeros(20, int)}
    with pytest.raises(TypeError):
        Cohort(truth, score, rest["patient"], rest["group"], 0.5)
    with pytest.raises(UserError, match="truth and score swapped"):
        Cohort(truth=score, score=truth, threshold=0.5, **rest)


@pytest.mark.parametrize(
    ("sizes", "prevalence", "apart", "by_chance"),
    [([1000] * 2, 0.2, 1.19, 0.021), ([300] * 3, 0.2, 1.19, 0.057), ([150] * 6, 0.15, 1.19, 0.127)],
)
def test_what_chance_makes_of_equal_groups(sizes, prevalence, apart, by_chance):
    """The mean largest difference of AUROC .80 in simulated cohorts of equal groups is what shuffling one cohort says."""
    rng = np.random.default_rng(1)
    cohorts = [cohort(rng, sizes, prevalence, apart) for _ in range(60)]
    seen = [largest(values_by_group(one, len(sizes))(one.group)[0]) for one in cohorts]
    told = [largest(draw[0]) for one in cohorts[:3] for draw in null_draws(one, len(sizes))]
    assert np.mean(seen) == pytest.approx(by_chance, rel=0.12)
    assert np.mean(told) == pytest.approx(by_chance, rel=0.12)


def test_what_prevalence_makes_of_a_perfect_answer_is_part_of_what_chance_makes():
    """A perfect answer flags 80 of 100 here and 20 of 100 there: as large by chance, since only equals are shuffled."""
    truth = np.r_[np.ones(80), np.zeros(20), np.ones(20), np.zeros(80)]
    found = Cohort(truth=truth, score=truth, patient=np.arange(200), group=np.repeat([0, 1], 100), threshold=0.5)
    for draw in null_draws(found, 2):
        assert draw[-1].tolist() == [0.8, 0.2]


def test_patients_are_shuffled_whole():
    """Two eyes of a patient, one sick: shuffling eyes would break pairs, and AUROC within patients would not stay 1."""
    patient = np.repeat(np.arange(60), 2)
    base = np.repeat(np.random.default_rng(0).normal(size=60), 2)
    found = Cohort(
        truth=np.tile([0.0, 1.0], 60),
        score=base,
        patient=patient,
        group=np.repeat(np.arange(60) % 2, 2),
        threshold=None,
    )
    for draw in null_draws(found, 2):
        assert draw.tolist() == [[0.5, 0.5]]  # both eyes have one score: a tie within, a mirror image between patients


def test_draws_from_influences_are_as_wide_as_a_bootstrap_with_shared_weights():
    found = cohort(np.random.default_rng(2), [400, 200, 120], rows=2)
    groups, people = measured(found), found.patient.max() + 1
    drawn = []
    for chunk in weights(people, 512):
        for column in chunk.T:
            weight = column[found.patient]
            drawn.append([
                roc_auc_score(found.truth[found.group == g], found.score[found.group == g],
                              sample_weight=weight[found.group == g]) for g in range(3)
            ])  # fmt: skip
    influence = np.array([one.influence for one in groups])
    for left, right in (0, 1), (0, 2), (1, 2):
        theirs = np.std(np.subtract(*np.array(drawn).T[[left, right]]))
        assert np.linalg.norm(influence[left] - influence[right]) == pytest.approx(theirs, rel=0.12)


def test_of_two_groups_the_range_is_their_difference():
    found = cohort(np.random.default_rng(4), [300, 200], apart=[1.8, 0.6])
    groups = measured(found)
    low, high = range_interval([groups])
    gap = abs(groups[0].value - groups[1].value)
    error = math.hypot(groups[0].error, groups[1].error)
    assert (low, high) == pytest.approx((gap - 1.96 * error, gap + 1.96 * error), abs=0.02)
    turned = range_interval([groups[::-1]])
    assert turned == pytest.approx((low, high), abs=0.003)


def test_entering_every_row_twice_does_not_narrow_the_range():
    once, twice = (cohort(np.random.default_rng(5), [200, 150, 100], rows=rows) for rows in (1, 2))
    assert range_interval([measured(twice)]) == pytest.approx(range_interval([measured(once)]), abs=1e-6)


def test_equalised_odds_hold_over_both_rates():
    """Its interval is over the pairs of both families: never narrower at its upper end than that of either alone."""
    found = cohort(np.random.default_rng(6), [300, 200, 100])
    rates = [measured(found, name) for name in ("sensitivity", "specificity")]
    both = range_interval(rates)
    for one in rates:
        assert both[1] >= range_interval([one])[1] - 1e-9


def test_the_variance_without_noise_is_a_closed_form_for_shares():
    """Variance of shares minus the mean of p(1 - p) / (n - 1): what Lum's estimator is for groups that share nobody."""
    hits, sizes = np.array([30, 64, 45, 20]), np.array([60, 80, 50, 40])
    group = np.repeat(np.arange(4), sizes)
    flagged = np.concatenate([np.arange(n) < hit for hit, n in zip(hits, sizes, strict=True)]).astype(float)
    found = Cohort(truth=np.ones(len(group)), score=flagged, patient=np.arange(len(group)), group=group, threshold=0.5)
    shares = hits / sizes
    wanted = shares.var(ddof=1) - np.mean(shares * (1 - shares) / (sizes - 1))
    spread = between(measured(found, "sensitivity"))
    assert spread.value == pytest.approx(math.sqrt(wanted))
    assert spread.low < spread.value < spread.high
    assert spread.lowest in (0, 3)
    assert shares.min() < spread.shrunken < shares.mean()
    assert 0.4 < spread.again < 0.6  # two groups are at .5


@pytest.mark.parametrize("values", [[0.7, 0.7, 0.8, 0.9], [0.8, 0.8, 0.8, 0.8]])
def test_the_ends_of_the_spread_are_without_the_noise_that_redrawing_adds(values):
    """Of equal errors, redrawn variances are noncentral chi-squared, and hold the noise twice."""
    error, free = 0.04, 3
    groups = [Measured(value, error * one, 100, "logit") for value, one in zip(values, np.eye(4), strict=True)]
    seen = np.var(values, ddof=1) * free / error**2
    drawn = (ncx2.ppf([0.025, 0.975], free, seen) if seen > 1e-9 else chi2.ppf([0.025, 0.975], free)) * error**2 / free
    found = between(groups)
    assert (found.low, found.high) == pytest.approx(np.sqrt(np.maximum(drawn - 2 * error**2, 0)), abs=0.002)


def test_in_equal_groups_the_spread_is_often_nothing_and_its_variance_right_on_average():
    rng = np.random.default_rng(7)
    found = [between(measured(cohort(rng, [200] * 4))) for _ in range(60)]
    assert np.mean([one.value == 0 for one in found]) > 0.4
    assert np.mean([one.low == 0 for one in found]) > 0.9
    apart = [0.8, 1.2, 1.6, 2.0]
    true = norm.cdf(np.array(apart) / math.sqrt(2)).std(ddof=1)
    found = [between(measured(cohort(rng, [300] * 4, apart=apart))) for _ in range(60)]
    assert np.mean([one.value**2 for one in found]) == pytest.approx(true**2, rel=0.15)
    assert np.mean([one.low <= true <= one.high for one in found]) > 0.88


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "apart"), [([150] * 6, [1.466] * 6), ([1000, 100], [1.466] * 2), ([1000, 400, 100], [1.6, 1.4, 0.8])]
)
def test_the_interval_of_the_largest_difference_covers_it(sizes, apart):
    """In 200 cohorts of two rows a patient; meant 95 %, 90 % allowed. Percentiles of a bootstrap never cover 0."""
    rng = np.random.default_rng(8)
    true, covered = np.ptp(norm.cdf(np.array(apart) / math.sqrt(2))), 0
    for _ in range(200):
        low, high = range_interval([measured(cohort(rng, sizes, 0.25, apart, rows=2))])
        covered += low <= true <= high
    assert covered / 200 >= 0.9


def test_groups_that_cannot_be_measured_are_named_and_no_number():
    """Group c has one class, d and e too few patients, unknown is no group."""
    race = np.array(["a", "b", "c", "d", "e", "unknown"])[
        np.r_[np.repeat([0, 1], 250), np.repeat([2, 5], 40), [3, 4] * 10]
    ]
    rows = table(race=race).assign(split=lambda t: np.where(np.arange(len(t)) % 4 == 0, "val", "test"))
    rows.loc[rows["race"] == "c", "label"] = 0
    (attribute,) = section(rows)["attributes"]
    ours = {row["criterion"]: row for row in attribute["criteria"]} | {
        row["measure"]: row for row in attribute["spreads"]
    }
    few = [{"group": name, "reason": "fewer than 11 patients"} for name in "de"]
    assert ours["auroc"]["left_out"] == [*few, {"group": "c", "reason": "no positive patient"}]
    assert ours["demographic_parity"]["left_out"] == few
    assert (ours["auroc"]["groups"], ours["specificity"]["groups"], ours["equalised_odds"]["groups"]) == (2, 3, 2)
    assert attribute["equity_scaled"]["groups"] == 2
    told = rows[(rows["split"] == "test") & rows["race"].isin(["a", "b"])]
    by_hand = [roc_auc_score(one["label"], one["score"]) for _, one in told.groupby("race")]
    assert ours["auroc"]["value"] == pytest.approx(np.ptp(by_hand))


def test_a_group_at_its_end_has_a_value_and_a_reason_for_no_interval():
    rows = table()
    rows.loc[(rows["race"] == "c") & (rows["label"] == 1), "score"] = 1.0
    (attribute,) = section(rows)["attributes"]
    sensitivity = next(row for row in attribute["spreads"] if row["measure"] == "sensitivity")
    assert sensitivity["value"] > 0
    assert (sensitivity["low"], sensitivity["deviation"], sensitivity["reason"]) == (None, None, AT_ITS_END)
    assert no_error([]) == ""


def test_of_one_group_and_without_a_threshold_little_is_told():
    (attribute,) = section(table(race="a"))["attributes"]
    assert attribute["reason"] == "one level only"
    assert (attribute["criteria"], attribute["spreads"], attribute["equity_scaled"]) == ([], [], None)
    rows = table()
    found = section(rows[rows["split"] == "test"])
    assert (found["threshold"], found["underdiagnosis"]) == (None, None)
    assert [row["measure"] for row in found["attributes"][0]["spreads"]] == ["auroc"]
    assert found["attributes"][0]["criteria"] == []


def test_equal_scores_everywhere_break_nothing():
    found = section(table().assign(score=0.5))
    auroc = found["attributes"][0]["spreads"][0]
    assert (auroc["value"], auroc["low"], auroc["reason"]) == (0.0, None, AT_ITS_END)


@pytest.mark.parametrize(
    ("name", "rate"), [("No Finding", "false positive rate"), ("no_finding", "false positive rate"),
                       ("Pneumonia", "false negative rate"), ("abnormal", "false negative rate")],
)  # fmt: skip
def test_who_is_overlooked_depends_on_what_the_label_says(name, rate):
    rows = table()
    found = section(rows, name=name)["underdiagnosis"]
    assert (found["rate"], found["label"]) == (rate, name if "positive" in rate else "")
    assert section(rows.assign(task=name))["underdiagnosis"]["rate"] == rate
    cut = section(rows)["threshold"]
    rows = rows[(rows["split"] == "test") & (rows["race"] == "b")]
    yes = rows["score"] >= cut
    negatives, positives = yes[rows["label"] == 0].mean(), (~yes)[rows["label"] == 1].mean()
    row = next(row for row in found["rows"] if row["group"] == "b")
    wanted = (negatives, positives) if "positive" in rate else (positives, negatives)
    assert (row["underdiagnosis"]["value"], row["overdiagnosis"]["value"]) == pytest.approx(wanted)
    assert row["underdiagnosis"]["low"] < row["underdiagnosis"]["value"] < row["underdiagnosis"]["high"]


def test_the_page_warns_where_it_must_and_never_absolves(tmp_path):
    rows = table(sex=np.where(np.arange(600) % 2, "F", "M"))
    report = evaluate({"it": rows})
    page = write_report(report, tmp_path).read_text()
    assert "Largest differences between groups, and what chance makes of equal groups" in page
    for said in ("Demographic parity is no goal", "equal calibration and equal error rates", "never compare it between",
                 "selected for being worst", "does not show that groups are equal", "Who is overlooked"):  # fmt: skip
        assert said in page
    assert not any(word in page.lower() for word in ("unbiased", "no bias", "fair "))
    assert not any("es_auc" in sentence for sentence in report["findings"])


def test_the_figure_tells_what_chance_makes_and_is_none_where_there_is_nothing():
    (svg,) = differences(section(table()), "one").values()
    row = section(table())["attributes"][0]["criteria"][0]
    assert f"equalised odds {row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f}), by chance up to" in svg
    assert differences(section(table(race="a")), "one") == {}
