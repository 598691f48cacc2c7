"""From fine-tuned runs and a store, or raw files, to the predictions table: one row a volume (of findings, one for each
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
from medssl.answers import Answering, Case, Ensemble, agree, answer
from medssl.arrivals import Arrivals, known_to, receive
from medssl.atomic import replacing
from medssl.domain import BOUND, Density, Refused, read_density, refused, unlike, write_refused
from medssl.errors import UserError
from medssl.evaluate.lesions import lesions_beside
from medssl.evaluate.predictions import SPLITS
from medssl.heads import Classify, Detect, Findings, Forecast, Head, Present, Segment, asked_beside
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
from medssl.views.draw import Target
from medssl.views.history import Beside
from medssl.views.select import Selection, build_views, matching, narrowed, select, select_history

ATTRIBUTES = ("sex", "race", "ethnicity", "age_band", "site", "scanner", "laterality", "view_position")
"""Columns copied from the manifest, so that the table can be stratified without it."""

UNLIKE = "unlike"
"""What the column `warning` says of a volume that is farther from the training volumes than BOUND of the held-out ones."""


@dataclass(frozen=True, eq=False)
class Model:
    """What answers: the runs' folders and records, the first one's first, their networks, and what the training volumes of
    the first look like (None: not told).
    """

    records: Mapping[Path, dict[str, Any]]
    networks: tuple[Supervised, ...]
    density: Density | None

    @property
    def run(self) -> Path:
        """The first run."""
        return next(iter(self.records))

    @property
    def recipe(self) -> dict[str, Any]:
        """That of the first run, with which the others agree in what is asked."""
        return self.records[self.run]["recipe"]

    @property
    def head(self) -> Head:
        """What asks; the others ask the same."""
        return self.networks[0].head


def predict(
    run: Path | str,
    store: Path | str,
    output: Path | str,
    *,
    splits: Sequence[str] = ("val", "test"),
    answering: Answering = Answering(),
    progress: Progress = silent,
) -> pd.DataFrame:
    """The predictions table of `splits`, also written to `output` (.parquet or .csv).

    The column `weights` is the first 16 digits of the SHA-256 of what answers, each run's `last.safetensors`.
    Volumes without the label, or any of several, are left out: there is nothing to score. A split without any volume is
    skipped; none left is a UserError. With further runs in `answering`, all answer together: the mean of their
    probabilities. Where maps are written, map_grid and map_note say on which grid each lies, and what that changed or why it
    is not the one asked for; Dice and lesions are of the prepared grid.
    Of a head for detection, the score of a volume is that of its likeliest candidate, and OUTPUT_lesions beside `output`
    holds a row for each lesion and each false alarm (see evaluate/detection.py).
    The column `unlike` is the share of held-out volumes that are nearer to the training volumes than this one, and
    `warning` marks those above `BOUND` (see domain/density.py); a run of before that was kept has neither.
    """
    output, store_ = _table_at(output), open_store(store)
    model = _read_model(Path(run), answering, splits)
    if answering.pictures and not isinstance(model.head, Segment):
        raise UserError(f"--pictures: {run} draws no outlines; of what it looks at, medssl explain makes pictures")
    rows = _rows(narrowed(store_, model.recipe.get("data", {})), model.recipe, splits, model.networks[0])
    beside(output, "refused", ".csv").unlink(missing_ok=True)  # of raw files, it would be taken for this table's
    return _answered(model, store_, rows, output, answering, progress)


def predict_raw(
    run: Path | str,
    archive: Path | str,
    output: Path | str,
    *,
    card: Card | None = None,
    answering: Answering = Answering(),
    work: Work = HERE,
    progress: Progress = silent,
) -> pd.DataFrame:
    """The predictions table of the raw files in `archive`, as `predict` writes it; each volume has a row here or in
    OUTPUT_refused.csv beside `output`, which tells why it is not answered, as of files and series that cannot be read.

    `card` describes the files as for `index`. They are prepared as the run's training volumes were, in OUTPUT_work, which
    holds patients' data. Labels and measures are blank where none are known. The split is "external", but "train" for
    patients of whom the model, or one that answers with it, learned from a volume. Raises UserError when nothing is left to
    answer, and for a run that does not tell what its training volumes were like.
    """
    archive, output = Path(archive), _table_at(output)
    if output.resolve().is_relative_to(archive.resolve()):
        raise UserError(
            f"{output}: lies among the raw files, and would be read as one; give a place outside of {archive}"
        )
    if answering.pictures:
        raise UserError(
            f"--pictures {answering.pictures}: of raw files no reference is known to draw beside; leave it out"
        )
    model = _read_model(Path(run), answering, ())
    known = known_to(model.run, model.records[model.run], answering.runs)
    found = receive(archive, beside(output, "work", ""), known, card=card, work=work, progress=progress)
    rows, before = _ends(model, found)
    listed, refusals = beside(output, "refused", ".csv"), [*found.refused, *before]
    if found.store is None or found.rows.empty:
        write_refused(listed, refusals)
        for former in (output, lesions_beside(output)):  # they would be taken for this call's
            former.unlink(missing_ok=True)
        why = ", ".join(f"{code} {count}" for code, count in Counter(one.reason for one in found.refused).most_common())
        raise UserError(
            f"{archive}: nothing in it that this model may be asked about ({why}); {listed} says what to do"
        )
    rows = _with_label(rows, found.store, model.head.target)
    table = _answered(model, found.store, rows, output, answering, progress)
    write_refused(listed, refusals)  # last: beside the table of a call before, a new list would be taken for its own
    return table


def _ends(model: Model, found: Arrivals) -> tuple[pd.DataFrame, list[Refused]]:
    """The rows that are answered, and of a forecast the other visits, which are looked at or come too late."""
    series = asked_beside(model.head).series
    if series is None or found.store is None or found.rows.empty:
        return found.rows, []
    data = model.recipe.get("data", {})
    last, _ = select_history(narrowed(found.store, data), data, found.rows, Beside(series=series))
    others = found.rows.loc[~found.rows["volume_id"].isin(last["volume_id"]), "volume_id"]
    what = f"no last one of at most {series.visits} visits"
    return last, [refused(volume_id, "OTHER_VISIT", what) for volume_id in others]


def beside(output: Path, what: str, ending: str) -> Path:
    """Where something is that belongs to a predictions table: OUTPUT_what."""
    return output.with_name(f"{output.stem}_{what}{ending}")


def _table_at(output: Path | str) -> Path:
    output = Path(output)
    if output.suffix not in (".parquet", ".csv"):
        raise UserError(f"{output}: a predictions table is .parquet or .csv; give one of these endings")
    return output


def _answered(
    model: Model, store: Store, rows: pd.DataFrame, output: Path, answering: Answering, progress: Progress
) -> pd.DataFrame:
    """The table of a model's answers about `rows` of a store, also written to `output`."""
    data = model.recipe.get("data", {})
    fabric = find_place(make(Training, model.recipe.get("finetune", {}), "finetune").precision)
    ensemble = Ensemble(
        models=tuple(network.to(fabric.device).eval() for network in model.networks),
        crops=build_views(model.recipe["views"]).crops, flips=answering.flips, overlap=answering.overlap,
    )  # fmt: skip
    seen = narrowed(store, data)
    rows, history = select_history(seen, data, rows, asked_beside(model.head))
    answers, worst = [], Worst() if answering.pictures else None
    for place in progress(range(len(rows)), "predicting", len(rows)):
        case = Case(rows.iloc[place], history.volumes[place], history.told.of([place]))
        with torch.inference_mode(), fabric.autocast():
            answers.append(answer(ensemble, seen, case, answering, worst))
    if worst is not None and answering.pictures:
        worst.save(answering.pictures)
    told = pd.DataFrame(answers)
    table = _table(rows, told, model.head, " + ".join(run.name for run in model.records))
    table["weights"] = " + ".join(checkpoint.digest(run / checkpoint.NAME)[:16] for run in model.records)
    if model.density is not None:
        shares = unlike(model.run, model.density, model.networks[0].trunk, store, rows, progress)
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


