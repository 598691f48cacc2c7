"""From a fine-tuned run and a store to maps of where the model looked, one volume after another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from medssl.adapt import build_model
from medssl.answers import Ensemble, case_view, likeliest, save_map, viewer
from medssl.atomic import replacing
from medssl.errors import UserError
from medssl.explain.look import Way, against, believe, look
from medssl.explain.overlay import draw
from medssl.heads import Classify, Detect, Findings, Forecast, Present, asked_beside
from medssl.learners import Supervised
from medssl.place import find_place
from medssl.predict import load_model
from medssl.progress import Progress, silent
from medssl.runs import read_run
from medssl.store import Store, open_store
from medssl.views import Crops
from medssl.views.geometry import sample
from medssl.views.select import build_views, narrowed, select, select_history

COLUMNS = ("volume_id", "score", "stable", "learned", "hit", "inside", "chance")


def explain(
    run: Path | str,
    store: Path | str,
    output: Path | str,
    cases: Sequence[str],
    *,
    by: Way = "grad-cam",
    progress: Progress = silent,
) -> pd.DataFrame:
    """A row for each volume of `cases`: the model's score, and what may be believed of its map (see look.Belief).

    The folder `output` holds for each the map on the volume's prepared grid (CASE.nii.gz, in its place in the world) and
    over the volume (CASE.png), and the rows as explain.csv. A classifier judges the middle of a volume, and a head for
    findings in crops its likeliest window (see predict): beyond that view the map is 0.
    """
    run, output, store_ = Path(run), Path(output), open_store(store)
    record = read_run(run)
    model = load_model(run, record).to(find_place("32-true").device).eval()
    if isinstance(model.head, Findings) and by == "grad-cam":
        raise UserError(
            f"--by grad-cam: asks what raised one answer, but {run} gives {len(model.head.labels)} (head.name findings); "
            "take --by eigen-cam"
        )
    unknown = [case for case in cases if case not in store_.grids]
    if unknown:
        raise UserError(f"--case {unknown[0]}: the store has no such volume; ids are in {store_.path}/volumes.parquet")
    store_, crops = narrowed(store_, record["recipe"].get("data", {})), build_views(record["recipe"]["views"]).crops
    every, history = select_history(store_, record["recipe"].get("data", {}), store_.rows(), asked_beside(model.head))
    numbers = {name: number for number, name in enumerate(every["volume_id"])}
    if amidst := [case for case in cases if case not in numbers]:
        raise UserError(
            f"--case {amidst[0]}: not the last visit of a series (head.ends); take one that predict answers"
        )
    device = next(model.parameters()).device
    rows = []
    for number in progress(range(len(cases)), "looking", len(cases)):
        volume_id = cases[number]
        told = history.told.of([numbers[volume_id]]).to(device)
        if isinstance(model.head, Present):
            view, place = _likeliest(model, store_, volume_id, crops)
        else:
            view = case_view(store_, history.volumes[numbers[volume_id]], crops, told)
            place = crops.centred(store_.shape(volume_id), store_.affine(volume_id))
        view = view.to(device)
        seen = look(model, view, by, told=told)
        found = _on_volume(seen, place, store_.shape(volume_id))
        mask = _mask(store_, volume_id)
        if isinstance(model.head, Detect | Present):
            told_of = model.head.lesion if isinstance(model.head, Detect) else model.head.found
            mask = told_of(torch.from_numpy(mask.astype(np.int64))).numpy()
        with torch.no_grad():
            logits = model.answer(view, told)
        score = (
            float(torch.sigmoid(logits)[0]) if isinstance(model.head, Classify | Forecast | Present) else float("nan")
        )
        rows.append([volume_id, score, *believe(model, view, by, told=told), *against(found, mask)])
        save_map(output / f"{volume_id}.nii.gz", found.astype(np.float32), store_.affine(volume_id))
        draw(
            output / f"{volume_id}.png", store_.read(volume_id)[0].astype(np.float32), found, mask,
            store_.affine(volume_id), f"{volume_id}  {by}" + ("" if np.isnan(score) else f"  score {score:.2f}"),
        )  # fmt: skip
    table = pd.DataFrame(rows, columns=[*COLUMNS])
    with replacing(output / "explain.csv") as part:
        table.to_csv(part, index=False)
    return table


def cases_of(run: Path | str, store: Path | str, split: str, most: int) -> list[str]:
    """The ids of at most `most` volumes of a split that the run's recipe asks for, evenly taken."""
    recipe, store_ = read_run(Path(run))["recipe"], open_store(store)
    section = {key: value for key, value in recipe.get("data", {}).items() if key != "labelled"}
    rows = select(store_, section, split=split)
    if "head" in recipe:
        rows, _ = select_history(store_, section, rows, asked_beside(build_model(recipe).head))
    ids = rows["volume_id"].tolist()
    return ids[:: -(-len(ids) // most)]


def _likeliest(model: Supervised, store: Store, volume_id: str, crops: Crops) -> tuple[torch.Tensor, np.ndarray]:
    """The window (1, C, *S) by which a volume is answered, and the matrix from its voxels to the volume's."""
    alone, place = Ensemble(models=(model,), crops=crops), np.eye(4)
    with torch.no_grad():
        _, start = likeliest(alone, store, volume_id)
    place[:3, 3] = start
    view = viewer(alone, store, volume_id)(start)[None]
    return view if len(crops.size) == 3 else view[..., 0], place


def _on_volume(seen: torch.Tensor, place: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """A view's map on the volume's grid (I, J, K); 0 beyond the view."""
    box = seen.cpu().numpy().reshape((*seen.shape, *[1] * (3 - seen.ndim)))[None]
    inverse = np.linalg.inv(place)
    found = sample(box, inverse, shape)[0].numpy()
    ends = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ inverse[:3, :3].T + inverse[:3, 3]
    beyond = ((ends < -0.5) | (ends > np.array(box.shape[1:]) - 0.5)).any(-1)
    found[beyond] = 0
    return found


def _mask(store: Store, volume_id: str) -> np.ndarray:
    """The label map (I, J, K); zeros where there is none."""
    if "mask" in store.grids[volume_id][2]:
        return store.read(volume_id, "mask")[0]
    return np.zeros(store.shape(volume_id), np.uint8)
