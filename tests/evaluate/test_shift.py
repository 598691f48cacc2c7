"""The section of sites: values against the parts it is made of, planted confounding found, and nothing of small sites."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from scipy.stats import ks_2samp
from statsmodels.stats.meta_analysis import combine_effects

from medssl.evaluate import auroc, evaluate
from medssl.evaluate.confounding import Difference, cramers_v, pooled
from medssl.report import write_report

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "data_manifests" / "report_sections" / "shift.schema.json").read_text()
)


def sited(patients=800, seed=0, sites=4, spread=0.0, rare=6):
    """Patients with two images, of sites that see the finding better or worse by `spread`; three sites are rare."""
    rng = np.random.default_rng(seed)
    home = rng.integers(0, sites, patients)
    skill = 1.2 + spread * np.linspace(-1, 1, sites)
    person = np.repeat(np.arange(patients), 2)
    label = (rng.random(patients) < 0.4).astype(float)[person]
    score = expit(-0.6 + skill[home[person]] * label + rng.normal(size=len(person)))
    names = np.array(["north", "south", "east", "west", "middle"])[home]
    names[:rare], names[rare : 2 * rare], names[2 * rare : 3 * rare] = "rare", "rarer", "rarest"
    return pd.DataFrame({
        "sample_id": [f"secret-{k}" for k in range(len(person))], "patient_id": [f"secret-p{k}" for k in person],
        "split": "test", "label": label, "score": score, "site": names[person],
        "sex": np.array(["F", "M"])[rng.integers(0, 2, patients)][person],
    })  # fmt: skip


def section(table, **how):
    (analysis,) = evaluate({"it": table}, **how)["analyses"]
    return analysis["sections"].get("shift")


def test_sites_are_summed_up_as_statsmodels_sums_up_their_log_odds():
    table = sited(spread=0.8)
    (analysis,) = evaluate({"it": table}, by=["site", "sex"])["analyses"]
    (one,) = analysis["sections"]["shift"]["attributes"]
    estimates = {e["group"]: e for e in analysis["estimates"] if e["metric"] == "auroc" and e["attribute"] == "site"}
    shown = [row for row in one["sites"] if row["value"] is not None]
    assert [row["site"] for row in shown] == ["east", "north", "south", "west"]
    for row in shown:
        wanted = estimates[row["site"]]
        assert [row[k] for k in ("value", "low", "high")] == [wanted[k] for k in ("value", "low", "high")]
    values = logit([row["value"] for row in shown])
    # The error on the log odds is the half width there over Student's quantile, which is near the normal one here.
    errors = np.array([(logit(row["high"]) - logit(row["low"])) / 2 / 1.975 for row in shown])
    theirs = combine_effects(values, errors**2, method_re="iterated", use_t=True)
    told = one["summary"]
    assert told["mean"]["value"] == pytest.approx(expit(theirs.mean_effect_re), abs=0.002)
    assert told["spread"]["value"] == pytest.approx(np.sqrt(theirs.tau2), rel=0.02)
    assert told["share"]["value"] == pytest.approx(theirs.i2, abs=0.03)
    assert told["new"]["low"] < told["mean"]["low"] < told["mean"]["high"] < told["new"]["high"]
    assert told["p"] < 0.001 and told["scale"] == "log odds"


def test_a_small_site_is_named_and_nothing_more():
    (one,) = section(sited(), by=["site"])["attributes"]
    (rare,) = [row for row in one["sites"] if row["site"] == "rare"]
    assert rare == {"site": "rare", "reason": "fewer than 11 patients", "n_patients": None, "value": None, "low": None,
                    "high": None, "distance": None, "distance_without": None}  # fmt: skip
    # It is still elsewhere, of which the others' scores are told apart.
    table = sited()
    for name, part in {"distance": table, "distance_without": table[table["label"] == 0]}.items():
        for row in one["sites"][:-3]:
            here = part["site"] == row["site"]
            wanted = ks_2samp(part["score"][here], part["score"][~here], method="asymp").statistic
            assert row[name]["value"] == pytest.approx(wanted, abs=0.0015)
            assert row[name]["value"] <= wanted + 1e-12
    # Of five places two are left, which have no spread.
    (two,) = section(sited(sites=2), by=["site"])["attributes"]
    assert two["summary"] is None and two["reason"] == "fewer than 3 sites have an error to be weighed by"


def test_only_where_and_when_an_image_was_made_is_a_site():
    table = sited().assign(scanner="one", year=np.tile(["2019", "2020"], 800))
    told = section(table, by=["site", "sex", "scanner", "year"])
    assert [one["attribute"] for one in told["attributes"]] == ["site", "year"]
    assert section(table, by=["sex"]) is None and section(table, by=["scanner"]) is None
    assert all({t["grouping"] for t in one["tables"]} == {"sex"} for one in told["attributes"])


def test_a_site_without_an_error_has_a_reason_and_no_weight():
    table = sited(sites=5)
    table.loc[(table["site"] == "east"), "score"] = table["label"] * 0.5 + 0.2
    table = table[(table["site"] != "west") | (table["label"] == 1)]
    (one,) = section(table, by=["site"])["attributes"]
    reasons = {row["site"]: row["reason"] for row in one["sites"]}
    assert reasons["east"] == "at 1: no error to weigh it by" and reasons["west"] == "one class only"
    assert one["summary"]["sites"] == 3


def simpson(seed=0, patients=1200):
    """Women are seen where scores of everybody are lower: ranked together they do worse, at each site they do better."""
    rng = np.random.default_rng(seed)
    south = rng.random(patients) < 0.5
    woman = rng.random(patients) < np.where(south, 0.85, 0.15)
    label = (rng.random(patients) < 0.5).astype(float)
    skill = np.where(south, 0.3, 2.2) + 0.5 * woman
    score = expit(skill * (label - 0.5) + rng.normal(size=patients))
    return pd.DataFrame({
        "sample_id": np.arange(patients).astype(str), "patient_id": np.arange(patients).astype(str), "split": "test",
        "label": label, "score": score, "site": np.where(south, "south", "north"), "sex": np.where(woman, "F", "M"),
    })  # fmt: skip


def test_a_gap_that_turns_within_sites_is_found():
    table = simpson()
    (one,) = section(table, by=["site", "sex"])["attributes"]
    (line,) = one["tables"][0]["lines"]
    assert line["group"] == "F" and line["sites"] == 2 and line["turned"]
    assert line["over_all"]["high"] < 0 < line["within"]["low"]
    assert line["moved"]["high"] < 0
    assert any("another sign within each site" in text for text in one["tables"][0]["warnings"])

    def gap(rows):
        parts = [rows[rows["sex"] == sex] for sex in "FM"]
        first, second = (auroc(truth=p["label"].to_numpy(), score=p["score"].to_numpy()) for p in parts)
        return first - second

    each = dict(list(table.groupby("site")))
    assert line["over_all"]["value"] == pytest.approx(gap(table))
    assert {cell["site"]: cell["value"] for cell in line["cells"]} == pytest.approx(
        {k: gap(v) for k, v in each.items()}
    )
    women = {site: (part["sex"] == "F").sum() for site, part in each.items()}
    weight = {site: women[site] * (len(part) - women[site]) / len(part) for site, part in each.items()}
    wanted = sum(weight[site] * gap(part) for site, part in each.items()) / sum(weight.values())
    assert line["within"]["value"] == pytest.approx(wanted)
    assert line["moved"]["value"] == pytest.approx(gap(table) - wanted)


def test_without_confounding_nothing_turns_and_nobody_is_warned():
    (one,) = section(sited(), by=["site", "sex"])["attributes"]
    (table,) = one["tables"]
    assert table["warnings"] == [] and table["empty"] == 0 and table["cramers_v"] < 0.15
    (line,) = table["lines"]
    assert line["moved"]["low"] < 0 < line["moved"]["high"]


def test_intervals_within_sites_are_those_of_patients_drawn_within():
    table = simpson(patients=600)
    (one,) = section(table, by=["site", "sex"])["attributes"]
    (line,) = one["tables"][0]["lines"]
    rng, drawn = np.random.default_rng(0), []
    cells = dict(list(table.groupby(["site", "sex"])))
    size = {site: [len(cells[site, sex]) for sex in "FM"] for site in ("north", "south")}
    weight = {site: a * b / (a + b) for site, (a, b) in size.items()}
    for _ in range(400):
        value = {}
        for key, part in cells.items():
            few = part.iloc[rng.integers(0, len(part), len(part))]
            value[key] = auroc(truth=few["label"].to_numpy(), score=few["score"].to_numpy())
        drawn.append(sum(w * (value[s, "F"] - value[s, "M"]) for s, w in weight.items()) / sum(weight.values()))
    width = line["within"]["high"] - line["within"]["low"]
    assert width / 3.95 == pytest.approx(np.std(drawn), rel=0.12)


def test_a_group_that_is_a_site_is_warned_of():
    """All of one group from one scanner, who is nobody else's (W201)."""
    table = sited(sites=3)
    race = np.where(table["site"] == "north", "b", np.where(table["site"] == "east", "a", "c"))
    (one,) = section(table.assign(race=race), by=["site", "race"])["attributes"]
    (told,) = one["tables"]
    assert told["cramers_v"] == pytest.approx(1, abs=0.1) and told["empty"] == 6
    text = " ".join(told["warnings"])
    assert (
        "site and race are nearly one thing (Cramér's V" in text
        and "6 combinations of site and race have nobody" in text
    )
    assert "No site has enough patients of race a, b, c and of others" in text
    assert all(line["within"]["value"] is None and line["within"]["reason"] for line in told["lines"])


