"""Several classes, each against all others: scikit-learn's one-vs-rest, and labels however a file kept them."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from medssl.cli import main
from medssl.errors import UserError
from medssl.evaluate import check_predictions, evaluate, read_predictions

SCHEMA = json.loads((Path(__file__).parents[2] / "data_manifests" / "predictions.schema.json").read_text())
CLASSES = ["none", "mild", "severe disease", "0"]


def classed(patients=120, seed=0, classes=CLASSES):
    """Two eyes a patient; softmax scores with ties."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(patients), 2)
    label = rng.integers(0, len(classes), len(person))
    logits = rng.normal(size=(len(person), len(classes))) + 1.2 * np.eye(len(classes))[label]
    logits = np.round(logits, 1)
    score = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return pd.DataFrame({
        "sample_id": [f"s{k:03d}" for k in range(len(person))], "patient_id": [f"p{k:03d}" for k in person],
        "split": np.where(person % 4 == 0, "val", "test"), "label": np.array(classes)[label],
        "sex": np.where(person % 2, "F", "M"), **{f"score_{name}": score[:, k] for k, name in enumerate(classes)},
    })  # fmt: skip


def test_the_mean_over_classes_is_scikit_learns_one_vs_rest():
    table = classed()
    report = evaluate({"eyes": table}, by=["sex"])
    assert [one["name"] for one in report["analyses"]] == sorted(CLASSES)
    test = table[table["split"] == "test"]
    names = sorted(CLASSES)
    scores = test[[f"score_{name}" for name in names]].to_numpy()
    macro = roc_auc_score(test["label"], scores, multi_class="ovr", average="macro", labels=names)
    (mean,) = report["averages"]
    assert mean["value"] == pytest.approx(macro, abs=1e-12)
    assert mean["low"] < macro < mean["high"] and mean["names"] == names
    each = roc_auc_score(test["label"], scores, multi_class="ovr", average=None, labels=names)
    for analysis, wanted in zip(report["analyses"], each, strict=True):
        (whole,) = [e for e in analysis["estimates"] if e["metric"] == "auroc" and not e["attribute"]]
        assert whole["value"] == pytest.approx(wanted, abs=1e-12)
        assert analysis["cohort"]["n_positive"] == (test["label"] == analysis["name"]).sum()


def test_a_row_is_a_row_of_each_class():
    table = classed(10)
    table.loc[3, "label"] = None
    long = check_predictions(table)
    assert len(long) == len(CLASSES) * len(table) and not [c for c in long.columns if c.startswith("score_")]
    one = long[long["sample_id"] == "s000"].set_index("task")
    assert one["score"].to_dict() == {name: table[f"score_{name}"][0] for name in CLASSES}
    assert one["label"].to_dict() == {name: float(name == table["label"][0]) for name in CLASSES}
    assert long.loc[long["sample_id"] == "s003", "label"].isna().all()
    pd.testing.assert_frame_equal(check_predictions(long), long)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("kind", [int, float, str])
def test_classes_that_are_numbers_are_found_however_the_file_kept_them(tmp_path, ending, kind):
    table = classed(30, classes=["0", "1", "2"])
    table["label"] = table["label"].astype(float).astype(kind) if kind is not str else table["label"]
    if kind is float:
        table.loc[0, "label"] = np.nan
    path = tmp_path / f"t.{ending}"
    table.to_csv(path, index=False) if ending == "csv" else table.to_parquet(path, index=False)
    long = read_predictions(path)
    assert long.groupby("sample_id")["label"].sum().iloc[1:].eq(1).all()
    assert long["label"].isna().sum() == (3 if kind is float else 0)


def test_a_single_score_with_attributes_of_like_names_is_no_table_of_classes():
    table = classed(20).assign(score=0.5, label=1.0)
    assert check_predictions(table)["score"].eq(0.5).all() and "task" not in check_predictions(table)
    calibrated = check_predictions(classed(20)).assign(score_before=0.5)
    assert len(check_predictions(calibrated)) == len(calibrated)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(label="odd"), r"label 'odd' has no column 'score_odd', in 20 of 20 rows \(rows 2, 3, 4, 5, 6"),
        (lambda t: t.drop(columns=["score_none", "score_mild"]), "are fewer than 3 classes; of two classes give the score"),
        (lambda t: t.assign(task="x"), "each class becomes a task"),
        (lambda t: t.drop(columns="label"), "no column 'label', which names each row's class"),
        (lambda t: t.assign(score_mild=[*t["score_mild"][:9], 1.5, *t["score_mild"][10:]]), r"score_mild '1.5' in row 11"),
        (lambda t: t.assign(score_mild="high"), r"score_mild 'high' in row 2 is not between 0 and 1"),
    ],
)  # fmt: skip
def test_what_would_make_a_number_wrong_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        check_predictions(change(classed(10)))


def test_rows_match_the_schema_and_those_of_no_layout_do_not():
    rows = json.loads(classed(5).to_json(orient="records"))
    for row in rows:
        jsonschema.validate(row, SCHEMA, cls=jsonschema.Draft202012Validator)
    without = {key: value for key, value in rows[0].items() if not key.startswith("score_")}
    for wrong in (without, {**without, "score_before": 0.5}, {**rows[0], "score_mild": 2}, {**rows[0], "task": "t"},
                  {**rows[0], "score": 0.5}):  # fmt: skip
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, SCHEMA, cls=jsonschema.Draft202012Validator)


def test_the_command_judges_classes(tmp_path):
    classed().to_csv(tmp_path / "eyes.csv", index=False)
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", str(tmp_path / "eyes.csv"), "--by", "sex", "-o", str(tmp_path / "r.json")])
    report = json.loads((tmp_path / "r.json").read_text())
    assert "the mean AUROC of 4 labels" in report["findings"][0]
