"""Requirements declared before looking: met, not met, or neither, and the exit code that says so."""

import json
from pathlib import Path

import jsonschema
import pytest

from medssl.cli import main
from medssl.errors import UserError
from medssl.evaluate import evaluate
from medssl.evaluate.criteria import read_criteria, with_criteria
from medssl.report import write_report
from medssl.report.verification import differences
from tests.evaluate.test_sections import scored

SCHEMA = Path(__file__).parents[2] / "data_manifests" / "report.schema.json"


def estimate(metric, value, low, high, reason=""):
    ends = {"value": value, "low": low, "high": high, "reason": reason}
    return {"metric": metric, "attribute": "", "group": "all", **ends}


def verdict(row, limit):
    report = {"analyses": [{"name": "a", "estimates": [row]}]}
    (found,) = with_criteria(report, {row["metric"]: limit})["criteria"]["rows"]
    return found["verdict"]


@pytest.mark.parametrize(
    ("limit", "said"),
    [(0.7, "met"), (0.75, "met"), (0.8, "cannot conclude"), (0.9, "cannot conclude"), (0.91, "not met")],
)
def test_a_share_must_reach_its_limit_with_the_whole_interval(limit, said):
    assert verdict(estimate("sensitivity", 0.85, 0.75, 0.9), limit) == said


@pytest.mark.parametrize(("limit", "said"), [(8, "met"), (7, "met"), (5, "cannot conclude"), (2.9, "not met")])
def test_of_a_distance_less_is_asked(limit, said):
    assert verdict(estimate("hd95_gland", 5.0, 3.0, 7.0), limit) == said


def test_without_an_interval_nothing_is_concluded():
    assert verdict(estimate("auroc", None, None, None, "one class only"), 0.1) == "cannot conclude"
    assert verdict(estimate("auroc", 0.9, None, None), 0.1) == "cannot conclude"


def test_what_is_required_is_read_and_told_when_it_is_none():
    assert read_criteria(["sensitivity=0.8", "hd95_gland=5"]) == {"sensitivity": 0.8, "hd95_gland": 5.0}
    for words in ("sensitivity", "=0.8", "sensitivity=high", "sensitivity=nan", "sensitivity=inf"):
        with pytest.raises(UserError, match=r"not METRIC=NUMBER"):
            read_criteria([words])
    with pytest.raises(UserError, match="required before"):
        read_criteria(["auroc=0.8", "auroc=0.9"])
    with pytest.raises(UserError, match=r"--require recall: no analysis measures it; it may be: auroc, sensitivity"):
        with_criteria(evaluate({"a": scored()}), {"recall": 0.8})


def test_everybody_and_each_group_is_asked_and_the_report_tells(tmp_path):
    table = scored()
    report = with_criteria(evaluate({"eyes": table}, minimum_patients=12), {"sensitivity": 0.6, "specificity": 0.99})
    jsonschema.validate(report, json.loads(SCHEMA.read_text()), cls=jsonschema.Draft202012Validator)
    rows = report["criteria"]["rows"]
    told = [row for row in report["analyses"][0]["estimates"] if row["metric"] in ("sensitivity", "specificity")]
    assert [(row["metric"], row["group"], row["value"]) for row in rows] == [
        (row["metric"], row["group"], row["value"]) for row in told
    ]
    assert rows[0]["verdict"] == "met"
    assert {row["verdict"] for row in rows if row["metric"] == "specificity"} == {"not met", "cannot conclude"}
    page = write_report(report, tmp_path).read_text()
    assert "sensitivity at least 0.60" in page
    assert "| eyes | specificity at least 0.99 |" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "criteria.csv").read_text().count("\n") == len(rows) + 1
    assert differences(json.loads(json.dumps(report)), {"eyes": table}) == []
    rows[0]["verdict"] = "not met"
    assert differences(report, {"eyes": table}) == [
        "criteria.rows[0].verdict: 'not met' in the report, 'met' made again"
    ]


def test_nothing_required_changes_nothing():
    report = evaluate({"eyes": scored()})
    assert with_criteria(report, {}) == report


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--require", "sensitivity=0.1"], 0),
        (["--require", "sensitivity=0.99"], 6),
        (["--require", "sensitivity=0.74"], 0),
        (["--require", "sensitivity=0.74", "--strict"], 7),
        (["--require", "sensitivity=much"], 2),
    ],
)
def test_the_exit_code_says_it_and_the_report_is_written(tmp_path, words, code):
    eyes, content = tmp_path / "eyes.csv", tmp_path / "report.json"
    scored()[lambda rows: rows["race"] != "rare"].to_csv(eyes, index=False)
    with pytest.raises(SystemExit) as left:
        main(["evaluate", str(eyes), "--by", "sex", *words, "-o", str(content)])
    assert (left.value.code or 0) == code
    assert content.exists() == (code != 2)
