"""From a fine-tuned run and a store, or raw files, to the predictions table: one row a volume (of findings, one for each
label of it), attributes beside the answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medssl import checkpoint
from medssl.adapt import build_model
from medssl.answers import detection_map, label_map, save_map, score, scores
from medssl.arrivals import Arrivals, known_to, receive
from medssl.atomic import replacing
from medssl.domain import BOUND, Density, Refused, read_density, refused, unlike, write_refused
from medssl.errors import UserError
from medssl.evaluate.detection import lesions_of
from medssl.evaluate.outlines import measured
from medssl.evaluate.predictions import SPLITS
from medssl.heads import Classify, Findings, Forecast, Segment, asked_beside
from medssl.learners import Supervised
from medssl.manifest import Card
from medssl.mistakes import Worst
from medssl.place import find_place
from medssl.progress import Progress, silent
from medssl.recipe import make
from medssl.runs import read_run
from medssl.store import Store, open_store
from medssl.train import Training
from medssl.units import HERE, Work
from medssl.views import Crops
from medssl.views.draw import Target
from medssl.views.history import Told
from medssl.views.select import Selection, build_views, matching, narrowed, select, select_history

ATTRIBUTES = ("sex", "race", "ethnicity", "age_band", "site", "scanner", "laterality", "view_position")
"""Columns copied from the manifest, so that the table can be stratified without it."""

UNLIKE = "unlike"
"""What the column `warning` says of a volume that is farther from the training volumes than BOUND of the held-out ones."""


@dataclass(frozen=True, eq=False)
class Model:
    """What answers: a run's folder, its record, its network, and what its training volumes look like (None: not told)."""

    run: Path
    record: Mapping[str, Any]
    network: Supervised
    density: Density | None

    @property
    def crops(self) -> Crops:
        """The law of its views."""
        return build_views(self.record["recipe"]["views"]).crops


