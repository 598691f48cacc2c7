"""What a comparison tells, of whom it tells nothing, and what it refuses."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest

from medssl.errors import UserError
from medssl.evaluate import compare
from medssl.evaluate.terms import Terms

SCHEMA = json.loads((Path(__file__).parents[3] / "data_manifests" / "comparison.schema.json").read_text())


def scored(patients=300, seed=0, strength=1.5, **shifts):
    """Two eyes a patient of a race, a sex (some not recorded); `shifts` add to the signal of a race."""
    rng = np.random.default_rng(seed)
    n = np.repeat(np.arange(patients), 2)
    race = np.array(list("abc"))[n % 3]
    label = (n // 3 % 2).astype(float)
    signal = (strength + sum(by * (race == name) for name, by in shifts.items())) * label
    return pd.DataFrame({
        "sample_id": [f"s{k:04d}" for k in range(len(n))], "patient_id": [f"secret-{k}" for k in n],
        "split": np.where(n % 7 == 0, "val", "test"), "label": label, "race": race,
        "sex": np.array(["F", "M", "unknown"])[n // 5 % 3],
        "score": 1 / (1 + np.exp(0.7 - signal - rng.normal(size=len(n)))),
    })  # fmt: skip


def only(rows, **wanted):
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def valid(told):
    jsonschema.validate(json.loads(json.dumps(told, allow_nan=False)), SCHEMA, cls=jsonschema.Draft202012Validator)
    assert "secret" not in json.dumps(told)
    return told


@pytest.mark.parametrize("metric", ["auroc", "average_precision", "brier", "sensitivity", "specificity"])
def test_what_is_told_is_as_the_schema_says(metric):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    first, second = scored(), scored(seed=1)
    told = valid(compare(first, second, metric=metric, by=["race", "sex", "race*sex"]))
    assert {row["attribute"] for row in told["gap_changes"]} == {"race", "sex", "race*sex"}
    mixed = (table.sample(frac=1, random_state=0) for table in (first, second))
    assert compare(*mixed, metric=metric, by=["race", "sex", "race*sex"]) == told


def test_unknown_is_a_group_but_no_side_of_a_gap():
    told = compare(scored(), scored(seed=1), by=["sex"])
    assert [row["group"] for row in told["results"]] == ["all", "F", "M", "unknown"]
    changes = told["gap_changes"]
    assert [row["group"] for row in changes] == ["F", "M"]
    # Of two groups one gap is the other the other way round, and no correction for two is needed.
    assert changes[0]["value"] == pytest.approx(-changes[1]["value"])
    assert (changes[0]["adjusted_low"], changes[0]["adjusted_high"]) == pytest.approx(
        (-changes[1]["adjusted_high"], -changes[1]["adjusted_low"])
    )
    assert changes[0]["adjusted_low"] == pytest.approx(changes[0]["low"], rel=0.03)
    inside, rest = (only(told["results"], group=name) for name in "FM")
    assert changes[0]["value"] == pytest.approx(inside["value"] - rest["value"])
    assert changes[0]["first_gap"] == pytest.approx(inside["first"] - rest["first"])


def test_intervals_among_all_groups_are_wider():
    for row in compare(scored(), scored(seed=1), by=["race"])["results"][1:]:
        assert row["adjusted_low"] < row["low"] < row["value"] < row["high"] < row["adjusted_high"]


def test_verdicts_go_by_the_margin_and_by_what_is_better():
    same = scored(4000)
    near = same.assign(score=np.clip(same["score"] + np.random.default_rng(0).normal(0, 0.01, len(same)), 0, 1))
    assert {row["verdict"] for row in compare(same, near, by=["race"])["results"]} == {"not worse"}
    assert {row["verdict"] for row in compare(same, near, by=["race"])["gap_changes"]} == {"unchanged"}
    strict = compare(same, near, by=["race"], margin=1e-5)
    assert {row["verdict"] for row in strict["results"]} == {"worse"}  # by hardly anything, but more than was declared
    assert strict["margin"] == 1e-5
    few = compare(scored(60), scored(60, seed=3), margin=1e-5)
    assert few["results"][0]["verdict"] == "inconclusive"
    assert "cannot conclude" in few["sentences"][0]
    weak, strong = scored(2000, strength=0.5), scored(2000, strength=2.5, seed=1)
    for metric in ("auroc", "brier", "average_precision"):
        for pair, verdict in ((weak, strong), "better"), ((strong, weak), "worse"):
            found = compare(*pair, metric=metric, by=["race"])
            assert {row["verdict"] for row in found["results"]} == {verdict}, metric
    assert compare(weak, strong, metric="brier")["results"][0]["value"] < 0
    assert "less is better" in compare(weak, strong, metric="brier")["note"]


def test_levelling_down_is_told():
    first, second = scored(2000, a=1.0), scored(2000, seed=1)
    told = valid(compare(first, second, by=["race"]))
    (row,) = told["levelling_down"]
    assert (row["state"], row["best"]) == ("shown", "a")
    assert row["second_spread"] < row["first_spread"]
    assert row["best_change"] == only(told["results"], group="a")["value"] < 0
    assert any("levelling down shown" in sentence for sentence in told["sentences"])
    lifted = compare(scored(2000, a=1.0), scored(2000, a=1.0, b=1.0, c=1.0), by=["race"])
    assert lifted["levelling_down"][0]["state"] == "no"
    assert not any("levelling" in sentence for sentence in lifted["sentences"])
    wider = compare(scored(2000, a=1.0), scored(2000, a=0.5, b=-1.0, c=-1.0), by=["race"])["levelling_down"][0]
    assert (wider["state"], wider["best_change"] < 0) == ("no", True)  # all fell, the best one least
    few = compare(scored(100, a=1.0), scored(100, a=0.7), by=["race"])
    assert few["levelling_down"][0]["state"] == "seen"
    # Of Brier less is better: the best group is the one with the least of it.
    brier = compare(first, second, by=["race"], metric="brier")["levelling_down"][0]
    assert (brier["best"], brier["state"]) == ("a", "shown")
    assert brier["best_change"] > 0
    one = compare(first.assign(race="a"), second, by=["race"])
    assert (one["levelling_down"][0]["state"], one["gap_changes"][0]["verdict"]) == ("not evaluated", "not evaluated")


def test_several_runs_are_ways_of_training():
    firsts, seconds = ([scored(seed=seed + k) for k in range(3)] for seed in (10, 20))
    one, two, three = (valid(compare(firsts[:n], seconds[:n], by=["race"])) for n in (1, 2, 3))
    assert one["note"].startswith("This compares two runs, not two ways of training")
    assert one == compare(firsts[0], seconds[0], by=["race"])
    assert two["note"].startswith("This compares 2 runs of each, too few")
    assert three["note"].startswith("This compares two ways of training by 3 runs of each")
    assert three["runs"] == 3
    each = [compare(a, b)["results"][0] for a, b in zip(firsts, seconds, strict=True)]
    row = three["results"][0]
    for key in ("first", "second", "value"):
        assert row[key] == pytest.approx(np.mean([one[key] for one in each]))
    assert "over 3 runs" in row["method"]
    with pytest.raises(UserError, match="3 tables of the first model and 2 of the second; give as many of each"):
        compare(firsts, seconds[:2])
    with pytest.raises(UserError, match="no first table given"):
        compare([], seconds)


def test_the_same_run_three_times_is_known_no_better_than_once():
    a, b = scored(), scored(seed=1)
    once, thrice = compare(a, b)["results"][0], compare([a] * 3, [b] * 3)["results"][0]
    assert (thrice["low"], thrice["high"]) == pytest.approx((once["low"], once["high"]))


def test_who_only_one_model_answered_is_counted_by_group():
    first, second = scored(), scored(seed=1)
    lost = second["race"].eq("a") & (second["split"] == "test") & second["patient_id"].str[-1].isin(list("123456"))
    second.loc[lost & (second.index % 2 == 0), "score"] = np.nan
    fewer = second[~lost]
    with pytest.raises(
        UserError, match=r"--intersect\)\. Not in all tables: only in the first: \d+ patients; race a only"
    ):
        compare(first, fewer, by=["race"])
    with pytest.raises(UserError, match=r"scored in one table only; .*--intersect"):
        compare(first, second)
    told = valid(compare(first, fewer, by=["race"], intersect=True))
    wanted = first[lost]
    row = only(told["dropped"], only="first", attribute="race", group="a")
    assert (row["n_patients"], row["n_rows"]) == (wanted["patient_id"].nunique(), len(wanted))
    assert only(told["dropped"], only="first", attribute="")["n_rows"] == len(wanted)
    assert all(row["n_rows"] == 0 for row in told["dropped"] if row["only"] == "second")
    kept = first["split"].eq("test") & ~lost
    expected = compare(first[kept | (first["split"] == "val")], fewer, by=["race"])
    assert told["results"] == expected["results"]
    halves = compare(first, second, by=["race"], intersect=True)
    assert (
        only(halves["dropped"], only="first", attribute="race", group="a")["n_rows"]
        == (lost & (second.index % 2 == 0)).sum()
    )
    few = first["patient_id"].isin([f"secret-{n}" for n in (1, 2, 4)])
    small = valid(compare(first, second[~few & ~lost], by=["race"], intersect=True))
    assert only(small["dropped"], only="first", attribute="race", group="b")["n_rows"] is None
    with pytest.raises(UserError, match="0 of them in both"):
        compare(first, second.assign(sample_id="x" + second["sample_id"]), intersect=True)


def test_a_small_group_tells_nothing_and_cannot_be_reckoned():
    first, second = scored(), scored(seed=1)
    for table in (first, second):
        table.loc[table.index[table["split"] == "test"][:12], "race"] = "tiny"
    told = valid(compare(first, second, by=["race"]))
    tiny = only(told["results"], group="tiny")
    assert tiny["verdict"] == "suppressed"
    assert {tiny[key] for key in ("n_patients", "first", "value", "low")} == {None}
    counts = [row["n_patients"] for row in told["results"] if row["attribute"]]
    assert counts.count(None) == 2  # the total less one would be the other
    gap = only(told["gap_changes"], group="tiny")
    assert (gap["verdict"], gap["value"]) == ("suppressed", None)
    assert "tiny: not compared, fewer than 11 patients" in " ".join(told["sentences"])


def test_groups_of_one_class_and_few_positives_have_a_reason():
    first, second = scored(), scored(seed=1)
    for table in (first, second):
        table.loc[table["race"] == "a", "label"] = 0.0
    told = valid(compare(first, second, by=["race"]))
    assert only(told["results"], group="a")["reason"] == "no positive"
    assert only(told["gap_changes"], group="a")["reason"] == "the group: no positive"
    specificity = compare(first, second, by=["race"], metric="specificity")
    assert only(specificity["results"], group="a")["low"] is not None
    whole = valid(compare(first.assign(label=0.0), second.assign(label=0.0)))
    assert (whole["results"][0]["verdict"], whole["results"][0]["reason"]) == ("undefined", "one class only")
    few = first["label"].eq(1) & ~first["patient_id"].isin(
        first.loc[first["label"].eq(1) & (first["split"] == "test"), "patient_id"].unique()[:8]
    )
    precision = compare(first[~few], second[~few], metric="average_precision")["results"][0]
    assert (precision["low"], precision["method"]) == (None, "none: fewer than 10 patients of a class")


def test_what_cannot_be_compared_names_the_remedy():
    rows = scored()
    with pytest.raises(UserError, match=r"first table has no threshold \(not fixed: the table has no validation rows"):
        compare(rows[rows["split"] == "test"], rows[rows["split"] == "test"], metric="sensitivity")
    with pytest.raises(UserError, match="no metric 'auc'; choose --metric auroc, average_precision"):
        compare(rows, rows, metric="auc")
    for margin in (0.0, -0.1, 1.0):
        with pytest.raises(UserError, match="is not above 0 and below 1"):
            compare(rows, rows, margin=margin)


def test_of_distances_no_margin_is_declared_unless_given():
    rng = np.random.default_rng(0)
    plain = scored(60).assign(label=np.nan, score=np.nan, split="test")
    first, second = (plain.assign(dice_gland=0.8, hd95_gland=rng.uniform(2, 4, len(plain)) + by) for by in (0, -0.5))
    told = valid(compare(first, second, metric="hd95_gland", by=["race"]))
    assert told["margin"] is None
    assert told["results"][0]["verdict"] == "better"
    near = compare(
        first, first.assign(hd95_gland=first["hd95_gland"] + rng.normal(0, 0.01, len(plain))), metric="hd95_gland"
    )
    assert near["results"][0]["verdict"] == "inconclusive"
    near = compare(
        first,
        first.assign(hd95_gland=first["hd95_gland"] + rng.normal(0, 0.01, len(plain))),
        metric="hd95_gland",
        margin=2.0,
    )
    assert near["results"][0]["verdict"] == "not worse"


def test_groups_are_those_of_a_report_however_they_are_spelled():
    """Sexes as DICOM may hold them, a column age, and labels in words, each declared or folded as by evaluate."""
    spelled = {"F": "f", "M": "Male", "unknown": ""}
    tables = [
        scored(seed=seed).assign(
            sex=lambda t: t["sex"].map(spelled),
            age=lambda t: np.where(t["race"] == "a", "30", "70"),
            label=lambda t: np.where(t["label"] == 1, "yes", "no"),
        )
        for seed in (0, 1)
    ]
    terms = Terms(label_map={"yes": "1", "no": "0"}, age_bands=(50,))
    told = valid(compare(*tables, by=["sex", "age_band"], terms=terms))
    plain = compare(scored(), scored(seed=1), by=["sex"])
    assert [row for row in told["results"] if row["attribute"] != "age_band"] == plain["results"]
    assert [row["group"] for row in told["results"] if row["attribute"] == "age_band"] == ["0-49", "50+"]
    assert any(note.startswith("first: ") for note in told["notes"])
    with pytest.raises(UserError, match="label 'no'"):
        compare(*tables)