def test_an_exact_number_of_all_sites_does_not_give_away_hidden_ones():
    table = sited()
    (one,) = section(table, by=["site", "sex"])["attributes"]
    people = table[~table["site"].str.startswith("rare")].drop_duplicates("patient_id")
    wanted = cramers_v(pd.crosstab(people["site"], people["sex"]).to_numpy())
    assert one["tables"][0]["cramers_v"] == pytest.approx(wanted, abs=1e-12)


def test_scores_that_moved_at_one_site_are_found():
    table = sited(sites=3, patients=600)
    table.loc[table["site"] == "north", "score"] *= 0.6
    (one,) = section(table, by=["site"])["attributes"]
    north = next(row for row in one["sites"] if row["site"] == "north")
    for apart in (north["distance"], north["distance_without"]):
        assert apart["p"] < 0.01 and apart["value"] > 2 * apart["by_chance"]


def test_outlines_have_sites_too(tmp_path):
    rng = np.random.default_rng(0)
    n = np.arange(160)
    table = pd.DataFrame({
        "sample_id": n.astype(str), "patient_id": n.astype(str), "split": "test", "label": np.nan, "score": np.nan,
        "dice_gland": np.clip(0.8 + 0.08 * (n % 4 == 0) + 0.05 * rng.normal(size=160), 0, 1),
        "site": np.array(list("abcd"))[n % 4], "sex": np.array(["F", "M"])[n // 4 % 2],
    })  # fmt: skip
    report = evaluate({"it": table}, by=["site", "sex"])
    told = report["analyses"][0]["sections"]["shift"]
    (one,) = told["attributes"]
    values = {row["site"]: row["value"] for row in one["sites"]}
    assert values == pytest.approx(table.groupby("site")["dice_gland"].mean().to_dict())
    assert (told["metric"], one["summary"]["scale"]) == ("dice_gland", "share")
    assert one["summary"]["new"]["high"] <= 1 and one["sites"][0]["distance"] is None
    # They have no scores.
    assert "Distance of scores" not in write_report(report, tmp_path).read_text()


def test_the_mean_of_differences_weighs_by_patients_and_adds_up_influence():
    one = Difference(0.2, np.array([0.1, -0.1, 0, 0]), 10)
    two = Difference(-0.1, np.array([0, 0, 0.3, -0.3]), 5)
    both = pooled([(3.0, one), (1.0, two)])
    assert both.value == pytest.approx(0.75 * 0.2 - 0.25 * 0.1)
    assert both.error == pytest.approx(np.hypot(0.75 * one.error, 0.25 * two.error))
    a, b = (0.75 * one.error) ** 2, (0.25 * two.error) ** 2
    assert both.freedom == pytest.approx((a + b) ** 2 / (a**2 / 10 + b**2 / 5))
    assert pooled([(7.0, one)]).interval() == pytest.approx(one.interval())


def test_the_page_tells_it_and_names_nobody(tmp_path):
    table = sited(sites=3)
    race = np.where(table["site"] == "north", "<b>b", "a")
    report = evaluate({"it": table.assign(race=race)}, by=["site", "race"])
    content = report["analyses"][0]["sections"]["shift"]
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(json.loads(json.dumps(content, allow_nan=False)), SCHEMA)
    page = write_report(report, tmp_path).read_text()
    assert "Distance of scores" in page
    assert "Beware:" in page and "prediction interval" in page and "<b>b" not in page and "secret" not in page
    assert evaluate({"it": table.assign(race=race).sample(frac=1, random_state=3)}, by=["site", "race"]) == report
