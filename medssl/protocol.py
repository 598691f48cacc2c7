"""One trunk tried on one task in every way: from neighbours in its frozen features to learning all of it anew.

The ways of the evaluation of DINOv2 on radiology (Baharoon et al., arXiv:2312.02366): k nearest neighbours, a few labels,
a line, little beside the trunk, end to end; and what they have to be better than, the same network from scratch. Differs:
neighbours are weighted votes; a line's penalty, not its learning rate, is chosen on the validation split.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from torch import nn

from medssl.adapt import build_model, finetune, load_trunk
from medssl.atomic import replacing
from medssl.errors import UserError
from medssl.evaluate.groups import estimate
from medssl.evaluate.measures import AUROC, Metric, mean_of
from medssl.evaluate.metrics import auroc
from medssl.heads import Classify, Segment
from medssl.place import find_place
from medssl.predict import predict, write_table
from medssl.probe.features import pooled
from medssl.probe.linear import few_patients
from medssl.probe.neighbours import TEMPERATURE, K
from medssl.progress import Progress, silent
from medssl.recipe import Section
from medssl.runs import read_run
from medssl.store import Store, open_store
from medssl.views import Steps
from medssl.views.select import build_views, narrowed, select

SCRATCH = "from scratch"

TRAINED: dict[str, dict[str, Any]] = {
    "frozen trunk": {"name": "linear"},
    "biases and norms": {"name": "biases"},
    "low rank": {"name": "low_rank"},
    "end to end": {},
    SCRATCH: {},
}
"""Ways that train by steps, and the recipe's `adapt` section of each; {} leaves it as the recipe has it."""

PENALTIES = (0.001, 0.01, 0.1, 1.0)
"""Inverses of a line's ridge penalty among which the validation split chooses."""

TABLE, PICTURE = "protocol.csv", "protocol.svg"
COLUMNS = ("way", "labelled_patients", "moving_weights", "metric", "value", "low", "high", "patients")


def protocol(
    recipe: Section,
    store: Path | str,
    start: Path | str,
    output: Path | str,
    *,
    shots: Sequence[int] = (4, 16),
    progress: Progress = silent,
) -> Iterator[str]:
    """Lines to tell the user while `output` fills: a folder with the test predictions of each way, protocol.csv and a
    picture of it.

    `recipe` is a fine-tuning of a head for classification or segmentation, `start` a pretraining run. `shots` are labelled
    patients of each class that a line learns from ("few labels"). A segmentation has no neighbours and no line.
    What is done is kept: a second call goes on. Each table can be put into `medssl compare` and `medssl evaluate`.
    """
    output, start = Path(output), Path(start)
    store_, model = narrowed(open_store(store), recipe.get("data", {})), build_model(recipe)
    if not isinstance(model.head, Classify | Segment):
        raise UserError(f"head.name: {recipe['head']['name']}; the protocol is of classify and of segment")
    if isinstance(model.head, Classify) and model.head.covariates.names:
        raise UserError(
            "head.covariates: neighbours and lines are asked of images alone; leave them out of this recipe"
        )
    metric = AUROC if isinstance(model.head, Classify) else mean_of("dice_mean")
    rows = []
    if isinstance(model.head, Classify):
        for way, labelled, table in _frozen(recipe, store_, start, shots, progress):
            write_table(table, output / _folder(way) / "predictions.parquet")
            rows.append(_row(way, labelled, 0, metric, table))
            yield told(rows[-1])
    for way, adapt in TRAINED.items():
        place = output / _folder(way)
        part = recipe | {"adapt": adapt} if adapt else recipe
        run = finetune(part, store, place, start=None if way == SCRATCH else start, progress=progress)
        table = predict(run, store, place / "predictions.parquet", splits=["test"], progress=progress)
        facts = read_run(run)["facts"]
        rows.append(_row(way, facts["patients"], facts["moving"], metric, table))
        yield told(rows[-1])
    with replacing(output / TABLE) as part_, part_.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    with replacing(output / PICTURE) as part_, part_.open("w", encoding="utf-8") as file:
        _draw(rows).savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    yield f"table in {output / TABLE}, picture in {output / PICTURE}"


def _folder(way: str) -> str:
    return way.replace(" ", "-").replace(",", "")


