"""What a cohort could have shown: against closed forms, and against doing it (more cases, gaps of that size)."""

import math

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import samplesize_confint_proportion

from medssl.evaluate import evaluate
from medssl.evaluate.groups import POWER
from medssl.evaluate.power import HALF_WIDTH, cases_needed, power


@pytest.mark.parametrize("share", [0.5, 0.8, 0.97])
@pytest.mark.parametrize("count", [20, 300])
@pytest.mark.parametrize("half", [0.03, 0.05])
def test_cases_needed_for_a_share_are_those_of_the_textbook(share, count, half):
    error = math.sqrt(share * (1 - share) / count)
    needed = samplesize_confint_proportion(share, half, alpha=0.05)
    assert cases_needed(count, error, half) == pytest.approx(needed, abs=1.001, rel=1e-3)


def test_cases_needed_is_what_it_has_when_near_enough_and_four_times_for_half():
    error = HALF_WIDTH / 1.96
    assert cases_needed(100, error) == 100
    assert cases_needed(100, error / 2) == 25
    assert cases_needed(100, 2 * error) == 400


def test_of_nothing_nothing_is_needed():
    assert cases_needed(50, 0.0) is None
    assert cases_needed(50, math.nan) is None
    assert cases_needed(0, 0.1) is None
    with pytest.raises(ValueError, match="half_width 0 "):
        cases_needed(50, 0.1, 0)


def test_the_smallest_detectable_gap_is_found_four_times_in_five():
    # A difference of 2.8 standard errors; by statsmodels, with one of the two errors 0 (ratio of sizes 0).
    assert NormalIndPower().power(POWER, nobs1=1, alpha=0.05, ratio=0) == pytest.approx(0.8, abs=0.002)


def rows(sizes, seed=3, rate=0.8):
    """One row a patient, groups of so many positives and as many negatives, answered rightly with a chance of `rate`."""
    rng = np.random.default_rng(seed)
    parts = []
    for group, count in sizes.items():
        label = np.repeat([1.0, 0.0], count)
        right = rng.random(2 * count) < rate
        parts.append(
            pd.DataFrame({"label": label, "group_of": group, "score": np.where(right == (label == 1), 0.9, 0.1)})
        )
    table = pd.concat(parts, ignore_index=True)
    table["split"] = "test"
    known = pd.DataFrame({"label": np.repeat([1.0, 0.0], 30), "group_of": "big", "split": "val",
                          "score": np.repeat([0.9, 0.1], 30)})  # fmt: skip
    table = pd.concat([table, known], ignore_index=True)
    return table.assign(sample_id=np.arange(len(table)).astype(str), patient_id=np.arange(len(table)).astype(str))


def told(table, metric, group):
    (analysis,) = evaluate({"t": table})["analyses"]
    (row,) = [row for row in analysis["power"] if (row["metric"], row["group"]) == (metric, group)]
    (gap,) = [gap for gap in analysis["gaps"] if (gap["metric"], gap["group"]) == (metric, group)]
    (own,) = [own for own in analysis["estimates"] if (own["metric"], own["group"]) == (metric, group)]
    return row, gap, own


def test_a_small_group_is_told_with_what_it_would_take():
    row, gap, own = told(rows({"big": 400, "small": 14}), "sensitivity", "small")
    share = own["value"]
    error = math.sqrt(share * (1 - share) / 13)  # of 14 positives, one a patient
    assert own["error"] == pytest.approx(error)
    assert (row["n_patients"], row["of"], row["n"], row["standing"]) == (28, "positives", 14, "too few")
    assert row["needed"] == math.ceil(14 * (error * 1.96 / 0.05) ** 2)
    assert row["smallest_detectable"] == gap["smallest_detectable"]
    assert row["sentence"].startswith(f"group_of small (n = 28, 14 positives): sensitivity {share:.2f} (")
    assert f"smallest gap this test could have shown: {gap['smallest_detectable']:.2f}" in row["sentence"]
    about = int(row["sentence"].split("about ")[1].split()[0])
    assert row["needed"] <= about < row["needed"] * 1.1


def test_with_the_cases_needed_the_interval_is_as_narrow_as_said():
    row, _, _ = told(rows({"big": 400, "small": 40}), "sensitivity", "small")
    again = evaluate({"t": rows({"big": 400, "small": row["needed"]}, seed=4)})["analyses"][0]
    (own,) = [one for one in again["estimates"] if (one["metric"], one["group"]) == ("sensitivity", "small")]
    assert (own["high"] - own["low"]) / 2 == pytest.approx(0.05, abs=0.008)


def test_specificity_counts_negatives_and_a_ranking_the_rarer_class():
    table = rows({"big": 300, "small": 30})
    table = table[~((table["group_of"] == "small") & (table["label"] == 1) & (table.index % 2 == 0))]
    assert told(table, "specificity", "small")[0]["of"] == "negatives"
    row = told(table, "auroc", "small")[0]
    assert (row["of"], row["n"]) == ("positives", 15)


def test_a_group_that_is_not_shown_is_told_without_a_number():
    table = rows({"big": 100, "middle": 60, "tiny": 4})
    (analysis,) = evaluate({"t": table})["analyses"]
    hidden = [row for row in analysis["power"] if row["group"] == "tiny"]
    assert len(hidden) == 3
    for row in hidden:
        assert row["sentence"] == "group_of tiny: fewer than 11 patients; nothing can be concluded."
        assert {row[key] for key in ("n_patients", "of", "n", "needed", "smallest_detectable")} == {None}
        assert row["standing"] == "too few"
        assert row["reason"] == "fewer than 11 patients"


def test_what_came_to_a_conclusion_is_not_told():
    gap = {"metric": "auroc", "attribute": "sex", "group": "F", "verdict": "gap", "reason": ""}
    assert power([], [gap, {**gap, "verdict": "equivalent"}, {**gap, "verdict": "not evaluated"}]) == []


def test_at_one_no_number_of_cases_is_made_up():
    table = rows({"big": 100, "small": 15})
    small = (table["group_of"] == "small") & (table["label"] == 1)
    table.loc[small, "score"] = 0.9
    row, _, own = told(table, "sensitivity", "small")
    assert own["value"] == 1
    assert own["error"] is row["needed"] is None
    assert "no variance to test with" in row["sentence"]
    assert "needed" not in row["sentence"]


def test_of_distances_no_nearness_is_asked():
    n = np.arange(80)
    table = pd.DataFrame({
        "sample_id": n.astype(str), "patient_id": n.astype(str), "split": "test", "label": np.nan, "score": np.nan,
        "dice_gland": 0.7 + 0.01 * (n % 20), "hd95_gland": 3.0 + n % 7, "site": np.where(n % 4 == 0, "north", "south"),
    })  # fmt: skip
    (analysis,) = evaluate({"gland": table}, margin=0.001)["analyses"]
    told = {row["metric"]: row for row in analysis["power"] if row["group"] == "north"}
    assert told["hd95_gland"]["needed"] is None
    assert "mm" in told["hd95_gland"]["sentence"]
    assert told["dice_gland"]["of"] == "patients"
    assert told["dice_gland"]["n"] == 20


def test_a_name_of_any_length_leaves_room_for_the_sentence():
    table = rows({"big": 60, "x" * 500: 4})
    (analysis,) = evaluate({"t": table})["analyses"]
    (row,) = [row for row in analysis["power"] if row["metric"] == "auroc" and row["group"] != "big"]
    assert len(row["sentence"]) < 200