def _read_model(run: Path, answering: Answering, splits: Sequence[str]) -> Model:
    records: dict[Path, dict[str, Any]] = {}
    for path in (run, *answering.runs):
        if path in records:
            raise UserError(f"--with {path}: named twice; each run answers once")
        records[path] = read_run(path)
    networks = tuple(load_model(path, record) for path, record in records.items())
    agree(records, splits)
    return Model(records, networks, read_density(run))


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


def _table(rows: pd.DataFrame, answers: pd.DataFrame, head: Head, name: str) -> pd.DataFrame:
    table = pd.DataFrame({"sample_id": rows["volume_id"], "patient_id": rows["patient_pid"], "split": rows["split"]})
    yes_or_no = isinstance(head, Classify | Forecast)
    table["label"] = rows[head.target].astype(float) if yes_or_no else answers.get("label", np.nan)
    table["score"] = answers["scores"].str[0] if "scores" in answers else np.nan
    kinds = {Segment: "segment", Detect: "detect", Present: "present"}
    table["task"] = head.target if yes_or_no else kinds.get(type(head), "")
    table["model"] = name
    for column in ATTRIBUTES:
        if column in rows:
            table[column] = rows[column]
    if isinstance(head, Findings):
        each = zip(head.labels, zip(*answers["scores"], strict=True), strict=True)
        return pd.concat([table.assign(label=rows[one], score=told, task=one) for one, told in each], ignore_index=True)
    return table.join(answers.drop(columns=["label", "scores", "lesions"], errors="ignore"))


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
