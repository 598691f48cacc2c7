"""From a fine-tuned run and a store to the predictions table: one row a volume, attributes beside the answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.inferers import sliding_window_inference

from medssl import checkpoint
from medssl.adapt import build_model
from medssl.atomic import replacing
from medssl.errors import UserError
from medssl.evaluate.overlap import dice
from medssl.heads import Segment
from medssl.learners import Supervised
from medssl.place import find_place
from medssl.progress import Progress, silent
from medssl.recipe import make
from medssl.runs import read_run
from medssl.store import Store, open_store
from medssl.train import Training
from medssl.views import Crops
from medssl.views.geometry import sample
from medssl.views.select import Selection, build_views, matching, select

ATTRIBUTES = ("sex", "race", "ethnicity", "age_band", "site", "scanner", "laterality", "view_position")
"""Columns copied from the manifest, so that the table can be stratified without it."""

SPLITS = ("train", "val", "test")

OVERLAP = 0.5
"""Fraction by which neighbouring windows of a segmentation overlap."""


def predict(
    run: Path | str,
    store: Path | str,
    output: Path | str,
    *,
    splits: Sequence[str] = ("val", "test"),
    masks: Path | None = None,
    progress: Progress = silent,
) -> pd.DataFrame:
    """The predictions table of `splits`, also written to `output` (.parquet or .csv).

    Volumes without the label are left out: there is nothing to score. A split without any volume is skipped; none left
    is a UserError. `masks` is a folder for the label maps found, as NIfTI on the prepared grid.
    """
    run, output, store_ = Path(run), Path(output), open_store(store)
    if output.suffix not in (".parquet", ".csv"):
        raise UserError(f"{output}: a predictions table is .parquet or .csv; give one of these endings")
    record = read_run(run)
    model = load_model(run, record)
    settings = make(Training, record["recipe"].get("finetune", {}), "finetune")
    fabric = find_place(settings.precision)
    model = model.to(fabric.device).eval()
    rows = _rows(store_, record["recipe"], splits, model)
    crops = build_views(record["recipe"]["views"]).crops
    answers = []
    for place in progress(range(len(rows)), "predicting", len(rows)):
        row = rows.iloc[place]
        with torch.inference_mode(), fabric.autocast():
            answers.append(_answer(model, store_, row, crops, masks))
    table = _table(rows, pd.DataFrame(answers), model, run.name)
    with replacing(output) as part:
        if output.suffix == ".csv":
            table.to_csv(part, index=False)
        else:
            table.to_parquet(part, index=False)
    return table


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


def _answer(model: Supervised, store: Store, row: pd.Series, crops: Crops, masks: Path | None) -> dict[str, float]:
    device = next(model.parameters()).device
    if not isinstance(model.head, Segment):
        return {"score": float(torch.sigmoid(model.answer(_whole_view(store, row, crops).to(device)).float())[0])}
    found = _segment(model, store, row["volume_id"], crops, device)
    truth = store.read(row["volume_id"], "mask")[0]
    if masks is not None:
        _save_mask(masks / f"{row['volume_id']}.nii.gz", found, store.affine(row["volume_id"]))
    scores = {f"dice_{name}": dice(truth == n, found == n) for n, name in enumerate(model.head.structures, 1)}
    known = [score for score in scores.values() if not np.isnan(score)]
    return {**scores, "dice_mean": float(np.mean(known)) if known else float("nan")}


def _whole_view(store: Store, row: pd.Series, crops: Crops) -> torch.Tensor:
    """The unaltered view of the volume's middle, (1, C, *S)."""
    volume_id = row["volume_id"]
    place = crops.centred(store.shape(volume_id), store.affine(volume_id))
    view = sample(store.read(volume_id), place, crops.grid)
    return (view if len(crops.size) == 3 else view[..., 0])[None]


def _segment(model: Supervised, store: Store, volume_id: str, crops: Crops, device: torch.device) -> np.ndarray:
    """The label map (I, J, K) found on the prepared grid, by overlapping windows."""
    if crops.mm:
        raise UserError("views.mm: a segmentation works on the prepared grid; set the spacing in prepare, not in views")
    voxels = torch.from_numpy(np.asarray(store.read(volume_id), np.float32))[None].to(device)
    flat = len(crops.size) == 2
    logits = sliding_window_inference(
        voxels[..., 0] if flat else voxels, crops.size, 4, model.answer, OVERLAP, "gaussian", cval=float(voxels.min())
    )
    found = logits.float().argmax(1)[0].to(torch.uint8).cpu().numpy()
    return found[..., None] if flat else found


def _save_mask(path: Path, found: np.ndarray, affine: np.ndarray) -> None:
    import nibabel as nib

    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(found, affine), path)


def _table(rows: pd.DataFrame, answers: pd.DataFrame, model: Supervised, name: str) -> pd.DataFrame:
    table = pd.DataFrame({"sample_id": rows["volume_id"], "patient_id": rows["patient_pid"], "split": rows["split"]})
    segment = isinstance(model.head, Segment)
    table["label"] = np.nan if segment else rows[model.head.target].astype(float)
    table["score"] = np.nan if segment else answers["score"]
    table["task"], table["model"] = "segment" if segment else model.head.target, name
    for column in ATTRIBUTES:
        if column in rows:
            table[column] = rows[column]
    return table.join(answers.drop(columns="score", errors="ignore"))
