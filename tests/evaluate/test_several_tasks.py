"""Tables of several findings: each is judged by itself, and their mean AUROC against a bootstrap over patients."""

import json
import math
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest

from medssl.cli import main
from medssl.errors import UserError
from medssl.evaluate import auroc, compare, evaluate, read_predictions
from medssl.evaluate.average import average, mean_of
from medssl.evaluate.metrics import Measured, measure_auroc
from medssl.evaluate.temperature import calibrated
from medssl.report import write_report

SCHEMA = json.loads((Path(__file__).parents[2] / "data_manifests" / "report.schema.json").read_text())
SIGNAL = {"edema": 2.0, "mass": 1.0, "nodule": 0.5}


def several(patients=150, seed=0, signal=SIGNAL):
    """Two scans of each patient, findings and errors that go together, and one label in ten not known."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(patients), 2)
    ill, odd = rng.normal(size=patients)[person], rng.normal(size=patients)[person]
    base = pd.DataFrame({
        "sample_id": [f"s{k:04d}" for k in range(len(person))], "patient_id": [f"p{k:03d}" for k in person],
        "split": np.where(person % 3 == 2, "val", "test"), "sex": np.where(person % 2, "F", "M"),
    })  # fmt: skip
    parts = []
    for task, strength in signal.items():
        label = (ill + 0.5 * rng.normal(size=len(person)) > 0.3).astype(float)
        score = 1 / (1 + np.exp(-(strength * label - 0.5 + odd + 0.5 * rng.normal(size=len(person)))))
        label[rng.random(len(person)) < 0.1] = np.nan
        parts.append(base.assign(label=label, score=score, task=task))
    return pd.concat(parts, ignore_index=True)


def test_each_task_is_judged_as_if_it_were_alone_in_its_table():
    table = several()
    together = evaluate({"p": table}, by=["sex"])
    assert [one["name"] for one in together["analyses"]] == ["edema", "mass", "nodule"]
    for analysis in together["analyses"]:
        (alone,) = evaluate({"p": table[table["task"] == analysis["name"]]}, by=["sex"])["analyses"]
        for key in ("cohort", "estimates", "gaps"):
            assert analysis[key] == alone[key]
        assert analysis["threshold"]["value"] == alone["threshold"]["value"]
        # The provenance names the whole table, whose digest the report has.
        assert together["provenance"]["tables"]["p"] in analysis["threshold"]["provenance"]
    assert len({one["threshold"]["value"] for one in together["analyses"]}) == 3
    two = evaluate({"a": table, "b": table}, by=["sex"])
    assert [one["name"] for one in two["analyses"]][:4] == ["a: edema", "a: mass", "a: nodule", "b: edema"]
    assert [one["table"] for one in two["averages"]] == ["a", "b"]
    assert evaluate({"p": table.sample(frac=1, random_state=0)}, by=["sex"]) == together


def test_a_threshold_does_not_see_the_rows_that_are_judged():
    table = several()
    moved = table.copy()
    test = moved["split"] == "test"
    moved.loc[test, "score"], moved.loc[test, "label"] = moved.loc[test, "score"] ** 4, 1 - moved.loc[test, "label"]
    values = [[one["threshold"]["value"] for one in evaluate({"p": t})["analyses"]] for t in (table, moved)]
    assert values[0] == values[1] and None not in values[0]


def test_the_mean_and_its_interval_are_those_of_a_bootstrap_over_patients():
    """The slow obvious twin draws patients with all their scans and averages the labels' AUROC."""
    table = several(240, seed=3)
    (row,) = evaluate({"p": table})["averages"]
    rows = table[(table["split"] == "test") & table["label"].notna()]
    each = [auroc(truth=part["label"].to_numpy(), score=part["score"].to_numpy()) for _, part in rows.groupby("task")]
    assert row["value"] == pytest.approx(np.mean(each)) and row["names"] == ["edema", "mass", "nodule"]
    assert row["n_patients"] == rows["patient_id"].nunique()
    tasks = [
        (part["label"].to_numpy(), part["score"].to_numpy(), part.groupby("patient_id").indices)
        for _, part in rows.groupby("task")
    ]
    people, rng, means = rows["patient_id"].unique(), np.random.default_rng(0), []
    for _ in range(600):
        drawn = rng.choice(people, len(people))
        places = [np.concatenate([where.get(one, np.zeros(0, int)) for one in drawn]) for _, _, where in tasks]
        means.append(np.mean([auroc(truth=t[p], score=s[p]) for (t, s, _), p in zip(tasks, places, strict=True)]))
    low, high = np.quantile(means, [0.025, 0.975])
    width = high - low
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.12 * width)
    # Labels of a patient go together: taken for independent, their mean would look surer than it is.
    codes = pd.Series(np.arange(len(people)), people)
    alone = [
        measure_auroc(
            part["label"].to_numpy(), part["score"].to_numpy(), codes[part["patient_id"]].to_numpy(), len(people)
        )
        for _, part in rows.groupby("task")
    ]
    assert np.sqrt(sum(one.error**2 for one in alone)) / 3 < 0.9 * mean_of(alone).error


