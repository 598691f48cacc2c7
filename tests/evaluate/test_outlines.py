"""From label maps to columns, and from columns to a report in which no failure is dropped."""

import json
import math
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from medssl.errors import UserError
from medssl.evaluate import check_predictions, compare, evaluate
from medssl.evaluate.findings import findings
from medssl.evaluate.intervals import median_interval
from medssl.evaluate.outlines import columns_of, measure_of, measured, title_of
from medssl.evaluate.predictions import attributes_of
from medssl.evaluate.surfaces import apart

MANIFESTS = Path(__file__).parents[2] / "data_manifests"


def maps():
    """A gland that is found, a lesion that is missed, a stone that is invented, and a cyst that is nowhere."""
    truth, found = np.zeros((2, 12, 10, 8), np.uint8)
    truth[2:8, 2:8, 2:6], found[3:8, 2:8, 2:6] = 1, 1
    truth[9:11, 2:4, 2:4] = 2
    found[9:11, 6:8, 2:4] = 3
    return truth, found


def outlined(patients=60, seed=1, far=0.0):
    """Outlines of two sites; every tenth gland was missed. In the south HD95 is `far` mm more."""
    rng, n = np.random.default_rng(seed), np.arange(patients)
    south, missed = n % 2 == 1, n % 10 == 0
    dice = np.where(missed, 0.0, np.clip(rng.normal(0.8, 0.05, patients), 0, 1))
    hd95 = np.where(missed, 150.0, rng.gamma(4, 1, patients)) + far * south
    return pd.DataFrame({
        "sample_id": [f"v{k}" for k in n], "patient_id": [f"p{k}" for k in n], "split": "test", "label": np.nan,
        "score": np.nan, "dice_gland": dice, "nsd_gland": np.where(missed, 0.0, dice / 2 + 0.5), "hd95_gland": hd95,
        "missed_gland": missed.astype(float), "invented_gland": np.nan, "tolerance_mm": 2.0,
        "site": np.where(south, "south", "north"),
    })  # fmt: skip


def only(rows, **wanted):
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def test_columns_of_a_volume():
    truth, found = maps()
    told = measured(truth, found, ("gland", "lesion", "stone", "cyst"), (3.0, 1.0, 1.0), 1.5)
    diagonal = math.hypot(36, 10, 8)
    assert (told["hd95_gland"], told["nsd_gland"]) == apart(truth == 1, found == 1, (3.0, 1.0, 1.0), 1.5)
    assert told["hd95_gland"] == 3.0
    for name in ("lesion", "stone"):
        assert (told[f"dice_{name}"], told[f"nsd_{name}"]) == (0, 0)
        assert told[f"hd95_{name}"] == pytest.approx(diagonal)
    assert all(math.isnan(told[f"{measure}_cyst"]) for measure in ("dice", "nsd", "hd95"))
    assert told["hd95_mean"] == pytest.approx((3.0 + 2 * diagonal) / 3)
    assert told["dice_mean"] == pytest.approx(told["dice_gland"] / 3)
    failures = {
        name: (told[f"missed_{name}"], told[f"invented_{name}"]) for name in ("gland", "lesion", "stone", "cyst")
    }
    wanted = {"gland": (0, math.nan), "lesion": (1, math.nan), "stone": (math.nan, 1), "cyst": (math.nan, 0)}
    for name, pair in wanted.items():
        assert failures[name] == pytest.approx(pair, nan_ok=True)
    assert told["tolerance_mm"] == 1.5
    nothing = measured(truth * 0, truth * 0, ("gland",), (1, 1, 1), 2.0)
    assert all(math.isnan(nothing[f"{measure}_mean"]) for measure in ("dice", "nsd", "hd95"))


