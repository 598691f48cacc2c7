"""Who is there and who is not: counts by hand, tests and differences against other libraries, bounds by brute force."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import Table

from medssl.evaluate import evaluate
from medssl.evaluate.balance import difference_of_means, difference_of_shares, difference_of_sites, independence
from medssl.evaluate.terms import Terms
from medssl.evaluate.threshold import Threshold
from medssl.report import write_report


def scored(patients=240, eyes=2, seed=0):
    rng = np.random.default_rng(seed)
    n = np.repeat(np.arange(patients), eyes)
    label = (rng.random(patients) < 0.4).astype(float)[n]
    return pd.DataFrame({
        "sample_id": [f"s{k}" for k in range(len(n))], "patient_id": [f"p{k}" for k in n],
        "split": np.where(n % 5 == 4, "val", "test"), "label": label,
        "score": 1 / (1 + np.exp(0.6 - 1.4 * label - rng.normal(size=len(n)))),
        "sex": np.array(["F", "M", "", "Declined"])[rng.choice(4, patients, p=[0.4, 0.4, 0.1, 0.1])[n]],
        "race": np.array(["a", "b", "c"])[n % 3], "site": np.array(["north", "south"])[rng.integers(0, 2, patients)[n]],
        "age": np.array([str(20 + k % 70) for k in range(patients)])[n],
    })  # fmt: skip


def section(rows, by=("sex", "race"), **declared):
    analysis = evaluate({"eye": rows}, by=by, **declared)["analyses"][0]
    return analysis["sections"]["missing"], analysis


def pick(rows, **wanted):
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def test_the_way_from_the_table_to_what_is_judged_by_group():
    rows = scored()
    rows.loc[(rows["race"] == "a") & (rows.index % 4 == 0), "score"] = np.nan
    rows.loc[rows.index % 10 == 7, "label"] = np.nan
    content, _ = section(rows)
    for attribute, group in ("", "all"), ("race", "a"), ("race", "c"), ("sex", "F"):
        own = rows if not attribute else rows[rows[attribute] == group]
        split = own[own["split"] == "test"]
        scored_of = split[split["score"].notna()]
        told = pick(content["flow"], attribute=attribute, group=group)
        judged = int(scored_of["label"].notna().sum())
        assert told["rows"] == {"table": len(own), "split": len(split), "scored": len(scored_of), "judged": judged}
        assert told["kept"]["value"] == pytest.approx(judged / len(split))
        assert told["kept"]["low"] < told["kept"]["value"] < told["kept"]["high"]
    kept = {row["group"]: row["kept"] for row in content["flow"] if row["attribute"] == "race"}
    assert kept["a"]["high"] < kept["b"]["low"], "who is left out more often stands there"


def test_records_are_counted_by_kind_and_tested_against_outcome_and_site():
    rows = scored()
    content, _ = section(rows)
    sex = pick(content["completeness"], attribute="sex")
    people = rows[rows["split"] == "test"].drop_duplicates("patient_id")
    recorded = people["sex"].isin(["F", "M"])
    assert sex["states"]["recorded"] == recorded.sum()
    assert sex["states"]["declined"] == (people["sex"] == "Declined").sum() > 11
    assert sex["states"]["unknown"] == (people["sex"] == "").sum() > 11
    assert sex["recorded"]["value"] == pytest.approx(recorded.mean())
    crossed = pd.crosstab(recorded, people["label"])
    assert sex["outcome"]["p"] == pytest.approx(Table(crossed, shift_zeros=False).test_nominal_association().pvalue)
    by_site = pd.crosstab(people["site"], recorded)
    assert sex["site"]["p"] == pytest.approx(Table(by_site, shift_zeros=False).test_nominal_association().pvalue)


def test_what_goes_with_the_outcome_is_found():
    rows = scored(400)
    sick = rows["label"] == 1
    rows["race"] = rows["race"].where(~(sick & (rows["race"] == "a")), "")
    content, analysis = section(rows)
    race = pick(content["completeness"], attribute="race")
    assert race["outcome"]["p"] < 0.001
    assert race["outcome"]["difference"]["high"] < 0, "who is recorded is less often ill"
    assert any(note.startswith("W203 race") for note in analysis["notes"])
    assert race["bounds"]


def test_a_hidden_group_of_the_unrecorded_is_not_counted_by_the_rest():
    rows = scored()
    rows["sex"] = np.where(rows["sex"].isin(["", "Declined"]), "F", rows["sex"])
    few = rows.loc[rows["split"] == "test", "patient_id"].unique()[:4]
    rows.loc[rows["patient_id"].isin(few), "sex"] = ""
    content, analysis = section(rows)
    sex = pick(content["completeness"], attribute="sex")
    assert sex["reason"] == "unknown: fewer than 11 patients"
    assert (sex["states"], sex["recorded"], sex["outcome"], sex["bounds"]) == ({}, None, None, [])
    for part in "flow", "groups":
        hidden = [row for row in content[part] if row["attribute"] == "sex" and row["reason"]]
        assert [row["group"] for row in hidden] == ["unknown"]
        assert all(row["rows"] is None for row in hidden)
    assert not any("W203 sex" in note for note in analysis["notes"])


def test_the_groups_side_by_side():
    rows = scored()
    content, analysis = section(rows)
    test = rows[rows["split"] == "test"].assign(age=lambda t: t["age"].astype(float))
    people = test.drop_duplicates("patient_id")
    for group in "abc":
        told = pick(content["groups"], attribute="race", group=group)
        own, rest = people[people["race"] == group], people[people["race"] != group]
        assert (told["patients"], told["rows"]) == (len(own), 2 * len(own))
        assert told["age"]["value"] == pytest.approx(own["age"].mean())
        assert told["age"]["sd"] == pytest.approx(own["age"].std())
        expected = (own["age"].mean() - rest["age"].mean()) / math.sqrt((own["age"].var() + rest["age"].var()) / 2)
        assert told["difference"]["age"]["value"] == pytest.approx(expected)
        cohort = pick(pick(analysis["cohort"]["attributes"], attribute="race")["groups"], group=group)
        assert told["prevalence"] == pytest.approx(cohort["prevalence"])
    everybody = content["groups"][0]
    assert everybody["difference"] == {"prevalence": None, "age": None}


def test_bounds_hold_for_every_way_to_fill_in_what_is_missing():
    """Six unrecorded rows: of all 64 ways to give them one of two groups, the extremes are the bounds."""
    rng = np.random.default_rng(3)
    n = np.arange(106)
    label = np.ones(106)
    label[60:100] = 0
    label[103:] = 0
    rows = pd.DataFrame({
        "sample_id": n.astype(str), "patient_id": [f"p{k // 2}" for k in n], "split": "test", "label": label,
        "score": rng.random(106), "race": np.where(n < 100, np.array(["a", "b"])[n // 2 % 2], ""),
    })  # fmt: skip
    given = Terms(thresholds={"": Threshold(0.5, "x", "given")})
    content, _ = section(rows, by=("race",), terms=given, minimum_patients=2)
    right = (rows["score"] >= 0.5) == (rows["label"] == 1)
    for metric, sick in ("sensitivity", 1), ("specificity", 0):
        of = rows["label"] == sick
        found = []
        for filled in itertools.product("ab", repeat=6):
            group = np.array([*rows["race"][:100], *filled])
            found.append(right[of & (group == "a")].mean() - right[of & (group != "a")].mean())
        told = pick(pick(content["completeness"], attribute="race")["bounds"], metric=metric, group="a")
        assert (told["low"], told["high"]) == pytest.approx((min(found), max(found)))
        known = of & (n < 100)
        crude = right[known & (rows["race"] == "a")].mean() - right[known & (rows["race"] == "b")].mean()
        assert told["value"] == pytest.approx(crude)
        assert told["low"] < crude < told["high"]


def test_a_segmentation_has_no_outcome_and_a_flow_without_scores(tmp_path):
    rows = scored(60, eyes=1)
    rows = rows.assign(split="test", label=np.nan, score=np.nan, dice_gland=np.linspace(0.3, 0.9, 60))
    content, _ = section(rows, by=("race",))
    assert content["flow"][0]["rows"] == {"table": 60, "split": 60, "scored": None, "judged": 60}
    assert content["completeness"][0]["outcome"] is None
    assert content["groups"][1]["prevalence"] is None
    assert content["groups"][1]["age"]["value"] > 0
    page = write_report(evaluate({"gland": rows}, by=["race"]), tmp_path).read_text()
    assert "60 rows in the table, 60 of the judged split, 60 judged." in page


def test_the_page_tells_it_by_group(tmp_path):
    rows = scored()
    rows.loc[rows.index[:30], "score"] = np.nan
    page = write_report(evaluate({"eye": rows}, by=["sex", "race"]), tmp_path).read_text()
    assert "480 rows in the table, 384 of the judged split, 360 with a score, 360 judged (score and label)." in page
    for words in ("What is recorded.", "What differences could be", "The groups side by side", "declined"):
        assert words in page


# --- balance.py


def test_independence_is_that_of_other_libraries():
    large = np.array([[30, 12], [25, 33], [18, 20]])
    assert independence(large)["p"] == pytest.approx(Table(large, shift_zeros=False).test_nominal_association().pvalue)
    small = np.array([[8, 2], [1, 5]])
    told = independence(small)
    assert told == {
        "p": pytest.approx(stats.fisher_exact(small).pvalue),
        "method": "Fisher over patients",
        "reason": "",
    }
    # Fisher by hand: all tables with the same margins that are no more likely than this one.
    chance = {k: math.comb(10, k) * math.comb(6, 9 - k) / math.comb(16, 9) for k in range(3, 10)}
    assert told["p"] == pytest.approx(sum(p for p in chance.values() if p <= chance[8] * (1 + 1e-9)))
    for counts in ([[3, 4]], [[3, 0], [4, 0]], [[0, 0], [3, 4]]):
        assert independence(np.array(counts))["reason"] == "one side only: nothing to compare"
    assert independence(np.array([[3, 4], [1, 2], [2, 0]]))["reason"] == "too few patients for chi-squared"


def test_standardised_differences_by_hand():
    first, second = np.repeat([1.0, 0.0], [30, 70]), np.repeat([1.0, 0.0], [50, 50])
    told = difference_of_shares(first, second)
    assert told["value"] == pytest.approx(-0.2 / math.sqrt((0.21 + 0.25) / 2))
    half = 1.959964 * math.sqrt(1 / 100 + 1 / 100 + told["value"] ** 2 / 400)
    assert (told["low"], told["high"]) == pytest.approx((told["value"] - half, told["value"] + half))
    # Of two kinds the difference over kinds is that of the share of one.
    assert difference_of_sites(np.array([[30, 50], [70, 50]]))["value"] == pytest.approx(-told["value"])
    assert difference_of_means(np.array([1.0, 3]), np.array([1.0, 3]))["value"] == 0
    assert difference_of_shares(np.ones(5), np.ones(5)) == {"value": 0.0, "low": None, "high": None}
    assert difference_of_shares(np.ones(5), np.zeros(5)) is None
    assert difference_of_shares(np.ones(0), np.ones(5)) is None
    assert difference_of_means(np.ones(1), np.ones(5)) is None
    assert difference_of_sites(np.array([[3, 0], [4, 0]])) is None


def test_the_interval_of_a_standardised_difference_covers_the_truth():
    """Two normals half a standard deviation apart, 600 times."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(600):
        told = difference_of_means(rng.normal(0.5, 1, 30), rng.normal(0, 1, 60))
        inside += told["low"] <= 0.5 <= told["high"]
    assert 0.93 <= inside / 600 <= 0.97
