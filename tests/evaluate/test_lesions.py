"""Lesions in a report: picai_eval's values, every case in the denominators, nothing of small groups, and bad tables."""

import importlib.util
import json
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest

from medssl.cli import main
from medssl.errors import UserError
from medssl.evaluate import check_predictions, evaluate
from medssl.evaluate.bootstrap import weights
from medssl.evaluate.detection import (
    lesion_average_precision,
    lesion_sensitivity,
    lesions_of,
    measure_lesion_precision,
    weighted_lesion_precision,
    weighted_lesion_sensitivity,
)
from medssl.evaluate.lesions import Detection, check_lesions, lesions_beside, read_lesions
from medssl.report import write_report

MANIFESTS = Path(__file__).parents[2] / "data_manifests"
SCHEMA = json.loads((MANIFESTS / "report_sections" / "lesions.schema.json").read_text())


def cohort(patients=120, seed=0, rare=6, easier=0.0):
    """Cases (one patient in six has two) of men at five sites, three of them rare; lesions found better in the north."""
    rng = np.random.default_rng(seed)
    person = np.sort(np.concatenate([np.arange(patients), np.arange(0, patients, 6)]))
    cases, found = [], []
    for number, who in enumerate(person):
        north = who % 2 == 0
        site = ["rare", "rarer", "rarest"][who // rare] if who < 3 * rare else "north" if north else "south"
        case = f"secret-case-{number:03d}"
        count = int(rng.choice([0, 1, 2], p=[0.5, 0.35, 0.15]))
        entries = []
        for _ in range(count):
            seen = rng.random() < 0.6 + 0.3 * north * easier
            entries.append((1, round(float(rng.beta(3, 2)), 2) if seen else 0.0))
        entries += [(0, round(float(rng.beta(2, 3)), 2) + 0.01) for _ in range(rng.poisson(0.7))]
        found += [(case, *entry) for entry in entries]
        highest = max((score for _, score in entries), default=0.0)
        cases.append((case, f"secret-{who:03d}", "test", float(count > 0), min(highest, 1.0), site, "M"))
    columns = ["sample_id", "patient_id", "split", "label", "score", "site", "sex"]
    return Detection(pd.DataFrame(cases, columns=columns), pd.DataFrame(found, columns=["sample_id", "truth", "score"]))


def section(detection, **how):
    (analysis,) = evaluate({"cs": detection}, **how)["analyses"]
    return analysis["sections"]["lesions"]


def row_of(told, attribute, group):
    (row,) = [row for row in told["rows"] if (row["attribute"], row["group"]) == (attribute, group)]
    return row


def fixtures():
    """The toy set and the generated cases of the tests of lesion metrics."""
    path = Path(__file__).with_name("test_detection.py")
    spec = importlib.util.spec_from_file_location("detection_cases", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def as_tables(maps):
    """A detection of (truth, detection map) pairs, one a patient."""
    cases, found = [], []
    for number, (truth, detected) in enumerate(maps):
        case = f"c{number}"
        cases.append((case, f"p{number}", "test", float(truth.any()), float(detected.max())))
        found += [(case, entry.truth, entry.score) for entry in lesions_of(detected, truth)]
    return Detection(
        pd.DataFrame(cases, columns=["sample_id", "patient_id", "split", "label", "score"]),
        pd.DataFrame(found, columns=["sample_id", "truth", "score"]),
    )


@pytest.mark.parametrize("which", ["toy", "generated"])
def test_a_report_says_what_picai_eval_says(which):
    picai = pytest.importorskip("picai_eval", reason="PI-CAI's own metrics: pip install picai-eval")
    known = fixtures()
    maps = list(known.TOY.values()) if which == "toy" else [known.generated(seed) for seed in range(150)]
    theirs = picai.evaluate([d for _, d in maps], [t for t, _ in maps], num_parallel_calls=1, verbose=0)
    (analysis,) = evaluate({"cs": as_tables(maps)}, minimum_patients=5)["analyses"]
    (whole,) = analysis["sections"]["lesions"]["rows"]
    assert whole["counts"]["cases"] == len(maps) and whole["counts"]["lesions"] == theirs.num_lesions
    assert whole["average_precision"]["value"] == pytest.approx(theirs.AP, abs=1e-12)
    assert analysis["estimates"][0]["value"] == pytest.approx(theirs.auroc, abs=1e-12)
    for point in whole["sensitivity"]:
        wanted = theirs.lesion_TPR_at_FPR(point["alarms"])
        assert point["value"] == pytest.approx(wanted, abs=1e-12)
        if which == "generated":
            assert point["low"] <= point["value"] <= point["high"] and point["low"] < point["high"]


def test_where_all_lesions_are_found_the_curve_reaches_one_as_that_of_picai_eval_does_not():
    """picai_eval 1.4.13 overwrites its last threshold: two lesions, both found, and its curve ends at one half."""
    from picai_eval.metrics import Metrics

    entries = {"a": [(1, 0.9, 0.5), (0, 0.8, 0.0)], "b": [(1, 0.7, 0.5)]}
    theirs = Metrics(lesion_results=entries, case_target={"a": 1, "b": 1}, case_pred={"a": 0.9, "b": 0.7})
    assert theirs.lesion_TPR_at_FPR(2) == 0.5
    truth, score = np.array([1, 0, 1]), np.array([0.9, 0.8, 0.7])
    assert lesion_sensitivity(truth=truth, score=score, cases=2, alarms=2) == 1.0
    assert lesion_average_precision(truth=truth, score=score) == pytest.approx(theirs.AP, abs=1e-12)


def test_values_of_a_group_are_those_of_its_entries_and_of_all_its_cases():
    detection = cohort()
    told = section(detection, by=["site"])
    for group in ("north", "south"):
        cases = detection.cases[detection.cases["site"] == group]
        found = detection.lesions[detection.lesions["sample_id"].isin(cases["sample_id"])]
        silent = len(cases) - found["sample_id"].nunique()
        assert silent > 3  # who has neither lesion nor candidate counts in the denominator
        entries = {"truth": found["truth"].to_numpy(), "score": found["score"].to_numpy()}
        row = row_of(told, "site", group)
        assert row["counts"] == {
            "patients": cases["patient_id"].nunique(), "cases": len(cases), "lesions": int((found["truth"] == 1).sum()),
            "false_alarms": int((found["truth"] == 0).sum()),
        }  # fmt: skip
        assert row["average_precision"]["value"] == lesion_average_precision(**entries)
        for point in row["sensitivity"]:
            found_at = lesion_sensitivity(**entries, cases=len(cases), alarms=point["alarms"])
            assert point["value"] == found_at and point["low"] <= found_at <= point["high"]


def test_intervals_are_those_of_patients_drawn_with_all_their_cases():
    """The slow obvious twin draws patients and repeats their cases; its spread is that of the intervals."""
    detection = cohort(patients=200, seed=3)
    cases, found = detection
    whole = section(detection)["rows"][0]
    by_patient = {who: list(part["sample_id"]) for who, part in cases.groupby("patient_id")}
    entries = {case: part[["truth", "score"]].to_numpy() for case, part in found.groupby("sample_id")}
    rng, people, drawn = np.random.default_rng(1), list(by_patient), []
    for _ in range(400):
        names = [case for k in rng.integers(0, len(people), len(people)) for case in by_patient[people[k]]]
        both = np.concatenate([entries[case] for case in names if case in entries])
        truth, score = both[:, 0], both[:, 1]
        drawn.append([
            lesion_average_precision(truth=truth, score=score),
            *(lesion_sensitivity(truth=truth, score=score, cases=len(names), alarms=a) for a in (0.1, 0.25, 0.5, 1, 2)),
        ])  # fmt: skip
    spread = np.std(drawn, axis=0)
    for one, wide in zip([whole["average_precision"], *whole["sensitivity"]], spread, strict=True):
        assert (one["high"] - one["low"]) / 3.92 == pytest.approx(wide, rel=0.15)


def test_weights_are_patients_drawn_as_often_and_thresholds_are_found_anew(rng):
    for _ in range(20):
        count = int(rng.integers(1, 30))
        truth, patient = rng.integers(0, 2, count), rng.integers(0, 6, count)
        score = np.where((truth == 1) & (rng.random(count) < 0.3), 0, rng.choice([0.25, 0.5, 0.75], count))
        scans, weight = rng.integers(1, 4, 6), rng.integers(0, 3, (6, 4))
        weight[0] += weight.sum(0) == 0
        for alarms in (0.1, 0.5, 2.0):
            found = weighted_lesion_sensitivity(truth, score, patient, scans.astype(float), alarms)(
                weight.astype(float)
            )
            for column in range(4):
                times = weight[patient, column]
                wanted = lesion_sensitivity(
                    truth=truth.repeat(times),
                    score=score.repeat(times),
                    cases=int(scans @ weight[:, column]),
                    alarms=alarms,
                )
                assert found[column] == pytest.approx(wanted, nan_ok=True)


def test_the_influence_of_a_patient_is_the_derivative_and_its_error_that_of_the_bootstrap(rng):
    person = np.repeat(np.arange(150), rng.poisson(1.3, 150))
    truth = (rng.random(len(person)) < 0.4).astype(int)
    score = np.round(1 / (1 + np.exp(-1.2 * truth - rng.normal(size=len(person)))), 2)
    score[(truth == 1) & (rng.random(len(person)) < 0.2)] = 0
    measured = measure_lesion_precision(truth, score, person, 150)
    statistic, step = weighted_lesion_precision(truth, score, person), 1e-6
    slope = (statistic(np.ones((150, 150)) + step * np.eye(150)) - measured.value) / step
    assert measured.influence == pytest.approx(slope * np.sqrt(150 / 149), abs=1e-7)
    assert measured.influence.sum() == pytest.approx(0, abs=1e-12)
    drawn = np.concatenate([statistic(chunk) for chunk in weights(150)])
    assert measured.error == pytest.approx(drawn.std(), rel=0.1)
    nothing = measure_lesion_precision(np.zeros(2), np.ones(2), np.arange(2), 2)
    assert np.isnan(nothing.value) and nothing.reason == "no lesion"
    missed = measure_lesion_precision(np.ones(3), np.zeros(3), np.arange(3), 3)
    assert missed.value == 0 and missed.error == 0


def test_a_difference_is_shown_where_there_is_one_and_small_groups_are_not():
    told = section(cohort(patients=900, seed=5, easier=1.0), by=["site", "sex"])
    verdicts = {(gap["attribute"], gap["group"]): gap for gap in told["gaps"]}
    north = verdicts["site", "north"]
    assert north["verdict"] == "gap" and 0 < north["low"] < north["value"] < north["high"]
    assert verdicts["site", "rare"]["verdict"] == "suppressed"
    one = verdicts["sex", "M"]
    assert (one["verdict"], one["reason"]) == ("not evaluated", "one level only")
    rare = row_of(told, "site", "rare")
    assert rare["reason"] == "fewer than 11 patients"
    assert rare["counts"] is None and rare["average_precision"] is None and rare["sensitivity"] is None


def test_a_group_without_lesions_or_with_few_says_so():
    cases, found = cohort(patients=120)
    south = cases.loc[cases["site"] == "south", "sample_id"]
    none = found[~((found["truth"] == 1) & found["sample_id"].isin(south))]
    healthy = cases.assign(label=cases["label"].where(cases["site"] != "south", 0.0))
    row = row_of(section(Detection(healthy, none), by=["site"]), "site", "south")
    assert (row["average_precision"], row["sensitivity"], row["method"]) == (None, None, "no lesion")
    some = set(found.loc[(found["truth"] == 1) & found["sample_id"].isin(south), "sample_id"].unique()[:4])
    few = found[~((found["truth"] == 1) & found["sample_id"].isin(south) & ~found["sample_id"].isin(some))]
    label = cases["label"].where((cases["site"] != "south") | cases["sample_id"].isin(some), 0.0)
    row = row_of(section(Detection(cases.assign(label=label), few), by=["site"]), "site", "south")
    assert row["method"] == "no interval: fewer than 10 patients with a lesion"
    assert row["average_precision"]["value"] > 0 and row["average_precision"]["low"] is None


def test_a_sensitivity_of_one_is_not_certain():
    cases, found = cohort()
    perfect = found[found["truth"] == 1].assign(score=0.9)
    whole = section(Detection(cases, perfect))["rows"][0]
    carriers = cases.loc[cases["label"] == 1, "patient_id"].nunique()
    for point in whole["sensitivity"]:
        assert (point["value"], point["high"]) == (1, 1)
        assert point["low"] == pytest.approx(1 / (1 + 1.959964**2 / carriers), rel=1e-5)  # Wilson at n of n
    assert whole["average_precision"] == {"value": 1.0, "low": None, "high": None}


def test_what_is_not_judged_does_not_count():
    """Another split, and cases without a label, whatever was found in them."""
    cases, found = cohort()
    odd = cases.sample(20, random_state=0).index
    changed = cases.assign(label=cases["label"].where(~cases.index.isin(odd)))
    unknown = found["sample_id"].isin(cases.loc[odd, "sample_id"])
    found = found.assign(truth=found["truth"].where(~unknown))  # nobody outlined them
    val = cases.assign(split="val", sample_id=cases["sample_id"] + "v", patient_id=cases["patient_id"] + "v", score=0.5)
    more = pd.concat([found, found.assign(sample_id=found["sample_id"] + "v", score=found["score"] / 2)])
    kept = cases.drop(index=odd)
    alone = Detection(kept, found[~unknown])
    val["label"] = changed["label"]
    assert section(Detection(pd.concat([changed, val]), more))["rows"] == section(alone)["rows"]


def test_the_order_of_rows_changes_nothing_and_the_report_names_both_tables():
    cases, found = cohort()
    report = evaluate({"cs": Detection(cases, found)})
    shuffled = Detection(cases.sample(frac=1, random_state=1), found.sample(frac=1, random_state=1))
    assert evaluate({"cs": shuffled}) == report
    assert set(report["provenance"]["tables"]) == {"cs", "cs: lesions"}
    other = evaluate({"cs": Detection(cases, found.assign(score=found["score"] / 2))})
    assert other["provenance"]["tables"]["cs: lesions"] != report["provenance"]["tables"]["cs: lesions"]


def test_the_page_has_the_curve_and_the_table_and_names_nobody(tmp_path):
    detection = cohort(patients=300, easier=1.0)
    wild = Detection(
        detection.cases.assign(site=detection.cases["site"].replace("north", "_<b>n$o$rth")), detection.lesions
    )
    report = evaluate({"cs": wild}, by=["site", "sex"])
    content = report["analyses"][0]["sections"]["lesions"]
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(json.loads(json.dumps(content, allow_nan=False)), SCHEMA)
    page = write_report(report, tmp_path).read_text()
    assert "How well lesions are found" in page and 'id="lesions1-froc' not in page and 'id="lesions0-froc' in page
    assert "one level: not evaluated" in page and "secret" not in page
    assert "&lt;b&gt;n$o$rth" in page and "<b>n$o" not in page
    silent = Detection(detection.cases.assign(label=0.0), detection.lesions[detection.lesions["truth"] == 0])
    assert "no lesion" in write_report(evaluate({"cs": silent}), tmp_path / "none").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, f: (c, f.drop(columns="truth")), "has no column 'truth'; it has: sample_id, score"),
        (lambda c, f: (c, f.assign(score=-0.25)), r"\d+ rows with a negative confidence \(rows 2, 3, 4, 5, 6\)"),
        (lambda c, f: (c, f.assign(score=1.5)), "rows with a confidence that is blank or above 1"),
        (lambda c, f: (c, f.assign(score="")), "rows with a confidence that is blank or above 1"),
        (lambda c, f: (c, f.assign(score="likely")), "has score 'likely', which is not a number"),
        (lambda c, f: (c, f.assign(truth=2)), "with a truth other than 0, 1 or blank"),
        (lambda c, f: (c, f.assign(truth=0, score=0)), "of false alarms with confidence 0"),
        (lambda c, f: (c, f.assign(truth="")), "without truth in cases that have a label"),
        (lambda c, f: (c, f.assign(sample_id="stranger")), "of cases that the predictions do not have"),
        (lambda c, f: (c, f[f["truth"] == 0]), r": 78 of 78 cases with label 1 have no lesion, 0 of 62 with label 0"),
        (lambda c, f: (c.assign(label=1 - c["label"]), f), r": 62 of 62 cases .* 78 of 78 with label 0 have one"),
        (lambda c, f: (c.assign(model="new"), f.assign(model="old")), "of model 'old' beside predictions of 'new'"),
        (lambda c, f: (pd.concat([c.assign(task="a"), c.assign(task="b")]), f), "predictions of several tasks"),
        (lambda c, f: (c.assign(dice_gland=0.5), f), "beside outlines"),
    ],
)
def test_what_would_make_a_number_wrong_is_refused(change, message):
    cases, found = change(*cohort())
    with pytest.raises(UserError, match=message):
        check_lesions(found, check_predictions(cases), "t")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_command_takes_the_table_beside_or_another_one(tmp_path, ending):
    cases, found = cohort()
    path, out = tmp_path / f"p.{ending}", tmp_path / "report.json"

    def write(table, where):
        table.to_csv(where, index=False) if ending == "csv" else table.to_parquet(where, index=False)

    def told(*more):
        with pytest.raises(SystemExit, match="0"):
            main(["evaluate", str(path), *more, "-o", str(out)])
        return json.loads(out.read_text())["analyses"][0]["sections"].get("lesions")

    write(cases, path)
    assert told() is None
    write(found, tmp_path / f"other.{ending}")
    named = told("--lesions", str(tmp_path / f"other.{ending}"))
    assert named == json.loads(json.dumps(section(Detection(cases, found))))
    write(found, lesions_beside(path))
    assert told() == named
    if ending == "csv":
        found.to_csv(lesions_beside(path), index=False, sep=";", decimal=",")
        assert told() == named
    with pytest.raises(SystemExit, match=r"[12]"):
        main(["evaluate", str(path), str(path), "--lesions", str(path), "-o", str(out)])


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_lesions(tmp_path / "p.csv")
    (tmp_path / "p.parquet").write_text("text")
    with pytest.raises(UserError, match=r"cannot be read as \.parquet"):
        read_lesions(tmp_path / "p.parquet")


def test_rows_match_their_schema():
    schema = json.loads((MANIFESTS / "lesions.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for row in json.loads(cohort().lesions.to_json(orient="records"))[:40]:
        jsonschema.validate(row, schema, cls=jsonschema.Draft202012Validator)
    good = {"sample_id": "a", "truth": 0, "score": 0.5}
    for wrong in ({"truth": 2}, {"score": -0.1}, {"score": 0}, {"sample_id": ""}, {"overlap": 2}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**good, **wrong}, schema, cls=jsonschema.Draft202012Validator)
