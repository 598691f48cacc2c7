"""What pretraining is worth on chest radiographs with few labelled patients: a sample of NIH ChestX-ray14, real data.

Example: python benchmarks/few_labels_xray.py $MEDSSL_DATA/nih_cxr1000 --jobs 2 -o few_labels_xray.json

Two labels: pneumonia, which the view gives away in part, and sex, the cleaner one; each view is judged by itself as well.
With 5, 20 and 100 % of the training patients labelled, the fewer among the more, and two ways to use a trunk: a line
through its frozen features, and fine-tuning all of it. "Pretrained" is the trunk of pipelines/nih_pneumonia.yaml, once a
seed, on all radiographs of the training split without labels; "scratch" is as chance made it. Both are treated alike.

AUROC of the test split, of scores averaged over seeds; the difference is paired, its interval by DeLong's method with
patients as the unit. What the JSON file holds is not computed again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medssl.adapt import finetune
from medssl.atomic import write_json
from medssl.evaluate.comparison import compare
from medssl.manifest import index, read_card
from medssl.predict import predict
from medssl.probe.features import features_of
from medssl.recipe import Section, make, read_recipe
from medssl.runs import open_run
from medssl.store import Preparation, Store, open_store, prepare
from medssl.train import pretrain
from medssl.views.select import select

HERE = Path(__file__).parent
RECIPE = HERE.parent / "pipelines" / "nih_pneumonia.yaml"
CARD = HERE.parent / "data_manifests" / "nih_cxr1000.yaml"
LABELS, SHARES, WAYS = ("pneumonia", "male"), (0.05, 0.2, 1.0), ("line", "fine-tuned")
SCRATCH, PRETRAINED = "scratch", "pretrained"
STRENGTH = 0.01
"""Inverse of the ridge penalty of the line, on features of unit spread; fixed, so that nothing is tuned
on those who are judged."""

Scores = dict[str, dict[str, float]]
"""Scores of samples, by label, share and way."""


def make_store(archive: Path, work: Path, changes: list[str]) -> Path:
    """The prepared radiographs, with sex as a label beside pneumonia."""
    card = work / "card.yaml"
    work.mkdir(parents=True, exist_ok=True)
    card.write_text(CARD.read_text().replace("labels: {", "labels: {male: Patient Gender equals M, "))
    index(archive, work / "cohort", card=read_card(card))
    settings = make(Preparation, read_recipe(RECIPE, changes)["prepare"], "prepare")
    prepare(work / "cohort", work / "store", settings=settings)
    return work / "store"


def recipe(seed: int, changes: list[str]) -> Section:
    """The recipe with a seed's first weights and draw of labelled patients."""
    return read_recipe(RECIPE, [*changes, f"pretrain.seed={seed}", f"finetune.seed={seed}", f"data.lot={seed + 1}"])


def line_says(run: Path, store: Store, label: str, labelled: int, lot: int, trained: bool) -> dict[str, float]:
    """Scores of test samples by a line through frozen features."""
    found, known = {}, {}
    for split in ("train", "test"):
        features, rows = features_of(run, store, split, trained=trained)
        found[split] = pd.DataFrame(features, index=rows["volume_id"])
        data = {"modality": "DX", "labelled": str(labelled), "lot": str(lot)}
        known[split] = select(store, data, split=split, target=label).set_index("volume_id")[label]
    line = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=2000, class_weight="balanced"))
    line.fit(found["train"].loc[known["train"].index], known["train"])
    asked = known["test"].index
    return dict(zip(asked, line.predict_proba(found["test"].loc[asked])[:, 1].tolist(), strict=True))


def measure(entry: str, seed: int, path: Path, work: Path, changes: list[str]) -> Scores:
    """The scores of an entry and seed."""
    torch.set_num_threads(1)
    store, folder = open_store(path), Path(tempfile.mkdtemp(dir=work))
    told = recipe(seed, changes)
    try:
        trunk = folder / "trunk"
        if entry == PRETRAINED:
            pretrain(told, path, trunk)
        else:
            open_run(trunk, told, store, {"kind": "none"})
        scores: Scores = {}
        for label, share in product(LABELS, SHARES):
            rows = select(store, {"modality": "DX"}, split="train", target=label)
            labelled = 0 if share == 1 else round(share * rows["patient_pid"].nunique())
            name = f"{label} {share:g}"
            trained = entry == PRETRAINED
            scores[f"{name} {WAYS[0]}"] = line_says(trunk, store, label, labelled, seed + 1, trained)
            told["head"]["label"], told["data"]["labelled"] = label, str(labelled)
            run = finetune(told, path, folder / name.replace(" ", "-"), start=trunk if trained else None)
            table = predict(run, path, folder / "predictions.parquet", splits=("test",))
            scores[f"{name} {WAYS[1]}"] = table.set_index("sample_id")["score"].to_dict()
        return scores
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def predictions(results: dict[str, dict[str, Scores]], entry: str, key: str, store: Store) -> pd.DataFrame:
    """The predictions table of an entry's mean scores over seeds."""
    label = key.split()[0]
    rows = select(store, {"modality": "DX"}, split="test", target=label)
    score = pd.DataFrame([scores[key] for scores in results[entry].values()]).mean()
    return pd.DataFrame({
        "sample_id": rows["volume_id"], "patient_id": rows["patient_pid"], "split": "test", "label": rows[label],
        "score": rows["volume_id"].map(score), "task": label, "model": entry, "view_position": rows["view_position"],
    })  # fmt: skip


def table(results: dict[str, dict[str, Scores]], store: Store) -> str:
    """The results as Markdown."""
    columns = ("label", "patients labelled", "way", "test patients", "scratch", "pretrained", "difference (95 %)")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for label, share, way in product(LABELS, SHARES, WAYS):
        first, second = (
            predictions(results, entry, f"{label} {share:g} {way}", store) for entry in (SCRATCH, PRETRAINED)
        )
        for row in compare(first, second, by=["view_position"])["results"]:
            group = "" if row["group"] == "all" else f" ({row['group']})"
            lines.append(
                f"| {label}{group} | {share:.0%} | {way} | {row['n_patients']} | {row['first']:.3f} | {row['second']:.3f} | "
                f"{row['value']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}) |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure what is not measured yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="the folder nih_cxr1000, with images/ and metadata.csv")
    parser.add_argument("-o", "--output", type=Path, default=Path("few_labels_xray.json"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="entries measured side by side, one thread each")
    parser.add_argument("--set", action="append", default=[], help="a change of the recipe, e.g. pretrain.steps=100")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "medssl-few-labels-xray")
    told = parser.parse_args()
    path = make_store(told.archive, told.work, told.set)
    results = json.loads(told.output.read_text()) if told.output.exists() else {}
    todo = [(e, s) for s in told.seeds for e in (SCRATCH, PRETRAINED) if str(s) not in results.get(e, {})]
    with ProcessPoolExecutor(told.jobs) as pool:
        jobs = {pool.submit(measure, entry, seed, path, told.work, told.set): (entry, seed) for entry, seed in todo}
        for job in as_completed(jobs):
            entry, seed = jobs[job]
            results.setdefault(entry, {})[str(seed)] = job.result()
            write_json(told.output, results)
            sys.stdout.write(f"{entry}, seed {seed}: {np.size(list(job.result()))} answers\n")
            sys.stdout.flush()
    sys.stdout.write(table(results, open_store(path)) + "\n")


if __name__ == "__main__":
    main()
