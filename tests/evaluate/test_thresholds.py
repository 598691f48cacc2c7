"""Thresholds of groups: fixed on validation rows alone, at equal false alarms, and what they do to a gap."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from medssl.evaluate import evaluate
from medssl.evaluate.sections.thresholds import FEWEST_NEGATIVES, threshold_at


def scored(patients=3000, seed=0, shifted=0.0, muted=0.0):
    """One image a patient of a race; of race b all scores are lower by `shifted`, or those of the sick by `muted`."""
    rng = np.random.default_rng(seed)
    n = np.arange(patients)
    race = np.array(list("ab"))[n // 2 % 2]
    label = (n % 2).astype(float)
    signal = rng.normal(size=patients) + 1.6 * label - (race == "b") * (shifted + muted * label)
    return pd.DataFrame({
        "sample_id": n.astype(str), "patient_id": n.astype(str), "split": np.where(n // 4 % 2 == 0, "val", "test"),
        "label": label, "score": 1 / (1 + np.exp(0.7 - signal)), "race": race,
    })  # fmt: skip


def section(table, **settings):
    return evaluate({"eye": table}, by=["race"], **settings)["analyses"][0]["sections"].get("thresholds")


def only(content, group):
    (row,) = [row for row in content["rows"] if row["group"] == group]
    return row


def test_a_shift_of_scores_is_gone_at_equal_false_alarms_and_worse_ranking_stays():
    shifted, muted = only(section(scored(shifted=1.0)), "b"), only(section(scored(muted=1.0)), "b")
    assert shifted["gap_global"]["high"] < -0.2
    assert abs(shifted["gap_own"]["value"]) < 0.08  # how far 375 validation images let a threshold move
    assert shifted["gap_own"]["low"] > shifted["gap_global"]["high"]
    assert muted["gap_global"]["high"] < -0.2
    assert muted["gap_own"]["high"] < -0.2


def test_thresholds_come_from_validation_rows_and_rates_from_test_rows():
    table = scored(shifted=1.0)
    content = section(table)
    row, val, test = only(content, "b"), table[table["split"] == "val"], table[table["split"] == "test"]
    well = val[(val["label"] == 0) & (val["race"] == "b")]["score"]
    assert content["false_alarms"] == (val.loc[val["label"] == 0, "score"] >= content["threshold"]).mean()
    assert (well >= row["threshold"]).mean() == pytest.approx(content["false_alarms"], abs=1 / len(well))
    assert row["n_negatives"] == len(well)
    for label, name in ((1, "sensitivity"), (0, "false_alarms")):
        scores = test[(test["label"] == label) & (test["race"] == "b")]["score"]
        for place, cut in (("at_global", content["threshold"]), ("at_own", row["threshold"])):
            hits = int((scores >= cut).sum())
            low, high = proportion_confint(hits, len(scores), method="wilson")
            told = row[place][name]
            assert told["value"] == hits / len(scores)
            assert (told["low"], told["high"]) == pytest.approx((low, high), abs=2e-3)
    moved = table.assign(score=table["score"].where(table["split"] == "val", table["score"] ** 2))
    assert only(section(moved), "b")["threshold"] == row["threshold"]
    a, b = (only(content, name) for name in "ab")
    assert a["gap_own"]["value"] == pytest.approx(
        a["at_own"]["sensitivity"]["value"] - b["at_own"]["sensitivity"]["value"]
    )
    assert a["gap_own"]["value"] == pytest.approx(-b["gap_own"]["value"])


def test_few_negatives_and_unknown_have_no_threshold_of_their_own():
    table = scored(400)
    val = (table["split"] == "val") & (table["label"] == 0) & (table["race"] == "b")
    table = table.drop(table.index[val][FEWEST_NEGATIVES - 1 :])
    table.loc[table.index[table["split"] == "test"][::5], "race"] = "unknown"
    content = section(table)
    few, unknown = only(content, "b"), only(content, "unknown")
    assert few["reason"] == "fewer than 20 validation patients without it"
    assert unknown["reason"] == "not recorded"
    for row in (few, unknown):
        assert row["at_global"]["sensitivity"]["value"] > 0
        assert row["threshold"] is row["at_own"] is row["gap_own"] is None
    # The one group with a threshold has no rest to be compared with.
    assert only(content, "a")["gap_own"] is None
    assert section(table.assign(race="unknown")) is None
    assert section(table[table["split"] == "test"]) is None


@pytest.mark.parametrize(("share", "flagged"), [(0.0, 0), (0.2, 1), (0.3, 1), (0.31, 2), (0.5, 2), (0.99, 5), (1.0, 5)])
def test_the_nearest_share_is_met(share, flagged):
    scores = np.array([0.1, 0.3, 0.5, 0.7, 1.0])
    assert (scores >= threshold_at(scores, share)).sum() == flagged


def test_ties_are_flagged_together():
    scores = np.array([0.2] * 5 + [0.6] * 5)
    assert threshold_at(scores, 0.4) == pytest.approx(0.4)
    assert threshold_at(scores, 0.2) > 0.6
    assert threshold_at(np.full(4, 0.3), 0.9) == pytest.approx(0.3)
