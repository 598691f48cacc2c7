"""What a table may hold, what a report may tell, and what a comparison may claim."""

import json
import math
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from medssl.errors import UserError
from medssl.evaluate import compare, evaluate, read_predictions
from medssl.evaluate.predictions import attributes_of, check_predictions

MANIFESTS = Path(__file__).parents[2] / "data_manifests"


def scored(patients=240, seed=0, weaker=0.0, eyes=1):
    """Predictions over four races; race d is judged worse by `weaker` standard deviations of the noise."""
    rng = np.random.default_rng(seed)
    n = np.repeat(np.arange(patients), eyes)
    race = np.array(list("abcd"))[n // 2 % 4]
    label = (n % 2).astype(float)
    signal = rng.normal(size=len(n)) + (1.5 - weaker * (race == "d")) * label
    return pd.DataFrame({
        "sample_id": [f"s{k}" for k in range(len(n))], "patient_id": [f"p{k:03d}" for k in n],
        "split": np.where(n % 6 == 5, "val", np.where(n % 6 == 2, "val", "test")), "label": label,
        "score": 1 / (1 + np.exp(0.7 - signal)), "race": race, "sex": np.array(["F", "M", "unknown"])[n // 5 % 3],
    })  # fmt: skip


def outlined(patients=60, seed=1):
    dice = np.clip(np.random.default_rng(seed).normal(0.8, 0.08, patients), 0, 1)
    return pd.DataFrame({
        "sample_id": [f"v{k}" for k in range(patients)], "patient_id": [f"p{k}" for k in range(patients)],
        "split": "test", "label": np.nan, "score": np.nan, "dice_gland": dice, "dice_mean": dice,
        "site": np.array(["north", "south"])[np.arange(patients) % 2],
    })  # fmt: skip


def only(rows, **wanted):
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def holding(value, wanted):
    """Every dict inside `value`, at any depth, that names the group `wanted`."""
    if isinstance(value, dict):
        here = [value] if value.get("group") == wanted else []
        return here + [found for inside in value.values() for found in holding(inside, wanted)]
    return [found for inside in value for found in holding(inside, wanted)] if isinstance(value, list) else []


@pytest.mark.parametrize("small", ["tiny", "unknown"])
@pytest.mark.parametrize("patients", [1, 5, 10])
def test_a_small_group_leaves_no_number_anywhere(small, patients):
    rows = scored()
    rows.loc[rows.index[rows["split"] == "test"][:patients], "race"] = small
    report = evaluate({"eye": rows}, by=["race"])
    found = holding(report, small)
    assert len(found) >= 4
    for row in found:
        assert not [value for key, value in row.items() if isinstance(value, int | float) and key != "level"]
        assert "fewer than 11 patients" in row["reason"]
    for row in holding(evaluate({"eye": rows}, by=["race*sex"]), "tiny x F"):
        assert not [value for key, value in row.items() if isinstance(value, int | float) and key != "level"]
    race = only(report["analyses"][0]["cohort"]["attributes"], attribute="race")
    assert race["unknown_share"] == (None if small == "unknown" else 0)
    assert "race is not recorded" not in " ".join(report["findings"])


def test_eleven_patients_are_enough_and_the_minimum_can_be_moved():
    rows = scored()
    rows.loc[rows.index[rows["split"] == "test"][:11], "race"] = "few"
    analysis = evaluate({"eye": rows}, by=["race"])["analyses"][0]
    assert only(analysis["estimates"], metric="auroc", group="few")["n_patients"] == 11
    analysis = evaluate({"eye": rows}, by=["race"], minimum_patients=12)["analyses"][0]
    assert only(analysis["estimates"], metric="auroc", group="few")["n_patients"] is None


def test_unknown_is_a_row_but_never_a_side_of_a_gap():
    analysis = evaluate({"eye": scored()}, by=["sex"])["analyses"][0]
    assert [row["group"] for row in analysis["estimates"] if row["metric"] == "auroc"] == ["all", "F", "M", "unknown"]
    assert {gap["group"] for gap in analysis["gaps"]} == {"F", "M"}
    auroc = [gap for gap in analysis["gaps"] if gap["metric"] == "auroc"]
    assert auroc[0]["value"] == pytest.approx(-auroc[1]["value"])


def test_a_crossing_has_a_group_for_each_pair():
    analysis = evaluate({"eye": scored(480)}, by=["race*sex"], minimum_patients=5)["analyses"][0]
    (crossed,) = analysis["cohort"]["attributes"]
    assert len(crossed["groups"]) == 4 * 2 + 1
    assert crossed["groups"][0]["group"] == "a x F"
    assert sum(group["n_rows"] for group in crossed["groups"]) == analysis["cohort"]["n_rows"]


def test_rows_left_out_are_counted_with_their_group():
    rows = scored()
    rows.loc[(rows["race"] == "a") & (rows.index % 3 == 0), "score"] = np.nan
    cohort = evaluate({"eye": rows}, by=["race"])["analyses"][0]["cohort"]
    groups = cohort["attributes"][0]["groups"]
    test = rows[rows["split"] == "test"]
    assert cohort["n_left_out"] == test["score"].isna().sum() == groups[0]["n_left_out"] > 0
    assert all(group["n_left_out"] == 0 for group in groups[1:])
    assert cohort["n_rows"] + cohort["n_left_out"] == len(test)


def test_verdicts_on_what_was_planted():
    """A large planted gap is shown, none in a large cohort is equivalent, none in a small one is inconclusive."""
    planted = evaluate({"eye": scored(1600, weaker=1.5)}, by=["race"])["analyses"][0]["gaps"]
    worst = only(planted, metric="auroc", group="d")
    assert (worst["verdict"], worst["high"] < 0) == ("gap", True)
    assert worst["value"] == pytest.approx(worst["group_value"] - worst["rest_value"])
    equal = evaluate({"eye": scored(20_000)}, by=["race"])["analyses"][0]["gaps"]
    assert {gap["verdict"] for gap in equal if gap["metric"] == "auroc"} == {"equivalent"}
    few = evaluate({"eye": scored(160)}, by=["race"])["analyses"][0]["gaps"]
    assert "inconclusive" in {gap["verdict"] for gap in few if gap["metric"] == "auroc"}
    for gap in few:
        if gap["verdict"] == "inconclusive" and gap["value"] is not None:
            assert gap["low"] <= 0 <= gap["high"]
            assert gap["smallest_detectable"] > 0


def test_groups_without_spread_show_no_gap():
    """Everybody at the same Dice: means differ in the sixteenth place only."""
    rows = outlined().assign(dice_mean=0.8, dice_gland=0.8)
    rows.loc[:6, "site"] = "south"
    gaps = evaluate({"gland": rows}, by=["site"])["analyses"][0]["gaps"]
    assert {gap["verdict"] for gap in gaps} <= {"inconclusive", "equivalent"}


def test_one_sick_patient_with_two_eyes_is_one_patient():
    rows = scored(40, eyes=2)
    rows = rows[(rows["label"] == 0) | (rows["patient_id"] == "p001")].assign(split="test")
    row = only(evaluate({"eye": rows}, by=["sex"])["analyses"][0]["estimates"], metric="auroc", group="all")
    assert (row["value"], row["status"]) == (None, "undefined")
    assert "only 1 patient" in row["reason"]
    (compared,) = compare(rows, rows.assign(score=rows["score"] ** 2 * 0.5))["results"]
    assert compared["low"] is None


def test_single_class_is_null_with_a_reason():
    report = evaluate({"eye": scored().assign(label=0.0)}, by=["race"])
    row = only(report["analyses"][0]["estimates"], metric="auroc", group="all")
    assert (row["value"], row["low"], row["status"], row["reason"]) == (None, None, "undefined", "one class only")
    assert all(gap["value"] is None for gap in report["analyses"][0]["gaps"] if gap["metric"] == "auroc")
    json.dumps(report, allow_nan=False)


def test_both_tasks_in_one_report_match_the_schema():
    rows = scored(eyes=2)
    rows.loc[rows.index[rows["split"] == "test"][:4], "race"] = "tiny"
    outlines = outlined().assign(dice_stone=np.nan)
    outlines.loc[outlines["site"] == "south", "dice_gland"] = np.nan
    report = evaluate({"eye": rows, "gland": outlines})
    schema = json.loads((MANIFESTS / "report.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(json.dumps(report, allow_nan=False)), schema, cls=jsonschema.Draft202012Validator)
    assert [analysis["task"] for analysis in report["analyses"]] == ["classification", "segmentation"]
    stone = only(report["analyses"][1]["estimates"], metric="dice_stone", group="all")
    assert (stone["value"], stone["reason"]) == (None, "no patient has this structure")
    without = json.loads(json.dumps(report))
    without["analyses"][0]["estimates"][0] |= {"value": None, "reason": ""}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(without, schema, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "change",
    [
        {"patient_id": ""},
        {"split": "dev"},
        {"label": 2},
        {"score": 1.5},
        {"dice_gland": -0.1},
        {"sex": 1},
        {"unlike": 2},
        {"warning": "odd"},
    ],
)
def test_the_predictions_schema_refuses(change):
    schema = json.loads((MANIFESTS / "predictions.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    good = {
        "sample_id": "s",
        "patient_id": "012",
        "split": "val",
        "label": None,
        "score": 0.5,
        "race": "NA",
        "task": "t",
    }
    jsonschema.validate(good, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**good, **change}, schema)
    for column in ("sample_id", "patient_id", "split", "label", "score"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({key: value for key, value in good.items() if key != column}, schema)


def test_how_unlike_a_volume_is_stratifies_nobody():
    rows = scored().assign(unlike=0.5, warning=["unlike", ""] * (len(scored()) // 2))
    rows.loc[rows.index[0], "unlike"] = np.nan
    checked = check_predictions(rows)
    assert checked["unlike"].dtype == float
    assert not {"unlike", "warning"} & set(attributes_of(checked))
    rows.loc[rows.index[1], "unlike"] = 1.5
    with pytest.raises(UserError, match=r"unlike 1\.5 in row 3 is not between 0 and 1"):
        check_predictions(rows)


def test_failures_weigh_and_absent_structures_do_not():
    rows = outlined()
    rows.loc[:5, ["dice_gland", "dice_mean"]] = 0.0
    rows.loc[6:20, "dice_gland"] = np.nan
    estimates = evaluate({"gland": rows}, by=["site"])["analyses"][0]["estimates"]
    gland = only(estimates, metric="dice_gland", group="all")
    assert gland["value"] == pytest.approx(rows["dice_gland"].sum() / rows["dice_gland"].notna().sum())
    assert gland["n_patients"] == rows["dice_gland"].notna().sum()
    assert only(estimates, metric="dice_mean", group="all")["value"] == pytest.approx(rows["dice_mean"].mean())


def test_a_structure_that_few_have_is_not_shown_for_a_group():
    """Thirty patients of a site, three with the structure: their Dice is theirs."""
    rows = outlined().assign(dice_stone=np.nan)
    rows.loc[[0, 2, 4], "dice_stone"] = 0.3
    rows.loc[rows["site"] == "south", "dice_stone"] = 0.6
    row = only(evaluate({"gland": rows}, by=["site"])["analyses"][0]["estimates"], metric="dice_stone", group="north")
    assert (row["value"], row["n_patients"], row["status"]) == (None, None, "suppressed")


@pytest.mark.parametrize("rescale", [lambda s: s**3, lambda s: s / 2, lambda s: 0.2 + 0.8 * np.sqrt(s)])
def test_monotone_rescaling_and_order_change_no_ranking(rescale):
    rows = scored(eyes=2, weaker=1.0)
    other = rows.assign(score=rescale(rows["score"])).sample(frac=1, random_state=1)
    one, two = (evaluate({"eye": table}, by=["race"])["analyses"][0] for table in (rows, other))
    for kind in ("estimates", "gaps"):
        for a, b in zip(one[kind], two[kind], strict=True):
            if a["metric"] in ("auroc", "sensitivity", "specificity"):
                assert a == pytest.approx(b)
    assert compare(rows, other)["results"][0]["value"] == 0


def test_the_sign_and_size_of_a_paired_difference():
    rows = scored(eyes=2)
    noise = np.random.default_rng(9).normal(size=len(rows))
    worse = rows.assign(score=1 / (1 + np.exp(-(np.log(rows["score"] / (1 - rows["score"])) + 2 * noise))))
    (there,), (back,) = compare(rows, worse)["results"], compare(worse, rows)["results"]
    assert there["high"] < 0
    assert there["value"] == there["second"] - there["first"] == -back["value"]
    assert (there["low"], there["high"]) == pytest.approx((-back["high"], -back["low"]))
    shuffled = compare(rows.sample(frac=1, random_state=0), worse.sample(frac=1, random_state=1))["results"][0]
    assert shuffled == pytest.approx(there)


def test_identical_tables_differ_by_exactly_nothing_in_every_group():
    for row in compare(scored(), scored(), by=["race", "sex"])["results"]:
        assert (row["value"], row["low"], row["high"]) == (0, 0, 0)
    for row in compare(outlined(), outlined(), metric="dice_mean", by=["site"])["results"]:
        assert (row["value"], row["low"], row["high"]) == (0, 0, 0)


def test_a_paired_dice_difference_by_hand_and_by_group():
    a = outlined()
    b = a.assign(dice_mean=np.clip(a["dice_mean"] + np.random.default_rng(3).normal(0.03, 0.04, len(a)), 0, 1))
    for row in compare(a, b, metric="dice_mean", by=["site"])["results"][1:]:
        own = a["site"] == row["group"]
        expected = stats.ttest_rel(b["dice_mean"][own], a["dice_mean"][own]).confidence_interval(0.95)
        assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
        assert row["n_patients"] == 30
        assert "Student t" in row["method"]


def test_a_comparison_hides_small_groups_and_outlives_blank_cells():
    rows = scored()
    rows.loc[rows.index[rows["split"] == "test"][:4], "race"] = "tiny"
    rows.loc[rows.index[-6:], ["label", "score"]] = np.nan
    small = only(compare(rows, rows, by=["race"])["results"], group="tiny")
    assert small["n_patients"] is small["value"] is small["first"] is None
    blank, found = outlined(), outlined()
    blank.loc[:9, "dice_gland"], found.loc[:4, "dice_gland"] = np.nan, 0.0
    (row,) = compare(blank, found, metric="dice_gland")["results"]
    assert row["value"] < 0
    with pytest.raises(UserError, match=r"no attribute 'faith'; it has: .*race"):
        compare(rows, rows, by=["faith"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="patient_id"), r"no column 'patient_id'; it has: sample_id"),
        (lambda t: t.assign(label="yes"), r"E103 label 'yes' in row 2 is not a number; leave the cell blank"),
        (lambda t: t.assign(label=2), r"label 2.0 in row 2 is not 0, 1 or blank"),
        (lambda t: t.assign(score="inf"), r"E101 score inf in row 2 is not a finite number"),
        (lambda t: t.assign(score=-0.1), r"score -0.1 in row 2 is not between 0 and 1"),
        (lambda t: t.assign(dice_gland=1.2), r"dice_gland 1.2 in row 2 is not between 0 and 1"),
        (lambda t: t.assign(split=""), r"split '' in row 2 is not one of train, val, test"),
        (lambda t: t.assign(sample_id=["same", *t["sample_id"][1:-1], "same"]), r"E110 sample_id in row 41 occurs"),
        (lambda t: t.assign(patient_id=[*t["patient_id"][:-1], None]), r"patient_id in row 41 is blank; every row"),
        (lambda t: t.assign(patient_id=["p", *t["patient_id"][1:-1], "p"], split=["val", *["test"] * 39]),
         r"1 patient is in more than one split; split by patient"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_bad_table_is_answered_in_either_format(tmp_path, kind, change, message):
    path, rows = tmp_path / f"p.{kind}", change(scored(40))
    rows.to_csv(path, index=False) if kind == "csv" else rows.to_parquet(path)
    with pytest.raises(UserError, match=message) as caught:
        read_predictions(path)
    assert str(path) in str(caught.value)


def test_files_that_are_no_tables(tmp_path):
    with pytest.raises(UserError, match="no such file; make it with medssl predict"):
        read_predictions(tmp_path / "none.csv")
    for name, content in ("a.parquet", b"no"), ("b.csv", b""), ("c.csv", b"\xff\xfe\x00\x81"), ("d.csv", b'a,"b\n'):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            read_predictions(tmp_path / name)


def test_text_survives_both_formats_and_blank_is_unknown(tmp_path):
    rows = scored(12)[["sample_id", "patient_id", "split", "label", "score", "race"]]
    rows["patient_id"] = [f"{k:03d}" for k in range(12)]
    rows["race"] = ["NA", "None", "1e-4", "", "NO", "null", "nan", "01", "a,b", 'q"q', "é", "x"]
    rows["label"] = [*rows["label"][:-1], np.nan]
    rows.to_csv(tmp_path / "p.csv", index=False)
    rows.to_parquet(tmp_path / "p.parquet")
    for name in ("p.csv", "p.parquet"):
        read = read_predictions(tmp_path / name)
        assert read["patient_id"].iloc[1] == "001"
        assert read["race"].tolist() == [*rows["race"][:3], "unknown", *rows["race"][4:]]
        assert math.isnan(read["label"].iloc[-1])


def test_splits_and_attributes_that_are_not_there():
    with pytest.raises(UserError, match=r"eye: no rows of split 'exam'; the table has: test, val"):
        evaluate({"eye": scored()}, split="exam")
    with pytest.raises(UserError, match=r"no attribute 'faith'; it has: race, sex"):
        evaluate({"eye": scored()}, by=["sex*faith"])
    with pytest.raises(UserError, match="nothing to judge"):
        evaluate({"eye": scored().assign(score=np.nan)})
    with pytest.raises(UserError, match="no predictions table"):
        evaluate({})


def test_the_threshold_never_comes_from_the_judged_split():
    judged = evaluate({"eye": scored()}, by=["race"], split="val")["analyses"][0]
    assert judged["threshold"]["value"] is None
    assert not {"sensitivity", "specificity"} & {row["metric"] for row in judged["estimates"]}
    rows = scored()
    rows.loc[rows["split"] == "val", "label"] = 0.0
    few = evaluate({"eye": rows}, by=["race"])["analyses"][0]["threshold"]
    assert few["value"] is None
    assert "0 positives" in few["provenance"]


def test_a_column_may_have_a_star_in_its_name():
    rows = scored().rename(columns={"race": "race*self"})
    estimates = evaluate({"eye": rows})["analyses"][0]["estimates"]
    assert {row["attribute"] for row in estimates} == {"", "race*self", "sex"}


def test_a_long_name_leaves_room_for_the_finding():
    rows = scored(1600, weaker=1.5).assign(race=lambda t: t["race"].replace("d", "d" * 5000))
    assert all(len(sentence) < 500 for sentence in evaluate({"e" * 5000: rows}, by=["race"])["findings"])
