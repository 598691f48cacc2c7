"""Dice for the size of a structure: statsmodels' clustered regression, a planted size effect, and errors of volume."""

import json
import math
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from medssl.errors import UserError
from medssl.evaluate import check_predictions, evaluate
from medssl.evaluate.adjusting import fit
from medssl.evaluate.outlines import measured
from medssl.evaluate.predictions import attributes_of
from medssl.evaluate.sections import Judged
from medssl.evaluate.sections.volume import volume
from medssl.evaluate.threshold import Threshold
from medssl.report import write_report

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "data_manifests" / "report_sections" / "volume.schema.json").read_text()
)


def outlined(patients=150, seed=0, worse=0.0, smaller=1.0, rare=5):
    """Two volumes a patient. Women's organs are smaller by 2**smaller; Dice follows the size, and is worse in women by
    `worse`.
    """
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(patients), 2)
    woman = (np.arange(patients) % 2 == 0)[person]
    size = 5 + rng.normal(scale=0.7, size=patients)[person] + 0.1 * rng.normal(size=len(person)) - smaller * woman
    dice = 0.55 + 0.05 * size - worse * woman + 0.03 * rng.normal(size=patients)[person]
    small = np.array(["rare", "rarer", "rarest"])[person // max(rare, 1) % 3]
    return pd.DataFrame({
        "sample_id": [f"secret-{k}" for k in range(len(person))], "patient_id": [f"secret-p{k}" for k in person],
        "split": "test", "label": np.nan, "score": np.nan, "dice_gland": np.clip(dice, 0, 1), "volume_ml_gland": 2**size,
        "volume_error_ml_gland": rng.normal(2.0, 1.0, len(person)) + woman, "sex": np.where(woman, "F", "M"),
        "race": np.where(person < 3 * rare, small, np.array(list("ab"))[person // 3 % 2]),
    })  # fmt: skip


def section(table, **how):
    (analysis,) = evaluate({"it": table}, **how)["analyses"]
    return analysis["sections"].get("volume")


def lines(told, attribute):
    return {row["group"]: row for row in told["structures"][0]["rows"] if row["attribute"] == attribute}


def test_the_model_is_that_of_statsmodels_with_its_clustered_covariance():
    rng = np.random.default_rng(0)
    patient = rng.integers(0, 40, 120)
    design = np.column_stack([np.ones(120), rng.normal(size=(120, 2))])
    values = design @ [1.0, 0.5, -0.2] + rng.normal(size=40)[patient] + rng.normal(size=120)
    ours = fit(design, values, patient)
    theirs = sm.OLS(values, design).fit(cov_type="cluster", cov_kwds={"groups": patient})
    assert ours.coefficients == pytest.approx(theirs.params)
    assert ours.covariance == pytest.approx(theirs.cov_params())
    contrast = np.array([1.0, 0.5, -2.0])
    assert ours.of(contrast) == pytest.approx((contrast @ theirs.params, theirs.t_test(contrast).sd.item()))


def test_what_cannot_be_told_apart_has_no_model():
    ones = np.ones(6)
    assert fit(np.column_stack([ones, 2 * ones]), np.arange(6.0), np.arange(6)) is None
    assert fit(ones[:, None], np.arange(6.0), np.zeros(6)) is None
    assert fit(np.eye(3), np.arange(3.0), np.arange(3)) is None


def test_adjusted_means_are_those_of_a_regression_at_the_mean_size():
    table = outlined(worse=0.05)
    told = section(table, by=["sex"])
    table["size"] = np.log2(table["volume_ml_gland"])
    centred = table["size"] - table["size"].mean()
    women = (table["sex"] == "F").astype(float)
    design = np.column_stack([women, 1 - women, centred])
    groups = pd.factorize(table["patient_id"])[0]
    theirs = sm.OLS(table["dice_gland"], design).fit(cov_type="cluster", cov_kwds={"groups": groups})
    for place, group in enumerate("FM"):
        row = lines(told, "sex")[group]
        half = stats.t.ppf(0.975, 74) * theirs.bse.iloc[place]
        middle = theirs.params.iloc[place]
        assert [row["adjusted"][k] for k in ("value", "low", "high")] == pytest.approx(
            [middle, middle - half, middle + half]
        )
        inside = table[table["sex"] == group]
        assert row["crude"]["value"] == pytest.approx(inside["dice_gland"].mean())
        each = inside.groupby("patient_id")["size"].mean()
        assert row["volume"]["value"] == pytest.approx(2 ** each.mean())
        error = inside.groupby("patient_id")["volume_error_ml_gland"].mean()
        assert row["error"]["value"] == pytest.approx(error.mean())
        size = inside["volume_error_ml_gland"].abs().groupby(inside["patient_id"]).mean()
        assert row["distance"]["value"] == pytest.approx(size.mean())
    gap = theirs.t_test([1, -1, 0])
    half = stats.t.ppf(0.975, 74) * gap.sd.item()
    told_gap = lines(told, "sex")["F"]["difference"]
    assert [told_gap[k] for k in ("value", "low", "high")] == pytest.approx(
        [gap.effect.item(), gap.effect.item() - half, gap.effect.item() + half]
    )
    slope = told["structures"][0]["slope"]
    whole = sm.OLS(table["dice_gland"], np.column_stack([np.ones(300), centred])).fit(
        cov_type="cluster", cov_kwds={"groups": groups}, use_t=True
    )
    assert [slope["value"], slope["low"], slope["high"]] == pytest.approx(
        [whole.params.iloc[1], *np.asarray(whole.conf_int())[1]]
    )


def test_smaller_organs_are_no_worse_outlines_and_worse_ones_stay():
    for worse in (0.0, 0.05):
        rows = lines(section(outlined(worse=worse, seed=3), by=["sex"]), "sex")
        assert rows["F"]["crude"]["high"] < rows["M"]["crude"]["low"]
        assert rows["F"]["difference"]["low"] < -worse < rows["F"]["difference"]["high"]
        assert (rows["F"]["difference"]["high"] < 0) == (worse > 0)


def test_differences_of_three_groups_hold_together():
    """120 cohorts without an effect: one interval in three leaves out zero as rarely as one alone."""
    wrong = 0
    for seed in range(120):
        table = outlined(45, seed, smaller=0.0, rare=0)
        table["race"] = np.array(list("abc"))[np.repeat(np.arange(45), 2) % 3]
        judged = Judged(table, table[:0], table[:0], True, Threshold(None, ""), ["race"], 11, 0.05)
        rows = lines(volume(judged), "race").values()
        wrong += any(row["difference"]["low"] > 0 or row["difference"]["high"] < 0 for row in rows)
    assert wrong <= 13  # 6 expected, more than 13 twice in a thousand


def test_a_small_group_tells_nothing_and_one_level_no_difference():
    table = outlined().assign(site="one")
    told = section(table, by=["race", "site"])
    rare = lines(told, "race")["rare"]
    assert rare["reason"] == "fewer than 11 patients"
    assert all(rare[key] is None for key in rare if key not in ("structure", "attribute", "group", "reason"))
    one = lines(told, "site")["one"]
    assert one["crude"] and one["adjusted"] is None and one["difference"] is None
    half = table.assign(volume_ml_gland=table["volume_ml_gland"].where(table["race"] != "a"))
    assert lines(section(half, by=["race"]), "race")["a"]["reason"] == "fewer than 11 patients with this structure"


def test_missed_structures_count_and_invented_ones_have_no_size():
    table = outlined()
    table.loc[:9, "dice_gland"] = 0.0
    invented = table.index.isin(range(20, 30))
    table.loc[invented, ["dice_gland", "volume_ml_gland"]] = 0.0
    told = section(table, by=["sex"])["structures"][0]
    assert told["absent"] == 10
    kept = table[~invented]
    assert told["rows"][0]["crude"]["value"] == pytest.approx(kept["dice_gland"].mean())


def test_without_volumes_there_is_no_section_and_alike_ones_adjust_nothing():
    table = outlined()
    assert section(table.drop(columns=["volume_ml_gland", "volume_error_ml_gland"])) is None
    told = section(table.assign(volume_ml_gland=30.0), by=["sex"])["structures"][0]
    assert told["slope"] is None and told["reason"] == "too few volumes, or all alike"
    assert told["rows"][0]["crude"] and all(row["adjusted"] is None for row in told["rows"])
    without = section(table.drop(columns="volume_error_ml_gland"))["structures"][0]["rows"][0]
    assert without["error"] is None and without["distance"] is None


def test_columns_of_volumes_are_measured_read_and_checked():
    truth, found = np.zeros((2, 10, 10, 4), np.uint8)
    truth[2:6, 2:6, 1:3], found[2:7, 2:6, 1:3] = 1, 1
    found[8, 8, 3] = 2
    told = measured(truth, found, ("gland", "stone"), (3.0, 0.5, 0.5), 1.0)
    assert told["volume_ml_gland"] == pytest.approx(32 * 0.75 / 1000)
    assert told["volume_error_ml_gland"] == pytest.approx(8 * 0.75 / 1000)
    assert (told["volume_ml_stone"], told["volume_error_ml_stone"]) == (0, pytest.approx(0.75 / 1000))
    unknown = measured(None, found, ("gland",), (1, 1, 1), 1.0)
    assert math.isnan(unknown["volume_ml_gland"]) and math.isnan(unknown["volume_error_ml_gland"])
    base = {"sample_id": "v", "patient_id": "p", "split": "test", "label": None, "score": None}
    table = check_predictions(pd.DataFrame([{**base, **told, "volume_ml_of_air": "much"}]))
    assert attributes_of(table) == ["volume_ml_of_air"] and table["volume_ml_gland"].dtype == float
    with pytest.raises(UserError, match=r"volume_ml_gland -1\.0 in row 2 is no volume in ml"):
        check_predictions(pd.DataFrame([{**base, **told, "volume_ml_gland": -1}]))


def test_the_page_tells_it_and_names_nobody(tmp_path):
    report = evaluate({"it": outlined()}, by=["sex", "race"])
    content = report["analyses"][0]["sections"]["volume"]
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(json.loads(json.dumps(content, allow_nan=False)), SCHEMA)
    page = write_report(report, tmp_path).read_text()
    assert "Dice and the size of a structure" in page and "Twice the volume goes with" in page and "secret" not in page
    again = evaluate({"it": outlined().sample(frac=1, random_state=2)}, by=["sex", "race"])
    assert again["analyses"][0]["sections"]["volume"] == content
