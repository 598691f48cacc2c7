"""Who and what cannot be judged is said, and never turned into a number that looks certain."""

import json
import math
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest

from medssl.errors import UserError
from medssl.evaluate import compare, evaluate, read_predictions
from medssl.evaluate.groups import gaps
from medssl.evaluate.intervals import auroc_interval
from medssl.evaluate.measures import AUROC, mean_of
from medssl.evaluate.metrics import measure_auroc
from medssl.evaluate.threshold import fix_threshold

SCHEMA = json.loads((Path(__file__).parents[2] / "data_manifests" / "report.schema.json").read_text())


def scans(patients=120, eyes=1, seed=0):
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(patients), eyes)
    label = (person % 2).astype(float)
    score = 1 / (1 + np.exp(-(1.5 * label + rng.normal(size=len(person)))))
    return pd.DataFrame({
        "sample_id": [f"s{k:04d}" for k in range(len(person))], "patient_id": [f"p{k:03d}" for k in person],
        "split": np.where(person // 2 % 4 == 3, "val", "test"), "label": label, "score": score,
        "race": np.where(person // 2 % 3 == 0, "A", "B"), "laterality": np.where(np.arange(len(person)) % 2, "L", "R"),
    })  # fmt: skip


def outlines(patients=60):
    rng = np.random.default_rng(3)
    return pd.DataFrame({
        "sample_id": [f"s{k:03d}" for k in range(patients)], "patient_id": [f"p{k:03d}" for k in range(patients)],
        "split": "test", "label": np.nan, "score": np.nan, "dice_lesion": rng.uniform(0.4, 0.9, patients),
        "site": ["a", "b"] * (patients // 2),
    })  # fmt: skip


def whole(report, metric="auroc"):
    (row,) = [r for r in report["analyses"][0]["estimates"] if r["metric"] == metric and not r["attribute"]]
    return row


def test_a_group_that_was_never_scored_is_a_row_of_zeros():
    rows = scans()
    rows.loc[rows["race"] == "A", "score"] = np.nan
    report = evaluate({"eye": rows}, by=["race"])
    jsonschema.validate(report, SCHEMA, cls=jsonschema.Draft202012Validator)
    cohort = report["analyses"][0]["cohort"]
    a, b = cohort["attributes"][0]["groups"]
    test = rows[rows["split"] == "test"]
    assert (a["group"], a["n_patients"], a["n_left_out"]) == ("A", 0, (test["race"] == "A").sum())
    assert (b["n_rows"], b["n_left_out"]) == ((test["race"] == "B").sum(), 0)
    assert "have no label or no score" in report["analyses"][0]["notes"][0]


def test_values_are_not_groups():
    rows = scans().assign(age_years=[str(20 + k % 60) for k in range(120)])
    report = evaluate({"eye": rows})
    assert {row["attribute"] for row in report["analyses"][0]["estimates"]} == {"", "race", "laterality"}
    assert any("age_years has" in note for note in report["analyses"][0]["notes"])
    with pytest.raises(UserError, match=r"age_years has \d+ different values, more than 20; band it first"):
        evaluate({"eye": rows}, by=["age_years"])


def test_patients_with_an_eye_in_each_group_are_told():
    notes = evaluate({"eye": scans(eyes=2)}, by=["laterality", "race"])["analyses"][0]["notes"]
    assert notes == ["90 patients are in more than one group of laterality, and counted in each."]


def test_an_attribute_of_one_table_only():
    report = evaluate({"eye": scans(), "prostate": outlines()}, by=["race"])
    assert [a["notes"] for a in report["analyses"]] == [[], ["race is not in this table."]]
    with pytest.raises(UserError, match="no attribute 'site'"):
        evaluate({"eye": scans()}, by=["site"])


def test_equal_scores_rank_nobody_and_claim_nothing():
    row = whole(evaluate({"eye": scans().assign(score=0.5)}, by=["race"]))
    assert (row["value"], row["low"], row["high"]) == (0.5, None, None)
    assert "all scores are equal" in row["method"]


def test_one_sick_patient_is_an_anecdote():
    rows = scans(eyes=2)
    rows = rows[(rows["label"] == 0) | (rows["patient_id"] == "p001")]
    row = whole(evaluate({"eye": rows}, by=["race"]))
    assert (row["value"], row["status"], row["reason"]) == (None, "undefined", "only 1 patient with a positive")
    truth, score = np.array([1.0, 1, 0, 0, 0]), np.array([0.5, 0.6, 0.55, 0.1, 0.2])
    measured = measure_auroc(truth, score, np.array([0, 0, 1, 2, 3]), 4)
    assert math.isnan(auroc_interval(measured, 1, 3)[0])


def test_what_is_defined_for_one_class_is_shown():
    rows = scans(200)
    rows.loc[(rows["race"] == "A") & (rows["split"] == "test"), "label"] = 0.0
    estimates = evaluate({"eye": rows}, by=["race"])["analyses"][0]["estimates"]
    found = {row["metric"]: row for row in estimates if row["group"] == "A"}
    assert found["auroc"]["reason"] == "one class only"
    assert found["sensitivity"]["reason"] == "no positive"
    assert found["specificity"]["status"] == "ok"


def test_a_structure_counts_the_patients_that_have_it():
    rows = outlines()
    rows.loc[rows["site"] == "a", "dice_lesion"] = np.nan
    rows.loc[[0, 2, 4], "dice_lesion"] = 0.9
    report = evaluate({"p": rows}, by=["site"])
    estimates = {row["group"]: row for row in report["analyses"][0]["estimates"]}
    # All of them less the 30 of site b would be the three of site a.
    assert (estimates["all"]["n_patients"], estimates["b"]["n_patients"]) == (33, None)
    assert estimates["b"]["reason"] == "hidden so that another group cannot be computed"
    assert (estimates["a"]["status"], estimates["a"]["n_patients"]) == ("suppressed", None)
    assert {gap["verdict"] for gap in report["analyses"][0]["gaps"]} == {"suppressed"}


def test_two_groups_say_the_same_from_both_sides():
    rows = scans(300, eyes=2)
    a, b = gaps(rows, AUROC, "race", 11, 0.05)
    assert (a["value"], a["low"], a["high"]) == pytest.approx((-b["value"], -b["high"], -b["low"]))
    assert a["verdict"] == b["verdict"]
    assert a["low"] < a["value"] < a["high"]
    assert a["value"] == pytest.approx(a["group_value"] - a["rest_value"])


def test_no_spread_is_no_proof_of_a_gap():
    rows = outlines().assign(dice_lesion=[0.5, 0.6] * 30)
    found = gaps(rows, mean_of("dice_lesion"), "site", 11, 0.05)
    assert {gap["verdict"] for gap in found} == {"inconclusive"}
    assert all("no variance" in gap["reason"] for gap in found)


def test_a_target_sensitivity_is_reached_on_validation_rows():
    validation = pd.DataFrame({"patient_id": range(15), "label": [0.0] * 5 + [1.0] * 10,
                               "score": [0.05, 0.1, 0.2, 0.3, 0.8, *np.arange(0.15, 1.1, 0.09)[:10]]})  # fmt: skip
    for target in (0.5, 0.9, 1.0):
        found = fix_threshold(validation, "d", target_sensitivity=target)
        positives = validation[validation["label"] == 1]["score"]
        assert (positives >= found.value).mean() == target
        assert f"at least {target:.2f}" in found.provenance
    with pytest.raises(UserError, match=r"target sensitivity 1.5: not above 0"):
        fix_threshold(validation, "d", target_sensitivity=1.5)
    report = evaluate({"eye": scans(200)}, by=["race"], target_sensitivity=0.9)
    assert "sensitivity of at least 0.90" in report["analyses"][0]["threshold"]["provenance"]


def test_no_validation_rows_no_threshold():
    rows = scans()
    report = evaluate({"eye": rows[rows["split"] == "test"]}, by=["race"])
    assert report["analyses"][0]["threshold"]["provenance"] == "not fixed: the table has no validation rows (split val)"
    metrics = {row["metric"] for row in report["analyses"][0]["estimates"]}
    assert "auroc" in metrics and not metrics & {"sensitivity", "specificity"}
    assert "of 100 pairs" in report["findings"][0]


def test_one_blank_outline_was_right_and_stays_in_the_pair():
    a, b = outlines(12), outlines(12)
    a.loc[0, "dice_lesion"] = np.nan
    b.loc[0, "dice_lesion"] = 0.0
    for table in (a, b):
        table.loc[1, "dice_lesion"] = np.nan
    result = compare(a, b, metric="dice_lesion")
    (row,) = result["results"]
    assert (row["n_patients"], row["value"]) == (11, pytest.approx(-1 / 11))
    assert "blank counts as 1" in result["note"]


def test_two_perfect_models_are_not_shown_to_be_the_same():
    rows = scans()
    first = rows.assign(score=0.2 + 0.5 * rows["label"])
    second = rows.assign(score=0.3 + 0.4 * rows["label"] + np.arange(len(rows)) * 1e-5)
    result = compare(first, second)
    assert (result["results"][0]["value"], result["results"][0]["low"]) == (0, None)
    assert "no interval" in result["sentences"][0]


def test_tables_that_disagree_on_patients_or_scores_are_refused():
    rows = scans()
    with pytest.raises(UserError, match="disagree on whose a sample is"):
        compare(
            rows, rows.assign(patient_id=rows["patient_id"].to_numpy()[::-1], split="test").assign(split=rows["split"])
        )
    with pytest.raises(UserError, match="scored in one table only"):
        compare(rows, rows.assign(score=rows["score"].where(rows.index > 3)))
    with pytest.raises(UserError, match=r"choose --metric auroc, average_precision, .*hd95_ column"):
        compare(rows, rows, metric="race")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample_id,patient_id,split,label,score\na,p,test,1,0.5,x\n", "more cells than the header has names"),
        ("sample_id,patient_id,split,label,score\na,p,test,1,inf\n", "E101 score inf in row 2 is not a finite number"),
        ("sample_id,patient_id,split,label,score\na,p,test,1,nan\n", "E101 score 'nan' in row 2 is not a number"),
        ("", "cannot be read"),
    ],
)
def test_spoiled_files_say_what_to_mend(tmp_path, text, message):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_predictions(path)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    path = tmp_path / "P.CSV"
    path.write_text("\ufeffsample_id,patient_id,split,label,score\na,012,test,1,0.5\n", encoding="utf-8")
    assert read_predictions(path)["patient_id"].tolist() == ["012"]


@pytest.mark.parametrize(
    ("asked", "message"), [({"margin": 0}, "margin 0"), ({"minimum_patients": 0}, "minimum_patients 0")]
)
def test_rules_that_make_no_sense_are_refused(asked, message):
    with pytest.raises(UserError, match=message):
        evaluate({"eye": scans()}, **asked)