def _frozen(
    recipe: Section, store: Store, start: Path, shots: Sequence[int], progress: Progress
) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """Way, labelled patients and test predictions of what asks frozen features."""
    model = build_model(recipe)
    load_trunk(model, recipe, start)
    label = str(model.head.target)
    trunk = cast(nn.Module, model.trunk).to(find_place("32-true").device).eval()
    views = build_views(recipe["views"], count=1, alter=False)
    features, rows = {}, {}
    for split in ("train", "val", "test"):
        rows[split] = select(store, recipe.get("data", {}), split=split, target=label, channels=model.trunk.channels)
        steps = Steps(store, rows[split], views, batch=1, seed=0)
        features[split] = pooled(cast(Any, trunk), steps, f"features of {split}", progress)
    truth = {split: some[label].to_numpy(int) for split, some in rows.items()}
    whose = {split: some["patient_pid"].to_numpy() for split, some in rows.items()}

    def table(score: np.ndarray) -> pd.DataFrame:
        known = {"sample_id": rows["test"]["volume_id"], "patient_id": whose["test"], "split": "test"}
        return pd.DataFrame({**known, "label": truth["test"].astype(float), "score": score})

    everyone = len(set(whose["train"]))
    yield "nearest neighbours", everyone, table(votes(features["train"], truth["train"], features["test"]))
    for few in sorted(set(shots)):
        most = min(len(set(whose["train"][truth["train"] == value])) for value in (0, 1))
        if few > most:
            raise UserError(f"shots: {few} patients of each class, but the training split has {most}; give fewer")
        chosen = few_patients(truth["train"], whose["train"], 2 * few)
        score = line(features["train"][chosen], truth["train"][chosen], features["test"], 1.0)
        yield f"a line, {few} patients a class", 2 * few, table(score)
    best = max(PENALTIES, key=lambda one: _on_val(features, truth, one))
    bank, labels = (np.concatenate([part["train"], part["val"]]) for part in (features, truth))
    score = line(bank, labels, features["test"], best)
    yield "a line", len({*whose["train"], *whose["val"]}), table(score)


def _on_val(features: dict[str, np.ndarray], truth: dict[str, np.ndarray], penalty: float) -> float:
    found = auroc(truth=truth["val"], score=line(features["train"], truth["train"], features["val"], penalty))
    return -1.0 if np.isnan(found) else found


def votes(bank: np.ndarray, labels: np.ndarray, asked: np.ndarray, k: int = K) -> np.ndarray:
    """The share (M,) of votes for label 1 of the k nearest of `bank` (N, E) by cosine, the nearer ones counting more."""
    from sklearn.neighbors import KNeighborsClassifier

    near = KNeighborsClassifier(
        min(k, len(bank)), weights=lambda distance: np.exp(-distance / TEMPERATURE), metric="cosine"
    )
    return near.fit(bank, labels).predict_proba(asked)[:, -1]


def line(train: np.ndarray, labels: np.ndarray, asked: np.ndarray, penalty: float) -> np.ndarray:
    """The probability (M,) of label 1 by a logistic regression on features (N, E), standardised first."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=2000, class_weight="balanced"))
    return fitted.fit(train, labels).predict_proba(asked)[:, -1]


def _row(way: str, labelled: int, moving: int, metric: Metric, table: pd.DataFrame) -> dict[str, Any]:
    """A line of protocol.csv; blank where the metric does not exist."""
    found = estimate(table, metric, "", "all", 1)
    return {
        "way": way, "labelled_patients": labelled, "moving_weights": moving, "metric": metric.name,
        "value": found["value"], "low": found["low"], "high": found["high"], "patients": found["n_patients"],
    }  # fmt: skip


def told(row: dict[str, Any]) -> str:
    """A row of the table as a line."""
    name = f"{row['way']:<26} {row['labelled_patients']:>5} labelled {row['moving_weights']:>11,} weights move"
    if row["value"] is None:
        return f"{name}  {row['metric']} not defined"
    ends = "" if row["low"] is None else f" ({row['low']:.3f} to {row['high']:.3f})"
    return f"{name}  {row['metric']} {row['value']:.3f}{ends}"


def _draw(rows: Sequence[dict[str, Any]]) -> Any:
    """Each way's value and interval, from the first way on top."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 0.4 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        if row["value"] is None:
            continue
        axes.plot(row["value"], place, "o", color="#0072b2", ms=5)
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [place, place], color="#0072b2", lw=1.5)
    axes.set_yticks(range(len(rows)), [f"{row['way']} ({row['labelled_patients']})" for row in rows])
    axes.set(xlabel=f"{rows[0]['metric']}, test split, 95 % interval", ylabel="way (labelled patients)")
    axes.invert_yaxis()
    axes.grid(axis="x", color="0.9")
    return figure
