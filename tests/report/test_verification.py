"""A report holds or does not: against its table, whatever order its rows are in, and not against another one."""

import copy
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from medssl.cli import main
from medssl.errors import UserError
from medssl.evaluate import evaluate
from medssl.report.verification import differences
from tests.evaluate.test_sections import scored

SCHEMA = json.loads((Path(__file__).parents[2] / "data_manifests" / "report.schema.json").read_text())


@pytest.fixture(scope="module")
def table():
    return scored(160)


@pytest.fixture(scope="module")
def report(table):
    return json.loads(json.dumps(evaluate({"eyes": table}, by=["sex"], minimum_patients=12, target_sensitivity=0.9)))


def test_a_report_holds_against_its_table_in_any_order_and_by_any_name(report, table):
    assert differences(report, {"eyes": table}) == []
    assert differences(report, {"renamed": table.sample(frac=1, random_state=0)}) == []


def test_another_threshold_or_split_is_made_again_too(table):
    report = evaluate({"eyes": table}, by=["sex*race"], split="val", margin=0.1, title="x")
    assert differences(json.loads(json.dumps(report)), {"eyes": table}) == []


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (
            lambda a: a["estimates"][0].update(value=a["estimates"][0]["value"] + 1e-6),
            "analyses[0].estimates[0].value: ",
        ),
        (
            lambda a: a["gaps"][1].update(verdict="equivalent"),
            "analyses[0].gaps[1].verdict: 'equivalent' in the report",
        ),
        (lambda a: a["cohort"].update(n_patients=7), "analyses[0].cohort.n_patients: 7 in the report"),
        (lambda a: a["estimates"].pop(), "analyses[0].estimates: "),
        (lambda a: a.pop("power"), "analyses[0].power: None in the report"),
        (lambda a: a["threshold"].update(value=None), "analyses[0].threshold.value: None in the report"),
    ],
)
def test_whatever_was_changed_is_named_first(report, table, change, place):
    changed = copy.deepcopy(report)
    change(changed["analyses"][0])
    found = differences(changed, {"eyes": table})
    assert found[0].startswith(place)


def test_the_last_digits_may_differ_between_machines(report, table):
    other = copy.deepcopy(report)
    other["analyses"][0]["estimates"][0]["value"] *= 1 + 1e-12
    assert differences(other, {"eyes": table}) == []


def test_another_table_is_told_by_its_digest_and_its_numbers(report, table):
    other = table.assign(score=np.clip(table["score"] + 0.01 * (table["label"] == 0), 0, 1))
    found = differences(report, {"eyes": other})
    assert report["provenance"]["tables"]["eyes"] in found[0]
    assert len(found) > 1


def test_tables_and_reports_that_cannot_be_compared_are_said(report, table):
    with pytest.raises(UserError, match="the report is of eyes, given were a, b"):
        differences(report, {"a": table, "b": table})
    older = copy.deepcopy(report)
    del older["provenance"]["settings"]
    with pytest.raises(UserError, match="does not tell how it was made"):
        differences(older, {"eyes": table})
    newer = copy.deepcopy(report)
    newer["provenance"]["settings"]["phase"] = "of the moon"
    with pytest.raises(UserError, match=r"phase.*another version"):
        differences(newer, {"eyes": table})


def run(*words):
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return left.value.code or 0


def test_the_command_says_so_and_draws_nothing_that_does_not_hold(table, tmp_path, capsys):
    eyes, content = tmp_path / "eyes.csv", tmp_path / "some where" / "report.json"
    table.to_csv(eyes, index=False)
    assert run("evaluate", eyes, "--by", "sex", "--deviation", "Late.", "--output", content) == 0
    told = json.loads(content.read_text())
    assert told["provenance"]["command"] == "medssl evaluate eyes.csv --output report.json --by sex --deviation Late."
    assert told["provenance"]["date"].endswith("+00:00")
    assert told["provenance"]["deviations"] == ["Late."]
    assert run("report", content, "-o", tmp_path / "good", "--verify", eyes) == 0
    assert "the report holds" in capsys.readouterr().out
    assert (tmp_path / "good" / "report.md").is_file()
    theirs = tmp_path / "theirs.csv"
    table.rename(columns={"score": "prob"}).drop(columns="split").to_csv(theirs, index=False)
    names = ("--columns", "score=prob,split=:test")
    assert run("evaluate", theirs, *names, "--by", "sex", "--output", tmp_path / "theirs.json") == 0
    jsonschema.validate(json.loads((tmp_path / "theirs.json").read_text()), SCHEMA)
    assert run("report", tmp_path / "theirs.json", "-o", tmp_path / "good", "--verify", theirs) == 0
    told["analyses"][0]["estimates"][0]["value"] = 0.99
    content.write_text(json.dumps(told))
    assert run("report", content, "-o", tmp_path / "bad", "--verify", eyes) == 3
    out = capsys.readouterr().out
    assert "estimates[0].value: 0.99 in the report" in out
    assert "does not hold: 1 difference" in out
    assert not (tmp_path / "bad").exists()