def test_the_same_label_twice_is_as_sure_as_once_and_no_surer():
    rows = several(signal={"edema": 1.0}).query("split == 'test' and label == label")
    alone = evaluate({"p": rows})["analyses"][0]["estimates"][0]
    twice = average("p", {"a": rows, "b": rows}, {})
    assert [twice[key] for key in ("value", "low", "high")] == pytest.approx(
        [alone[k] for k in ("value", "low", "high")]
    )


def test_degrees_of_freedom_of_a_mean_lie_between_those_of_its_parts():
    few, many = (Measured(0.7, np.full(4, size), freedom, "logit") for size, freedom in ((0.1, 3.0), (0.02, 90.0)))
    assert mean_of([few, few]).freedom == pytest.approx(3)
    assert 3 < mean_of([few, many]).freedom < 90
    assert mean_of([few, many]).influence == pytest.approx(np.full(4, 0.06))


def test_what_cannot_be_judged_is_left_out_of_the_mean_and_named():
    table = several(signal={**SIGNAL, "hernia": 1.0, "fibrosis": 1.0})
    table.loc[(table["task"] == "hernia") & (table["split"] == "test"), "label"] = np.nan
    table.loc[table["task"] == "fibrosis", "label"] = 0.0
    report = evaluate({"p": table}, by=["sex"])
    jsonschema.validate(json.loads(json.dumps(report, allow_nan=False)), SCHEMA, cls=jsonschema.Draft202012Validator)
    (row,) = report["averages"]
    assert row["names"] == ["edema", "mass", "nodule"]
    assert {one["name"]: one["reason"] for one in row["left_out"]} == {
        "fibrosis": "one class only", "hernia": "no row of split 'test' has both label and score",
    }  # fmt: skip
    assert row["value"] == pytest.approx(evaluate({"p": table[table["task"].isin(SIGNAL)]})["averages"][0]["value"])
    first = report["findings"][0]
    assert "mean AUROC of 3 labels" in first and "2 labels cannot be judged" in first and len(first) < 300
    with pytest.raises(UserError, match="nothing to judge"):
        evaluate({"p": table.assign(label=np.nan)})
    nothing = evaluate({"p": table.assign(label=0.0)})
    assert (nothing["averages"][0]["value"], nothing["averages"][0]["reason"]) == (None, "no label can be judged")
    jsonschema.validate(nothing, SCHEMA, cls=jsonschema.Draft202012Validator)


def test_a_label_ranked_without_an_error_leaves_the_mean_without_an_interval():
    table = several()
    sure = table["task"] == "mass"
    table.loc[sure, "score"] = table.loc[sure, "label"].fillna(0) * 0.5 + 0.2
    (row,) = evaluate({"p": table})["averages"]
    assert row["value"] is not None and row["low"] is None and "mass does not vary" in row["method"]