def test_the_table_of_what_was_measured_is_accepted_and_its_rows_match_the_schema():
    truth, found = maps()
    told = measured(truth, found, ("gland", "lesion", "stone", "cyst"), (3.0, 1.0, 1.0), 1.5)
    row = {"sample_id": "v", "patient_id": "p", "split": "test", "label": None, "score": None, "missed_visits": "two"}
    table = check_predictions(pd.DataFrame([{**row, **told}]))
    assert attributes_of(table) == ["missed_visits"]
    assert table["hd95_stone"].dtype == float
    schema = json.loads((MANIFESTS / "predictions.schema.json").read_text())
    blanks = {name: None if math.isnan(value) else value for name, value in told.items()}
    jsonschema.validate({**row, **blanks}, schema)
    for wrong in ({"hd95_gland": -1}, {"nsd_gland": 1.1}, {"hd95_gland": "far"}, {"tolerance_mm": 0}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**row, **blanks, **wrong}, schema)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hd95_gland": -1.0}, r"hd95_gland -1.0 in row 2 is not a distance in mm"),
        ({"hd95_gland": np.inf}, r"hd95_gland inf in row 2 is not a distance in mm; of a failure give the diagonal"),
        ({"nsd_gland": 1.2}, r"nsd_gland 1.2 in row 2 is not between 0 and 1"),
        ({"missed_gland": 0.5}, r"missed_gland 0.5 in row 2 is not 0, 1 or blank"),
        (
            {"hd95_gland": [np.nan, *[1.0] * 59]},
            r"dice_gland 0.0 in row 2 is not blank where hd95_gland is; of a failure",
        ),
        ({"dice_gland": [*[0.5] * 59, np.nan]}, r"nsd_gland 0\.\d+ in row 61 is not blank where dice_gland is"),
        ({"tolerance_mm": [1.0, *[2.0] * 59]}, r"tolerance_mm is 1, 2; surface Dice of each is another measure"),
        ({"hd95_gland": "far"}, r"hd95_gland 'far' in row 2 is not a number"),
    ],
)
def test_what_would_make_a_number_wrong_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        check_predictions(outlined().assign(**change))


def test_failures_are_told_from_attributes_and_the_primary_column_comes_first():
    names = ["hd95_b", "missed_visits", "dice_b", "missed_b", "invented_mean", "dice_mean", "nsd_a", "dice_a"]
    assert columns_of(names) == ["dice_mean", "dice_a", "dice_b", "nsd_a", "hd95_b", "missed_b", "invented_mean"]
    assert columns_of(["missed_visits", "invented_names"]) == []
    scored = outlined().assign(label=1.0, score=0.5)[["sample_id", "patient_id", "split", "label", "score", "site"]]
    with pytest.raises(UserError, match="nothing to judge"):
        evaluate({"t": scored.assign(label=np.nan, missed_gland="1")})


def test_each_measure_is_judged_and_failures_are_counted_in_every_group():
    report = evaluate({"gland": outlined()}, by=["site"])
    jsonschema.validate(report, json.loads((MANIFESTS / "report.schema.json").read_text()))
    (analysis,), rows = report["analyses"], outlined()
    assert (analysis["task"], analysis["primary_metric"]) == ("segmentation", "dice_gland")
    far = only(analysis["estimates"], metric="hd95_gland", group="all")
    assert far["value"] == pytest.approx(rows["hd95_gland"].mean())  # with the six failures
    assert 0 <= far["low"] < far["value"] < far["high"]
    assert "bootstrap" in far["method"]
    middle = only(analysis["estimates"], metric="median_hd95_gland", group="all")
    assert middle["value"] == pytest.approx(rows["hd95_gland"].median())
    assert middle["high"] < far["value"]
    counts = {
        row["group"]: (row["n_positive"], row["n_rows"])
        for row in analysis["estimates"]
        if row["metric"] == "missed_gland"
    }
    assert counts == {"all": (6, 60), "north": (6, 30), "south": (0, 30)}
    share = only(analysis["estimates"], metric="missed_gland", group="all")
    wilson = stats.binomtest(6, 60).proportion_ci(method="wilson")
    # One row a patient: the design effect is n / (n - 1) at most, so the interval is Wilson's to the third place.
    assert (share["value"], share["low"], share["high"]) == pytest.approx((0.1, wilson.low, wilson.high), abs=2e-3)
    invented = only(analysis["estimates"], metric="invented_gland", group="all")
    assert (invented["value"], invented["reason"]) == (None, "no patient is without this structure")
    assert any("Surface Dice (NSD)" in note and "within 2 mm" in note for note in analysis["notes"])
    assert any("no failure is dropped" in note for note in analysis["notes"])
    assert "; of 60 outlines 6 were missed altogether" in report["findings"][0]
    assert not evaluate({"gland": rows[["sample_id", "patient_id", "split", "label", "score", "dice_gland"]]})[
        "analyses"
    ][0]["notes"]


def test_small_groups_tell_no_distance_and_no_failure():
    rows = outlined()
    rows.loc[:4, "site"] = "tiny"
    for row in evaluate({"gland": rows}, by=["site"])["analyses"][0]["estimates"]:
        if row["group"] == "tiny":
            assert row["value"] is row["low"] is row["n_rows"] is row["n_positive"] is None


