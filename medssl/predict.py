"""From a fine-tuned run and a store to the predictions table: one row a volume (of findings, one for each label of it),
attributes beside the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medssl import checkpoint
from medssl.adapt import build_model
from medssl.answers import detection_map, label_map, save_map, score, scores
from medssl.atomic import replacing
from medssl.errors import UserError
from medssl.evaluate.detection import lesions_of
from medssl.evaluate.outlines import measured
from medssl.evaluate.predictions import SPLITS
from medssl.heads import Classify, Findings, Forecast, Segment, asked_beside
from medssl.learners import Supervised
from medssl.mistakes import Worst
from medssl.place import find_place
from medssl.progress import Progress, silent
from medssl.recipe import make
from medssl.runs import read_run
from medssl.store import Store, open_store
from medssl.train import Training
from medssl.views import Crops
from medssl.views.history import Told
from medssl.views.select import Selection, build_views, matching, narrowed, select, select_history

ATTRIBUTES = ("sex", "race", "ethnicity", "age_band", "site", "scanner", "laterality", "view_position")
"""Columns copied from the manifest, so that the table can be stratified without it."""


def predict(
    run: Path | str,
    store: Path | str,
    output: Path | str,
    *,
    splits: Sequence[str] = ("val", "test"),
    masks: Path | None = None,
    pictures: Path | None = None,
    progress: Progress = silent,
) -> pd.DataFrame:
    """The predictions table of `splits`, also written to `output` (.parquet or .csv).

    Volumes without the label, or any of several, are left out: there is nothing to score. A split without any volume is
    skipped; none left is a UserError.
    `masks` is a folder for the label or detection maps found, as NIfTI on the prepared grid;
    `pictures` one for those of the worst segmentations (see mistakes.py).
    Of a head for detection, the score of a volume is that of its likeliest candidate, and OUTPUT_lesions beside `output`
    holds a row for each lesion and each false alarm (see evaluate/detection.py).
    """
    run, output, store_ = Path(run), Path(output), open_store(store)
    if output.suffix not in (".parquet", ".csv"):
        raise UserError(f"{output}: a predictions table is .parquet or .csv; give one of these endings")
    record = read_run(run)
    model = load_model(run, record)
    settings = make(Training, record["recipe"].get("finetune", {}), "finetune")
    fabric = find_place(settings.precision)
    model = model.to(fabric.device).eval()
    store_ = narrowed(store_, record["recipe"].get("data", {}))
    rows = _rows(store_, record["recipe"], splits, model)
    rows, history = select_history(store_, record["recipe"].get("data", {}), rows, *asked_beside(model.head))
    crops = build_views(record["recipe"]["views"]).crops
    if pictures is not None and not isinstance(model.head, Segment):
        raise UserError(f"--pictures: {run} draws no outlines; of what it looks at, medssl explain makes pictures")
    worst = None if pictures is None else Worst()
    answers = []
    for place in progress(range(len(rows)), "predicting", len(rows)):
        volumes, numbers = history.volumes[place], history.told.of([place])
        with torch.inference_mode(), fabric.autocast():
            answers.append(_answer(model, store_, volumes, crops, numbers, masks, worst))
    told = pd.DataFrame(answers)
    table = _table(rows, told, model, run.name)
    if "lesions" in told:
        write_table(_lesions(table, told), lesions_beside(output))
    else:  # that of another model would be taken for this one's
        lesions_beside(output).unlink(missing_ok=True)
    write_table(table, output)
    if worst is not None and pictures is not None:
        worst.save(pictures)
    return table


def lesions_beside(output: Path) -> Path:
    """Where the table of lesions is that belongs to a predictions table."""
    return output.with_stem(f"{output.stem}_lesions")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Nothing; the table is at `path`, as CSV or Parquet by its ending."""
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


def _answer(
    model: Supervised,
    store: Store,
    volumes: Sequence[str],
    crops: Crops,
    numbers: Told,
    maps: Path | None,
    worst: Worst | None,
) -> dict[str, Any]:
    """Columns of the table; "lesions" are rows of the other one. `volumes` are those of the visits, the last first."""
    head, volume_id = model.head, volumes[0]
    if isinstance(head, Classify | Forecast):
        return {"score": score(model, store, volumes, crops, numbers)}
    if isinstance(head, Findings):
        return {"scores": scores(model, store, volume_id, crops)}
    truth = store.read(volume_id, "mask")[0]
    found = (label_map if isinstance(head, Segment) else detection_map)(model, store, volume_id, crops)
    if maps is not None:
        save_map(maps / f"{volume_id}.nii.gz", found, store.affine(volume_id))
    if isinstance(head, Segment):
        spacing = np.linalg.norm(store.affine(volume_id)[:3, :3], axis=0).tolist()
        columns = measured(truth, found, head.structures, spacing, head.tolerance_mm)
        if worst is not None:
            worst.show(volume_id, store.read(volume_id)[0], (truth, found), columns, spacing)
        return columns
    lesions = head.lesion(torch.from_numpy(truth.astype(np.int64))).numpy()
    return {"score": float(found.max()), "label": float(lesions.any()), "lesions": lesions_of(found, lesions)}


def _table(rows: pd.DataFrame, answers: pd.DataFrame, model: Supervised, name: str) -> pd.DataFrame:
    table = pd.DataFrame({"sample_id": rows["volume_id"], "patient_id": rows["patient_pid"], "split": rows["split"]})
    head = model.head
    yes_or_no = isinstance(head, Classify | Forecast)
    table["label"] = rows[head.target].astype(float) if yes_or_no else answers.get("label", np.nan)
    table["score"] = answers.get("score", np.nan)
    table["task"] = head.target if yes_or_no else "segment" if isinstance(head, Segment) else "detect"
    table["model"] = name
    for column in ATTRIBUTES:
        if column in rows:
            table[column] = rows[column]
    if isinstance(head, Findings):
        each = zip(head.labels, zip(*answers["scores"], strict=True), strict=True)
        return pd.concat([table.assign(label=rows[one], score=told, task=one) for one, told in each], ignore_index=True)
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