def test_the_page_lists_each_label_with_its_threshold(tmp_path):
    table = several(signal={**SIGNAL, "<b>mass</b>": 1.0})
    page = write_report(evaluate({"p": table}, by=["sex"]), tmp_path).read_text()
    report = json.loads((tmp_path / "report.json").read_text())
    assert "fixed on validation rows (" not in page  # it may have been given, or explored
    assert "Mean AUROC of 4 labels" in page and "<b>mass" not in page
    for analysis in report["analyses"]:
        assert f'<td class="n">{analysis["threshold"]["value"]:.3f}</td>' in page
    assert page.count('href="#analysis1"') == 2
    older = {key: value for key, value in report.items() if key != "averages"}
    assert "Mean AUROC" not in write_report(older, tmp_path / "older").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: pd.concat([t, t[t["task"] == "mass"][:1]]),
            r"sample_id in row 902 occurs twice; .* and task",
        ),
        (lambda t: t.assign(task=t["task"].replace("mass", "")), "task '' in row 302 is blank where others are not"),
        (lambda t: t.drop(columns="task"), r"sample_id in row 302 occurs twice; give one row a sample \("),
    ],
)
def test_a_row_is_known_by_its_sample_and_task(tmp_path, change, message):
    change(several()).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(UserError, match=message):
        read_predictions(tmp_path / "p.csv")


def test_each_task_has_its_own_temperature_or_says_why_not(tmp_path, capsys):
    table = several(400, signal={**SIGNAL, "hernia": 1.0})
    table.loc[table["task"] == "hernia", "label"] = 0.0
    table.sample(frac=1, random_state=0).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(SystemExit, match="0"):
        main(["calibrate", str(tmp_path / "p.csv"), "-o", str(tmp_path / "c.csv")])
    told = capsys.readouterr().out
    found = read_predictions(tmp_path / "c.csv").set_index(["task", "sample_id"]).sort_index()
    given = read_predictions(tmp_path / "p.csv").set_index(["task", "sample_id"]).sort_index()
    assert np.allclose(found["score_before"], given["score"])
    assert np.allclose(found.loc["hernia", "score"], given.loc["hernia", "score"])
    assert found.loc["hernia", "calibration"].str.startswith("none: split val: 0 positives").all()
    assert "hernia: temperature none" in told and told.count("lowest cross-entropy") == 3
    for task in SIGNAL:
        alone = calibrated(given.loc[[task]].reset_index(), "d").set_index("sample_id")["score"].sort_index()
        assert np.allclose(found.loc[task, "score"], alone)
        assert not np.allclose(found.loc[task, "score"], given.loc[task, "score"])
    with pytest.raises(UserError, match="a temperature needs"):
        calibrated(table.assign(label=0.0), "d")


def test_models_are_compared_task_by_task():
    weak, strong = several(), several()
    one = strong["task"] == "nodule"
    strong.loc[one, "score"] = 0.7 * strong.loc[one, "score"] + 0.25 * strong.loc[one, "label"].fillna(0)
    result = compare(weak, strong, by=["sex"])
    assert [(row["task"], row["group"]) for row in result["results"]][:4] == [
        ("edema", "all"), ("edema", "F"), ("edema", "M"), ("mass", "all"),
    ]  # fmt: skip
    for row in result["results"]:
        rows = [table[table["task"] == row["task"]] for table in (weak, strong)]
        (alone,) = [r for r in compare(*rows, by=["sex"])["results"] if r["group"] == row["group"]]
        assert {**alone, "task": row["task"]} == row
        assert (row["value"] > 0) == (row["task"] == "nodule")
    assert result["sentences"][0].startswith("edema: auroc ")
    with pytest.raises(UserError, match="only one of the tables has the task nodule"):
        compare(weak, strong[strong["task"] != "nodule"])
    assert math.isfinite(compare(weak[one], strong[one].assign(task="other"))["results"][0]["value"])


def test_influences_of_tasks_add_up_over_the_same_patients():
    """Twice the same errors in opposite directions leave a mean that does not vary."""
    rng = np.random.default_rng(0)
    truth, score, patient = (np.arange(60) % 2).astype(float), rng.random(60), np.arange(60)
    one = measure_auroc(truth, score, patient, 60)
    other = measure_auroc(truth, 1 - score, patient, 60)
    assert mean_of([one, other]).value == pytest.approx(0.5) and mean_of([one, other]).error < 1e-12 < one.error
