"""From a fine-tuned run and a store to the predictions table: one row a volume, attributes beside the answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medssl import checkpoint
from medssl.adapt import build_model
from medssl.answers import Answering, Ensemble, agree, detection_maps, label_maps, place_of, save_map, score
from medssl.atomic import replacing
from medssl.errors import UserError
from medssl.evaluate.detection import lesions_of
from medssl.evaluate.overlap import dice
from medssl.evaluate.predictions import SPLITS
from medssl.heads import Classify, Segment
from medssl.learners import Supervised
from medssl.place import find_place
from medssl.progress import Progress, silent
from medssl.recipe import make
from medssl.runs import read_run
from medssl.store import Store, open_store
from medssl.train import Training
from medssl.views.select import Selection, build_views, matching, select

ATTRIBUTES = ("sex", "race", "ethnicity", "age_band", "site", "scanner", "laterality", "view_position")
"""Columns copied from the manifest, so that the table can be stratified without it."""


def predict(
    run: Path | str,
    store: Path | str,
    output: Path | str,
    *,
    splits: Sequence[str] = ("val", "test"),
    masks: Path | None = None,
    answering: Answering = Answering(),
    progress: Progress = silent,
) -> pd.DataFrame:
    """The predictions table of `splits`, also written to `output` (.parquet or .csv).

    Volumes without the label are left out: there is nothing to score. A split without any volume is skipped; none left
    is a UserError. `masks` is a folder for the label or detection maps found, as NIfTI; map_grid and map_note say on which
    grid each lies, and what that changed or why it is not the one asked for. Dice and lesions are of the prepared grid.
    With further runs in `answering`, all answer together: the mean of their probabilities.
    Of a head for detection, the score of a volume is that of its likeliest candidate, and OUTPUT_lesions beside `output`
    holds a row for each lesion and each false alarm (see evaluate/detection.py).
    """
    run, output, store_ = Path(run), Path(output), open_store(store)
    if output.suffix not in (".parquet", ".csv"):
        raise UserError(f"{output}: a predictions table is .parquet or .csv; give one of these endings")
    records: dict[Path, dict[str, Any]] = {}
    for path in (run, *answering.runs):
        if path in records:
            raise UserError(f"--with {path}: named twice; each run answers once")
        records[path] = read_run(path)
    models = [load_model(path, record) for path, record in records.items()]
    agree(records, splits)
    recipe = records[run]["recipe"]
    fabric = find_place(make(Training, recipe.get("finetune", {}), "finetune").precision)
    ensemble = Ensemble(
        models=tuple(model.to(fabric.device).eval() for model in models), crops=build_views(recipe["views"]).crops,
        flips=answering.flips, overlap=answering.overlap,
    )  # fmt: skip
    rows = _rows(store_, recipe, splits, models[0])
    answers = []
    for place in progress(range(len(rows)), "predicting", len(rows)):
        with torch.inference_mode(), fabric.autocast():
            answers.append(_answer(ensemble, store_, rows.iloc[place], masks, answering.grid))
    told = pd.DataFrame(answers)
    table = _table(rows, told, models[0], " + ".join(path.name for path in records))
    if "lesions" in told:
        _write(_lesions(table, told), lesions_beside(output))
    else:  # that of another model would be taken for this one's
        lesions_beside(output).unlink(missing_ok=True)
    _write(table, output)
    return table


def lesions_beside(output: Path) -> Path:
    """Where the table of lesions is that belongs to a predictions table."""
    return output.with_stem(f"{output.stem}_lesions")


def _write(table: pd.DataFrame, path: Path) -> None:
    with replacing(path) as part:
        if path.suffix == ".csv":
            table.to_csv(part, index=False)
        else:
            table.to_parquet(part, index=False)


def load_model(run: Path, record: dict[str, Any]) -> Supervised:
    """The fine-tuned model of a run. Raises UserError for a pretraining run or one that has not finished."""
    if record["facts"].get("kind") != "finetune":
        raise UserError(
            f"{run}: a {record['facts'].get('kind')} run has no head to predict with; run medssl finetune first"
        )
    steps = make(Training, record["recipe"].get("finetune", {}), "finetune").steps
    done = checkpoint.steps_done(run / "last.safetensors")
    if done < steps:
        raise UserError(
            f"{run}: stopped after {done} of {steps} steps; run medssl finetune again, it goes on from there"
        )
    model = build_model(record["recipe"])
    tensors = checkpoint.weights(run / "last.safetensors", record["facts"].get("answers", ""))
    model.load_state_dict({name: tensors[name] for name in model.state_dict()})
    return model


def _rows(store: Store, recipe: dict[str, Any], splits: Sequence[str], model: Supervised) -> pd.DataFrame:
    section, target, channels = recipe.get("data", {}), model.head.target, model.trunk.channels
    known = {*SPLITS, *store.volumes["split"]}
    for split in splits:
        if split not in known:
            raise UserError(f"split {split!r}: there is none of that name; there are: {', '.join(sorted(known))}")
    choice = make(Selection, section, "data")
    filled = [split for split in splits if not matching(store, choice, split, target).empty] or list(splits)[:1]
    found = [select(store, section, split=split, target=target, channels=channels) for split in filled]
    return pd.concat(found, ignore_index=True)


def _answer(models: Ensemble, store: Store, row: pd.Series, maps: Path | None, grid: str) -> dict[str, Any]:
    """Columns of the table; "lesions" are rows of the other one."""
    head, volume_id = models.head, row["volume_id"]
    if isinstance(head, Classify):
        return {"score": score(models, store, volume_id)}
    source = maps is not None and grid == "source"
    found = (label_maps if isinstance(head, Segment) else detection_maps)(
        models, store, row, place_of(row, "" if source else "prepared_")
    )
    told: dict[str, Any] = {}
    if maps is not None:
        save_map(maps / f"{volume_id}.nii.gz", found.written, found.place.affine)
        told = {"map_grid": "source" if found.place.is_(place_of(row)) else "prepared", "map_note": found.note}
    truth = store.read(volume_id, "mask")[0]
    if isinstance(head, Segment):
        scores = {f"dice_{name}": dice(truth == n, found.prepared == n) for n, name in enumerate(head.structures, 1)}
        known = [one for one in scores.values() if not np.isnan(one)]
        return {**scores, "dice_mean": float(np.mean(known)) if known else float("nan"), **told}
    lesions = head.lesion(torch.from_numpy(truth)).numpy()
    entries = lesions_of(found.prepared, lesions)
    return {"score": float(found.prepared.max()), "label": float(lesions.any()), "lesions": entries, **told}


def _table(rows: pd.DataFrame, answers: pd.DataFrame, model: Supervised, name: str) -> pd.DataFrame:
    table = pd.DataFrame({"sample_id": rows["volume_id"], "patient_id": rows["patient_pid"], "split": rows["split"]})
    head = model.head
    table["label"] = rows[head.target].astype(float) if isinstance(head, Classify) else answers.get("label", np.nan)
    table["score"] = answers.get("score", np.nan)
    table["task"] = head.target if isinstance(head, Classify) else "segment" if isinstance(head, Segment) else "detect"
    table["model"] = name
    for column in ATTRIBUTES:
        if column in rows:
            table[column] = rows[column]
    return table.join(answers.drop(columns=["label", "score", "lesions"], errors="ignore"))


def _lesions(table: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """A row for each lesion, found or missed, and each false alarm, with what is known of its case."""
    entries = [
        {"sample_id": case, "truth": one.truth, "score": one.score, "overlap": one.overlap}
        for case, found in zip(table["sample_id"], answers["lesions"], strict=True)
        for one in found
    ]
    known = table.drop(columns=["label", "score"])
    return pd.DataFrame(entries, columns=["sample_id", "truth", "score", "overlap"]).merge(known, on="sample_id")
