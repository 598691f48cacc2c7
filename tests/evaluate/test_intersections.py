"""Cells of two attributes: AUROC as scikit-learn's, verdicts as those of a crossing, small cells moved as by a slow twin."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.special import logit
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from medssl.evaluate import evaluate
from medssl.evaluate.intersections import shrink_to_additive
from medssl.report import write_report


def dense(value, error, first, second):
    """The same by dense matrices, and half the width of the ends (Prasad and Rao's g1 + g2 + 2 g3)."""
    effects = [first[:, None] == np.unique(first), (second[:, None] == np.unique(second))[:, 1:]]
    design = np.column_stack(effects).astype(float)
    weight = np.diag(1 / error**2)
    residual = weight - weight @ design @ np.linalg.inv(design.T @ weight @ design) @ design.T @ weight
    free = len(value) - design.shape[1]
    variance = max((value @ residual @ value - free) / np.trace(residual), 0)
    total = variance + error**2
    fit = sm.WLS(value, design, weights=1 / total).fit()
    middle, own = fit.fittedvalues, variance / total
    about = np.diag(design @ fit.normalized_cov_params @ design.T)
    g3 = error**4 / total**3 * 2 * len(value) / np.sum(1 / total) ** 2
    spread = own * error**2 + (1 - own) ** 2 * about + 2 * g3
    return variance, middle + own * (value - middle), 1.959964 * np.sqrt(np.minimum(spread, error**2))


@pytest.mark.parametrize("apart", [0.0, 0.8])
def test_cells_move_as_the_slow_twin_says(apart):
    rng = np.random.default_rng(1)
    first, second = np.divmod(np.arange(12), 4)
    error = rng.uniform(0.1, 0.5, 12)
    value = 1 + 0.3 * first - 0.2 * second + apart * rng.normal(size=12) + error * rng.normal(size=12)
    found = shrink_to_additive(value=value, error=error, first=first, second=second)
    variance, wanted, half = dense(value, error, first, second)
    assert found.deviation**2 == pytest.approx(variance, abs=1e-9)
    assert (variance > 0) == (apart > 0)
    assert found.value == pytest.approx(wanted)
    assert (found.high - found.low) / 2 == pytest.approx(half)
    assert np.any(half < 1.9 * error)


def test_where_the_sum_fits_anything_nothing_moves():
    """Three cells of two by two, and one row of cells."""
    three = {"first": np.array([0, 0, 1]), "second": np.array([0, 1, 0])}
    assert shrink_to_additive(value=np.arange(3.0), error=np.ones(3), **three) is None
    row = {"first": np.zeros(4, int), "second": np.arange(4)}
    assert shrink_to_additive(value=np.arange(4.0), error=np.ones(4), **row) is None


@pytest.mark.parametrize(("shape", "apart"), [((2, 2), 0.5), ((3, 4), 0.0), ((4, 5), 0.6)])
def test_moved_cells_are_nearer_to_the_truth_and_their_ends_cover_it(shape, apart):
    rng = np.random.default_rng(2)
    first, second = np.divmod(np.arange(np.prod(shape)), shape[1])
    covered, moved, raw = [], [], []
    for _ in range(600):
        truth = 0.3 * rng.normal(size=shape[0])[first] + 0.3 * rng.normal(size=shape[1])[second]
        truth = truth + apart * rng.normal(size=len(first))
        error = rng.uniform(0.15, 0.8, len(first))
        value = truth + error * rng.normal(size=len(first))
        found = shrink_to_additive(value=value, error=error, first=first, second=second)
        covered.append((found.low <= truth) & (truth <= found.high))
        moved.append(np.square(found.value - truth))
        raw.append(np.square(value - truth))
    assert np.mean(covered) > 0.93
    assert np.mean(moved) < 0.95 * np.mean(raw)


def table(patients=3200, seed=0):
    """Women of race b are ranked worse, men of race b better: neither sex nor race shows it. Race c is rare."""
    rng = np.random.default_rng(seed)
    label = (rng.random(patients) < 0.4).astype(float)
    race, sex = np.array(list("ab"))[rng.integers(0, 2, patients)], np.array(list("FM"))[rng.integers(0, 2, patients)]
    apart = 1.5 - 0.8 * (race == "b") * (sex == "F") + 0.8 * (race == "b") * (sex == "M")
    apart = apart + 0.8 * (race == "a") * (sex == "F") - 0.8 * (race == "a") * (sex == "M")
    race = np.where(np.arange(patients) % 160 < 2, "c", race)
    sex = np.where(np.arange(patients) % 20 == 7, "unknown", sex)
    return pd.DataFrame({
        "sample_id": np.arange(patients).astype(str), "patient_id": np.arange(patients).astype(str),
        "split": np.where(np.arange(patients) % 4 == 0, "val", "test"), "label": label,
        "score": norm.cdf(rng.normal(size=patients) + label * apart - 0.8), "race": race, "sex": sex,
    })  # fmt: skip


def test_what_neither_attribute_shows_their_cells_do():
    rows = table()
    rows = rows[rows["race"] != "c"]
    (analysis,) = evaluate({"it": rows}, by=["race", "sex", "race*sex"])["analyses"]
    content = analysis["sections"]["intersections"]
    (pair,) = content["pairs"]
    assert (pair["first"], pair["second"], pair["hidden"], content["tested"]) == ("race", "sex", 0, 4)
    crossed = {
        row["group"]: row for row in analysis["gaps"] if (row["attribute"], row["metric"]) == ("race*sex", "auroc")
    }
    alone = [
        row["verdict"] for row in analysis["gaps"] if row["metric"] == "auroc" and row["attribute"] in ("race", "sex")
    ]
    assert "gap" not in alone
    judged = rows[rows["split"] == "test"]
    for cell in pair["cells"]:
        inside = judged[(judged["race"] == cell["first"]) & (judged["sex"] == cell["second"])]
        assert cell["value"] == pytest.approx(roc_auc_score(inside["label"], inside["score"]))
        assert (cell["n_patients"], cell["n_positive"]) == (len(inside), int(inside["label"].sum()))
        theirs = crossed[f"{cell['first']} x {cell['second']}"]
        assert {key: cell["gap"][key] for key in cell["gap"]} == pytest.approx(
            {key: theirs[key] for key in cell["gap"]}
        )
        assert cell["gap"]["verdict"] == "gap"
    assert pair["deviation"] > 0.3


def test_hidden_cells_are_counted_and_do_not_follow_from_a_sum(tmp_path):
    """Race c has 20 judged patients in two cells and those of unknown sex, too few here."""
    report = evaluate({"it": table()}, minimum_patients=25)
    (analysis,) = report["analyses"]
    (pair,) = analysis["sections"]["intersections"]["pairs"]
    shown = {(cell["first"], cell["second"]) for cell in pair["cells"]}
    assert shown < {(r, s) for r in "ab" for s in "FM"} and pair["hidden"] == 6 - len(shown)
    assert all(cell["n_patients"] % 10 == cell["n_positive"] % 10 == 0 for cell in pair["cells"])
    # Some are hidden for another, and not few.
    assert f"cells shown, {pair['hidden']} not<" in write_report(report, tmp_path).read_text()


def test_a_cell_needs_five_patients_of_each_class():
    rows = table()
    inside = rows.index[(rows["race"] == "a") & (rows["sex"] == "F") & (rows["split"] == "test")]
    for sick, hidden in (4, 1), (5, 0):
        rows.loc[inside, "label"] = np.where(np.arange(len(inside)) < sick, 1.0, 0.0)
        (analysis,) = evaluate({"it": rows[rows["race"] != "c"]})["analyses"]
        assert analysis["sections"]["intersections"]["pairs"][0]["hidden"] == hidden


def test_a_perfect_cell_is_shown_with_a_reason_and_not_moved():
    rows = table()
    rows = rows[rows["race"] != "c"]
    inside = (rows["race"] == "a") & (rows["sex"] == "F")
    rows.loc[inside, "score"] = 0.2 + 0.6 * rows.loc[inside, "label"]
    (analysis,) = evaluate({"it": rows})["analyses"]
    content = analysis["sections"]["intersections"]
    cell = content["pairs"][0]["cells"][0]
    assert (cell["first"], cell["second"], cell["value"], cell["gap"], cell["shrunken"]) == ("a", "F", 1.0, None, None)
    assert cell["reason"] == "a side is at 0 or 1: no variance to test with"
    assert content["tested"] == 3


def test_the_largest_of_many_differences_is_held_to_all_of_them():
    """With a third attribute the same cells are asked among more: their intervals widen."""
    rows = table()
    rows = rows[rows["race"] != "c"]
    rng = np.random.default_rng(3)
    more = rows.assign(site=np.array(list("nsew"))[rng.integers(0, 4, len(rows))])

    def width(table):
        (analysis,) = evaluate({"it": table})["analyses"]
        cell = next(p for p in analysis["sections"]["intersections"]["pairs"] if p["second"] == "sex")["cells"][0]
        return cell["gap"]["high"] - cell["gap"]["low"], logit(cell["value"])

    few, many = width(rows), width(more)
    assert many[1] == few[1]
    assert many[0] > 1.05 * few[0]
