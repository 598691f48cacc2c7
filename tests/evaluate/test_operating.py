"""The section of the threshold: counts by hand, rates as scikit-learn's, nothing of groups that are too small."""

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from medssl.evaluate import evaluate


def table(patients=400, few=6):
    rng = np.random.default_rng(3)
    label = (rng.random(patients) < 0.3).astype(float)
    return pd.DataFrame({
        "sample_id": np.arange(patients).astype(str), "patient_id": np.arange(patients).astype(str),
        "split": np.where(np.arange(patients) % 4 == 0, "val", "test"), "label": label,
        "score": np.clip(0.4 * label + 0.6 * rng.random(patients), 0, 1),
        "race": np.where(np.arange(patients) < 4 * few // 3, "rare", np.where(rng.random(patients) < 0.5, "A", "B")),
    })  # fmt: skip


def test_counts_and_rates_are_those_of_the_confusion_matrix():
    rows = table()
    (analysis,) = evaluate({"it": rows}, by=["race"])["analyses"]
    section = analysis["sections"]["operating"]
    whole = section["rows"][0]
    tested = rows[rows["split"] == "test"]
    (tn, fp), (fn, tp) = confusion_matrix(tested["label"], tested["score"] >= section["threshold"])
    assert whole["counts"] == {"found": tp, "missed": fn, "false_alarms": fp, "spared": tn}
    wanted = {"sensitivity": tp / (tp + fn), "specificity": tn / (tn + fp), "ppv": tp / (tp + fp), "npv": tn / (tn + fn),
              "flagged": (tp + fp) / len(tested)}  # fmt: skip
    assert {name: rate["value"] for name, rate in whole["rates"].items()} == wanted
    assert all(rate["low"] < rate["value"] < rate["high"] for rate in whole["rates"].values())


def test_of_a_group_that_is_too_small_nothing_is_told():
    (analysis,) = evaluate({"it": table()}, by=["race"])["analyses"]
    rare = [row for row in analysis["sections"]["operating"]["rows"] if row["group"] == "rare"]
    assert [(row["reason"], row["counts"], row["rates"]) for row in rare] == [("fewer than 11 patients", None, {})]


def test_without_a_threshold_there_is_no_section():
    rows = table()
    (analysis,) = evaluate({"it": rows[rows["split"] == "test"]}, by=["race"])["analyses"]
    assert "operating" not in analysis["sections"]