@dataclass(frozen=True, eq=False)
class Kept:
    """What is kept of a volume's map beside the table: itself, in a folder, and a picture if it is among the worst."""

    masks: Path | None = None
    worst: Worst | None = None


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
    The column `unlike` is the share of held-out volumes that are nearer to the training volumes than this one, and
    `warning` marks those above `BOUND` (see domain/density.py); a run of before that was kept has neither.
    """
    output, store_ = _table_at(output), open_store(store)
    model = _read_model(Path(run))
    recipe = model.record["recipe"]
    rows = _rows(narrowed(store_, recipe.get("data", {})), recipe, splits, model.network)
    beside(output, "refused", ".csv").unlink(missing_ok=True)  # of raw files, it would be taken for this table's
    if pictures is None:
        return _answered(model, store_, rows, output, Kept(masks), progress)
    if not isinstance(model.network.head, Segment):
        raise UserError(f"--pictures: {run} draws no outlines; of what it looks at, medssl explain makes pictures")
    worst = Worst()
    table = _answered(model, store_, rows, output, Kept(masks, worst), progress)
    worst.save(pictures)
    return table


def predict_raw(
    run: Path | str,
    archive: Path | str,
    output: Path | str,
    *,
    card: Card | None = None,
    masks: Path | None = None,
    work: Work = HERE,
    progress: Progress = silent,
) -> pd.DataFrame:
    """The predictions table of the raw files in `archive`, as `predict` writes it; each volume has a row here or in
    OUTPUT_refused.csv beside `output`, which tells why it is not answered, as of files and series that cannot be read.

    `card` describes the files as for `index`. They are prepared as the run's training volumes were, in OUTPUT_work, which
    holds patients' data. Labels and measures are blank where none are known. The split is "external", but "train" for
    patients of whom the model learned from a volume. Raises UserError when nothing is left to answer, and for a run that
    does not tell what its training volumes were like.
    """
    archive, output = Path(archive), _table_at(output)
    if output.resolve().is_relative_to(archive.resolve()):
        raise UserError(
            f"{output}: lies among the raw files, and would be read as one; give a place outside of {archive}"
        )
    model = _read_model(Path(run))
    known = known_to(model.run, model.record)
    found = receive(archive, beside(output, "work", ""), known, card=card, work=work, progress=progress)
    rows, before = _ends(model, found)
    write_refused(listed := beside(output, "refused", ".csv"), [*found.refused, *before])
    if found.store is None or found.rows.empty:
        for former in (output, lesions_beside(output)):  # they would be taken for this call's
            former.unlink(missing_ok=True)
        why = ", ".join(f"{code} {count}" for code, count in Counter(one.reason for one in found.refused).most_common())
        raise UserError(
            f"{archive}: nothing in it that this model may be asked about ({why}); {listed} says what to do"
        )
    rows = _with_label(rows, found.store, model.network.head.target)
    return _answered(model, found.store, rows, output, Kept(masks), progress)


def _ends(model: Model, found: Arrivals) -> tuple[pd.DataFrame, list[Refused]]:
    """The rows that are answered, and of a forecast the other visits, which are looked at or come too late."""
    _, series = asked_beside(model.network.head)
    if series is None or found.store is None or found.rows.empty:
        return found.rows, []
    data = model.record["recipe"].get("data", {})
    last, _ = select_history(narrowed(found.store, data), data, found.rows, series=series)
    others = found.rows.loc[~found.rows["volume_id"].isin(last["volume_id"]), "volume_id"]
    what = f"no last one of at most {series.visits} visits"
    return last, [refused(volume_id, "OTHER_VISIT", what) for volume_id in others]


def beside(output: Path, what: str, ending: str) -> Path:
    """Where something is that belongs to a predictions table: OUTPUT_what."""
    return output.with_name(f"{output.stem}_{what}{ending}")


def lesions_beside(output: Path) -> Path:
    """Where the table of lesions is that belongs to a predictions table."""
    return beside(output, "lesions", output.suffix)


def _table_at(output: Path | str) -> Path:
    output = Path(output)
    if output.suffix not in (".parquet", ".csv"):
        raise UserError(f"{output}: a predictions table is .parquet or .csv; give one of these endings")
    return output


def _answered(
    model: Model, store: Store, rows: pd.DataFrame, output: Path, kept: Kept, progress: Progress
) -> pd.DataFrame:
    """The table of a model's answers about `rows` of a store, also written to `output`."""
    settings = make(Training, model.record["recipe"].get("finetune", {}), "finetune")
    fabric = find_place(settings.precision)
    data = model.record["recipe"].get("data", {})
    network, crops, seen = model.network.to(fabric.device).eval(), model.crops, narrowed(store, data)
    rows, history = select_history(seen, data, rows, *asked_beside(network.head))
    answers = []
    for place in progress(range(len(rows)), "predicting", len(rows)):
        volumes, numbers = history.volumes[place], history.told.of([place])
        mapped = bool(rows["has_mask"].iloc[place])
        with torch.inference_mode(), fabric.autocast():
            answers.append(_answer(network, seen, volumes, crops, numbers, kept, mapped=mapped))
    told = pd.DataFrame(answers)
    table = _table(rows, told, network, model.run.name)
    if model.density is not None:
        shares = unlike(model.run, model.density, network.trunk, store, rows, progress)
        table["unlike"] = table["sample_id"].map(dict(zip(rows["volume_id"], shares, strict=True)))
        table["warning"] = (table["unlike"] > BOUND).map({True: UNLIKE, False: ""})
    if "lesions" in told:
        write_table(_lesions(table, told), lesions_beside(output))
    else:  # that of another model would be taken for this one's
        lesions_beside(output).unlink(missing_ok=True)
    write_table(table, output)
    return table


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Nothing; the table is at `path`, as CSV or Parquet by its ending."""
    with replacing(path) as part:
        if path.suffix == ".csv":
            table.to_csv(part, index=False)
        else:
            table.to_parquet(part, index=False)


def _read_model(run: Path) -> Model:
    record = read_run(run)
    return Model(run, record, load_model(run, record), read_density(run))


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


def _with_label(rows: pd.DataFrame, store: Store, target: Target) -> pd.DataFrame:
    """The rows with their value of the label `target`, or of each of several, nan where none is known; as they are for label
    maps.
    """
    for name in () if target == "mask" else (target,) if isinstance(target, str) else target:
        known = store.labels[store.labels["name"] == name].set_index("volume_id")["value"]
        rows = rows.assign(**{name: rows["volume_id"].map(known)})
    return rows


def _answer(
    model: Supervised,
    store: Store,
    volumes: Sequence[str],
    crops: Crops,
    numbers: Told,
    kept: Kept,
    *,
    mapped: bool,
) -> dict[str, Any]:
    """Columns of the table; "lesions" are rows of the other one. `volumes` are those of the visits, the last first. Measures
    are nan where there is no label map (`mapped`).
    """
    head, volume_id = model.head, volumes[0]
    if isinstance(head, Classify | Forecast):
        return {"score": score(model, store, volumes, crops, numbers)}
    if isinstance(head, Findings):
        return {"scores": scores(model, store, volume_id, crops)}
    truth = store.read(volume_id, "mask")[0] if mapped else None
    found = (label_map if isinstance(head, Segment) else detection_map)(model, store, volume_id, crops)
    if kept.masks is not None:
        save_map(kept.masks / f"{volume_id}.nii.gz", found, store.affine(volume_id))
    if isinstance(head, Segment):
        columns = measured(truth, found, head.structures, _spacing(store, volume_id), head.tolerance_mm)
        if kept.worst is not None and truth is not None:
            image = store.read(volume_id)[0]
            kept.worst.show(volume_id, image, (truth, found), columns, _spacing(store, volume_id))
        return columns
    highest = float(found.max())
    if truth is None:
        alone = [
            one._asdict() | {"truth": np.nan, "overlap": np.nan} for one in lesions_of(found, np.zeros_like(found))
        ]
        return {"score": highest, "label": np.nan, "lesions": alone}
    lesions = head.lesion(torch.from_numpy(truth.astype(np.int64))).numpy()
    entries = [one._asdict() for one in lesions_of(found, lesions)]
    return {"score": highest, "label": float(lesions.any()), "lesions": entries}


def _spacing(store: Store, volume_id: str) -> list[float]:
    """Millimetres between voxels of the prepared grid."""
    return np.linalg.norm(store.affine(volume_id)[:3, :3], axis=0).tolist()


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
    """A row for each lesion, found or missed, and each false alarm, with what is known of its case; of a case without a
    label map, a row for each candidate.
    """
    entries = [
        {"sample_id": case, **one}
        for case, found in zip(table["sample_id"], answers["lesions"], strict=True)
        for one in found
    ]
    known = table.drop(columns=["label", "score"])
    return pd.DataFrame(entries, columns=["sample_id", "truth", "score", "overlap"]).merge(known, on="sample_id")
