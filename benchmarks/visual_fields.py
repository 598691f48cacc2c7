"""How well the first visual field of a series tells whether the eye will get worse: real data, no images.

Example: python benchmarks/visual_fields.py $MEDSSL_DATA/uwhvf/Series_Summary.csv -o visual_fields

UW Humphrey visual fields. An eye with at least 5 fields over 2 years is called progressing where the mean total deviation
falls by half a decibel a year or more with p < .05; the others are not. Known are age, mean, spread (PSD) and the six
clusters of the first field; no slope, and nothing of later fields, is. The first field is a part of the series
whose slope is asked for: one that came out low by chance makes the slope less steep.

Patients are dealt into 5 parts, both eyes of a patient into one, and each part is told by a model of the other four. AUROC
has the patient as unit. The table of predictions, a report by sex and age, and the comparison of models are written too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medssl.evaluate import evaluate
from medssl.evaluate.comparison import compare
from medssl.report import write_report

FEWEST_FIELDS, SHORTEST_YEARS = 5, 2.0
STEEP_DB_A_YEAR, CERTAIN = -0.5, 0.05
CLUSTERS = [f"Baseline_MTD_Cluster{n}" for n in range(1, 7)]

MODELS = {
    "age and mean": (["Baseline_Age", "Baseline_MTD"], LogisticRegression()),
    "all, a line": (["Baseline_Age", "Baseline_MTD", "Baseline_PSD", *CLUSTERS], LogisticRegression()),
    "all, trees": (
        ["Baseline_Age", "Baseline_MTD", "Baseline_PSD", *CLUSTERS],
        HistGradientBoostingClassifier(max_iter=100, learning_rate=0.05, max_leaf_nodes=8, random_state=0),
    ),
}


def series(path: Path) -> pd.DataFrame:
    """The eyes that were followed long enough, with `label` 1 where they got worse."""
    told = pd.read_csv(path, dtype=str, keep_default_na=False)
    numbers = told.columns.difference(["PatID", "Eye", "Gender"])
    told[numbers] = told[numbers].replace("NA", "").apply(pd.to_numeric)
    told = told[(told["N_fields"] >= FEWEST_FIELDS) & (told["Follow_up_length"] >= SHORTEST_YEARS)]
    worse = (told["Slope_MTD"] <= STEEP_DB_A_YEAR) & (told["pvalue_MTD"] < CERTAIN)
    return told.assign(label=worse.astype(float)).reset_index(drop=True)


def predictions(eyes: pd.DataFrame, model: str) -> pd.DataFrame:
    """The predictions table: each eye told by a model that has seen no eye of its patient."""
    columns, estimator = MODELS[model]
    x, y, whose = eyes[columns].to_numpy(float), eyes["label"].to_numpy(int), eyes["PatID"].to_numpy()
    score = np.full(len(eyes), np.nan)
    for known, asked in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(x, y, whose):
        score[asked] = make_pipeline(StandardScaler(), estimator).fit(x[known], y[known]).predict_proba(x[asked])[:, 1]
    return pd.DataFrame({
        "sample_id": eyes["PatID"] + "-" + eyes["Eye"], "patient_id": eyes["PatID"], "split": "test",
        "label": eyes["label"], "score": score, "task": "progression", "model": model,
        "sex": eyes["Gender"].replace("NA", ""), "laterality": eyes["Eye"],
        "age_band": pd.cut(eyes["Baseline_Age"], [0, 40, 60, 75, 120], labels=["<40", "40-59", "60-74", ">=75"]).astype(str),
    })  # fmt: skip


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="Series_Summary.csv")
    parser.add_argument("-o", "--output", type=Path, default=Path("visual_fields"))
    told = parser.parse_args()
    eyes = series(told.table)
    tables = {model: predictions(eyes, model) for model in MODELS}
    report = evaluate(
        tables, by=["sex", "age_band", "laterality"], title="Progression of visual fields, from the first"
    )
    page = write_report(report, told.output)
    for model, table in tables.items():
        table.to_csv(told.output / f"{model.replace(', ', '-').replace(' ', '-')}.csv", index=False)
    lines = [f"{len(eyes)} eyes of {eyes['PatID'].nunique()} patients, {eyes['label'].sum():.0f} progressing", ""]
    lines += ["| model | group | eyes | progressing | AUROC (95 %) |", "|---" * 5 + "|"]
    for analysis in report["analyses"]:
        for row in analysis["estimates"]:
            if row["metric"] != "auroc":
                continue
            name = "all" if not row["attribute"] else f"{row['attribute']} {row['group']}"
            value = f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})" if row["value"] else row["reason"]
            shown = ["hidden" if row[key] is None else row[key] for key in ("n_rows", "n_positive")]
            lines.append(f"| {analysis['name']} | {name} | {shown[0]} | {shown[1]} | {value} |")
    for model in list(MODELS)[1:]:
        lines.append(f"age and mean -> {model}: {compare(tables['age and mean'], tables[model])['sentences'][0]}")
    sys.stdout.write("\n".join([*lines, f"report in {page}", ""]))


if __name__ == "__main__":
    main()