@pytest.mark.parametrize("worse", ["south", "north"])
def test_less_millimetres_are_better(worse):
    """The site farther off is told of as the worse one; without a margin in mm nothing is called equivalent."""
    rows = outlined(200)[["sample_id", "patient_id", "split", "label", "score", "site"]]
    rows["hd95_gland"] = np.random.default_rng(2).gamma(4, 1, 200) + 4 * (rows["site"] == worse)
    report = evaluate({"gland": rows}, by=["site"])
    gap = only(report["analyses"][0]["gaps"], metric="hd95_gland", group=worse)
    assert gap["verdict"] == "gap"
    assert gap["low"] > 0
    assert f"It does worse for site {worse}" in report["findings"][1]
    assert " mm (95 % interval" in report["findings"][1]
    assert "lie off the reference by" in report["findings"][0]
    assert "HD95 of gland, 200 patients" in report["findings"][0]
    assert "whether a difference exists" in report["findings"][2]
    same = evaluate({"gland": rows.assign(hd95_gland=5 + 1e-4 * np.arange(200))}, by=["site"])["analyses"][0]["gaps"]
    assert {gap["verdict"] for gap in same} == {"inconclusive"}


def test_millimetres_do_not_outweigh_shares():
    gap = {"attribute": "site", "group": "a", "verdict": "gap", "low": None, "high": None, "reason": ""}
    several = [
        {**gap, "metric": "hd95_x", "value": 9.0, "group_value": 12.0, "rest_value": 3.0},
        {**gap, "metric": "nsd_x", "value": -0.1, "group_value": 0.8, "rest_value": 0.9},
    ]
    estimate = {"metric": "dice_x", "attribute": "", "value": 0.8, "low": None, "high": None, "n_patients": 9}
    analysis = {
        "name": "t", "task": "segmentation", "primary_metric": "dice_x", "gaps": several, "estimates": [estimate],
        "cohort": {"attributes": []},
    }  # fmt: skip
    assert "surface Dice of x 0.80 against 0.90" in findings([analysis], [], 0.05)[1]


@pytest.mark.parametrize("count", [6, 11, 40])
def test_the_interval_of_a_median_holds_the_median(count):
    """Coverage is at least what it says, and of the next narrower interval it is not: exactly, by the binomial."""
    values = np.random.default_rng(count).permutation(np.arange(count, dtype=float))
    low, high, method = median_interval(values)
    place = int(low)  # of ranked values 0, 1, ...
    assert high == count - 1 - place
    assert 1 - 2 * stats.binom.cdf(place, count, 0.5) >= 0.95 > 1 - 2 * stats.binom.cdf(place + 1, count, 0.5)
    assert method == "order statistics"


def test_a_median_of_few_has_no_interval():
    assert math.isnan(median_interval(np.arange(5.0))[0])


def test_a_paired_difference_of_distances_and_a_false_find():
    a, b = outlined(), outlined(far=1.0)
    (row,) = compare(a, b, metric="hd95_gland")["results"]
    assert row["value"] == pytest.approx(0.5)
    told = compare(a, b, metric="hd95_gland")
    assert "difference +0.500 mm" in told["sentences"][0]
    assert "less is better" in told["note"]
    for table, values in (a, (np.nan, np.nan, np.nan)), (b, (0.0, 0.0, 150.0)):
        table.loc[1, ["dice_gland", "nsd_gland", "hd95_gland"]] = values
    quiet = compare(a, b.assign(hd95_gland=b["hd95_gland"] - (b["site"] == "south")), metric="hd95_gland")["results"][0]
    assert quiet["value"] == pytest.approx(149 / 60)  # a blank is 0 mm: finding nothing was right
    assert compare(a, b, metric="nsd_gland")["results"][0]["value"] == pytest.approx(-1 / 60)
    with pytest.raises(UserError, match="different tolerance_mm"):
        compare(a, b.assign(tolerance_mm=1.0), metric="nsd_gland")
    compare(a, b.drop(columns="tolerance_mm"), metric="nsd_gland")


@pytest.mark.parametrize(
    ("metric", "title", "unit"),
    [
        ("dice_mean", ("mean Dice", ""), ""),
        ("nsd_left_lung", ("surface Dice", "left_lung"), ""),
        ("hd95_mean", ("mean HD95", ""), "mm"),
        ("median_hd95_gland", ("median HD95", "gland"), "mm"),
        ("missed_gland", ("missed", "gland"), ""),
        ("auroc", ("auroc", ""), ""),
        ("median_age", ("median_age", ""), ""),
    ],
)
def test_how_metrics_are_called(metric, title, unit):
    assert (title_of(metric), measure_of(metric).unit) == (title, unit)
