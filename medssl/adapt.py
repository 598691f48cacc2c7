"""Fine-tuning: a head on a trunk, from a pretrained run or from scratch, with the labels there are."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from medssl import checkpoint, processes
from medssl.adaptations import build_adaptation
from medssl.domain import write_density, write_ranges
from medssl.errors import UserError
from medssl.heads import Classify, Detect, Findings, Forecast, Segment, asked_beside, build_head
from medssl.learners import Learner, Mixed, MixedSteps, Supervised, Telling, build_learner
from medssl.learners.pseudo_supervisor import PseudoSupervisor
from medssl.learners.reweighed import Reweighed
from medssl.place import join
from medssl.progress import Progress, silent
from medssl.recipe import Section, make
from medssl.runs import occupied, open_run, read_run
from medssl.store import Store, open_store
from medssl.train import Plan, Training, fit, part_of
from medssl.trunks import build_trunk
from medssl.views import Batch, Steps
from medssl.views.draw import Target, classes_of
from medssl.views.history import Told
from medssl.views.select import Selection, build_views, matching, narrowed, select, select_history
from medssl.weights import begin_with, origin_of

SAME_WEIGHTS = ("label", "tolerance_mm", "loss", "gamma", "alpha", "by")
"""What two heads may differ in and still answer the same question with the same weights."""


def build_model(recipe: Section) -> Supervised:
    """The untrained trunk and head of a recipe."""
    for name in ("views", "head"):
        if name not in recipe:
            raise UserError(f"recipe: no section {name!r}; fine-tuning needs data, views, trunk, head and finetune")
    trunk = build_trunk(recipe.get("trunk", {}), build_views(recipe["views"]).crops.size)
    return Supervised(trunk, build_head(recipe["head"], trunk))


def plan(recipe: Section, store: Store, start: Path | str | None = None) -> Plan:
    """The fine-tuning that a recipe describes, as `finetune` begins it; nothing is written."""
    settings = make(Training, recipe.get("finetune", {}), "finetune")
    join(settings.precision, settings.strategy)
    torch.manual_seed(settings.seed)
    model, store = build_model(recipe), narrowed(store, recipe.get("data", {}))
    target = model.head.target
    if target == "mask" and build_views(recipe["views"]).crops.mm:  # else it would be refused when all is learned
        raise UserError("views.mm: voxels are judged on the prepared grid; set the spacing in prepare, not in views")
    rows = select(store, recipe.get("data", {}), split="train", target=target, channels=model.trunk.channels)
    rows, history = select_history(store, recipe.get("data", {}), rows, asked_beside(model.head))
    columns = () if target == "mask" else (target,) if isinstance(target, str) else target
    shares = {label: _share(rows[label], label) for label in columns}
    if isinstance(model.head, Segment):
        _check_structures(rows, model.head.structures)
    facts: dict[str, Any] = {
        "kind": "finetune",
        "start": origin_of(None if start is None else Path(start)),
        "volumes": len(rows),
        "patients": rows["patient_pid"].nunique(),
        "labels": _told(rows, target),
    }
    _begin(model, recipe, start, history.told)
    if isinstance(model.head, Findings):
        model.head.count(shares)  # of these scans, wherever the weights are from

    def another() -> Supervised:
        torch.manual_seed(settings.seed + 1)
        return _begin(build_model(recipe), recipe, start, history.told)

    told = tuple(part.shape[-1] for part in history.told)
    visits, size = history.told.days.shape[1:], build_views(recipe["views"]).crops.size
    learner = build_learner(recipe.get("learn", {}), model, {
        "steps": settings.steps, "shape": (settings.batch, *visits, model.trunk.channels, *size), "told": told,
        "other": another, "policy": another, "patients": rows["patient_pid"].drop_duplicates().tolist(),
    })  # fmt: skip
    if isinstance(learner, Reweighed):
        learner.count(torch.from_numpy(classes_of(store, rows, learner.by)))
    _check_together(learner, model, settings, recipe.get("learn", {}).get("name", ""))
    moving = ((n, p) for n, p in learner.named_parameters() if p.requires_grad and part_of(n) not in settings.frozen)
    facts["moving"] = sum(p.numel() for _, p in moving)
    facts["answers"] = learner.answers
    return Plan(learner, _batches(learner, store, rows, recipe, settings), settings, facts)


def _begin(model: Supervised, recipe: Section, start: Path | str | None, told: Told) -> Supervised:
    """The model, which holds the weights of `start`, moves as the recipe says and knows the numbers told of all scans."""
    if start is not None:
        load_trunk(model, recipe, Path(start))
    model.adapt(build_adaptation(recipe.get("adapt", {})))
    if isinstance(model.head, Classify | Forecast):
        model.head.covariates.learn(told.covariates)
    if isinstance(model.head, Classify):
        model.head.fin.learn(told.groups)
    return model


def _batches(
    learner: Learner, store: Store, rows: pd.DataFrame, recipe: Section, settings: Training
) -> Dataset[Batch] | Dataset[Mixed]:
    """What `learner` learns from: the labelled `rows`, and the other scans that it wants."""
    target: Target = learner.head.target

    def steps(some: pd.DataFrame, *, labelled: bool = True, alter: bool = True, count: int = 1) -> Steps:
        views = build_views(recipe["views"], count=count, alter=alter)
        some, history = select_history(store, recipe.get("data", {}), some, asked_beside(learner.head))
        balance = settings.balance if labelled else ""
        facts = (learner.by,) if isinstance(learner, Reweighed) else ()
        return Steps(
            store, some.reset_index(drop=True), views, batch=settings.batch, seed=settings.seed,
            target=target if labelled else "", balance=balance, facts=facts, history=history, share=processes.share(),
        )  # fmt: skip

    if not learner.wants:
        return steps(rows)
    others = {}
    patients = rows["patient_pid"].to_numpy()
    if isinstance(learner, PseudoSupervisor):
        assert isinstance(target, str)  # labels of scans, not of findings (see learners)
        aside = set_aside(rows, target, learner.aside, settings.seed)
        if any(rows[target][side].nunique() < 2 for side in (aside, ~aside)):
            raise UserError(
                f"learn.aside: {learner.aside:g} of {len(set(patients))} labelled patients leaves one side without both "
                "classes; raise data.labelled"
            )
        others["judged"], rows = steps(rows[aside]), rows[~aside]
    every = _labelled_or_not(store, recipe.get("data", {}), int(rows["channels"].iloc[0]))
    unknown = every[~every["patient_pid"].isin(patients)]
    if unknown.empty:
        raise UserError(
            f"learn.name: {recipe['learn']['name']} learns from unlabelled scans, but all {len(set(patients))} training "
            "patients are labelled; set data.labelled to fewer"
        )
    others["unlabelled"] = steps(unknown, labelled=False, count=getattr(learner, "looks", 1))
    if "plain" in learner.wants:
        others["plain"] = steps(unknown, labelled=False, alter=False)
    return MixedSteps(steps(rows), others)


def _labelled_or_not(store: Store, data: Section, channels: int | None = None) -> pd.DataFrame:
    """The training volumes that a data section means, also those whose labels are not to be seen."""
    section = {key: value for key, value in data.items() if key not in ("labelled", "lot")}
    return select(store, section, split="train", channels=channels)


def set_aside(rows: pd.DataFrame, target: str, share: float, seed: int) -> np.ndarray:
    """Which rows (N,) are of the patients that are set aside: by lot, the same share of each class. A patient's class is
    that of the first row.
    """
    once = rows.drop_duplicates("patient_pid")
    drawn = once.iloc[np.random.default_rng(seed).permutation(len(once))]
    classes = drawn.groupby(target)["patient_pid"]
    chosen = classes.cumcount() < (share * classes.transform("size")).round()
    return rows["patient_pid"].isin(drawn["patient_pid"][chosen]).to_numpy()


def _check_together(learner: Learner, model: Supervised, settings: Training, name: str) -> None:
    """Nothing; raises UserError for settings that cannot go together."""
    if model.added is not None:
        if settings.strategy == "fsdp":
            raise UserError(
                "finetune.strategy: fsdp, but what adapt.name low_rank adds to is spread over processes; use ddp"
            )
        if settings.recompute:
            raise UserError(
                "finetune.recompute: true, but blocks computed again would lack what adapt.name low_rank adds; leave it "
                "out"
            )
        if learner.answers:
            raise UserError(f"adapt.name: low_rank, but learn.name {name} answers by its average; take another of both")
    if learner.alone and processes.share()[1] > 1:
        raise UserError(f"learn.name: {name} learns in one process; start it without torchrun")
    if learner.answers and settings.strategy == "fsdp":
        raise UserError(f"finetune.strategy: fsdp, but learn.name {name} keeps a second whole network; use ddp")
    if isinstance(learner, PseudoSupervisor) and settings.accumulate > 1:
        raise UserError(
            f"finetune.accumulate: {settings.accumulate}, but learn.name {name} rewards each batch by itself; raise "
            "finetune.batch instead"
        )


def finetune(
    recipe: Section,
    store: Path | str,
    run: Path | str,
    *,
    start: Path | str | None = None,
    progress: Progress = silent,
) -> Path:
    """The run folder of a trained model. `start` is a pretraining run or a folder of weights; without it the trunk starts
    from random ones.

    `data.labelled` takes that many patients of the training split, the same ones in every run; 0 takes all. The run also
    tells what its training volumes are like, and how near to them volumes of the split "val" are (see domain/).
    """
    run, store_ = Path(run), open_store(store)
    model, steps, settings, facts = plan(recipe, store_, start)
    learner, data = cast(Learner, model), recipe.get("data", {})
    target = learner.head.target
    rows = _labelled_or_not(store_, data) if learner.wants else select(store_, data, split="train", target=target)
    with occupied(run):
        open_run(run, recipe, store_, facts)
        with processes.failing_together():
            if processes.first():
                write_ranges(run, rows, start)
        fit(model, steps, settings, run, progress)
        if processes.first():
            if isinstance(model, Telling):
                model.tell(run)
            held_out = matching(store_, make(Selection, data, "data"), "val", target)
            alike = held_out["channels"].astype(int) == int(rows["channels"].iloc[0])
            write_density(run, store_, rows, held_out[alike], progress)
    return run


def _share(values: pd.Series, label: str) -> float:
    """The share of training volumes that have a label, of those of which it is known. Raises UserError unless some have it
    and some do not.
    """
    known = values.dropna()
    if odd := sorted(set(known) - {0.0, 1.0}):
        raise UserError(f"label {label!r}: {odd[0]:g} is not 0 or 1; make a 0/1 label of it in the data card")
    if known.empty:
        raise UserError(f"label {label!r}: not known of any of the training volumes; leave it out of head.labels")
    if known.nunique() < 2:
        raise UserError(
            f"label {label!r}: all {len(known)} training volumes have the value {known.iloc[0]:g}; a classifier "
            "needs both classes: raise data.labelled or check the labels table"
        )
    return float(known.mean())


def _told(rows: pd.DataFrame, target: Target) -> str:
    """What identifies the labels that are learned from; label maps are part of what identifies the store."""
    columns = [] if target == "mask" else [target] if isinstance(target, str) else [*target]
    told = [f"{n} {' '.join(f'{v:g}' for v in values)}" for n, *values in rows[["volume_id", *columns]].to_numpy()]
    return hashlib.sha256("\n".join(told if columns else []).encode()).hexdigest()[:16]


def _check_structures(rows: pd.DataFrame, structures: tuple[str, ...]) -> None:
    """Nothing; raises UserError where a label map has a structure without a name."""
    for volume_id, numbers in zip(rows["volume_id"], rows["mask_labels"], strict=True):
        if max(numbers, default=0) > len(structures):
            raise UserError(
                f"head.structures: {list(structures)} names {len(structures)}, but the label map of {volume_id} holds "
                f"{max(numbers)}; name them all, in the order of their numbers"
            )


def load_trunk(model: Supervised, recipe: Section, start: Path) -> None:
    """Nothing; the model's trunk holds the weights of `start`, and so does its decoder where that is a run with one, and its
    head where that is a fine-tuning of the same head: first many labels that may be wrong, then few that are right.

    A decoder that `finetune.fresh` names begins anew, and with it the head that is built on it.
    The label's name may be another one, and so may how its answers are learned and judged; a segmentation's structures may
    not.
    """
    begin_with(model.trunk, recipe.get("trunk", {}), build_views(recipe["views"]).crops.size, start)
    last = start / checkpoint.NAME
    fresh = make(Training, recipe.get("finetune", {}), "finetune").fresh
    if not last.exists() or ("decoder" in fresh and isinstance(model.head, Segment | Detect)):
        return
    if isinstance(model.head, Segment | Detect):
        for place in ("decoder.", "head.decoder."):  # of a pretraining, of a segmentation
            if checkpoint.weights(last, place):
                checkpoint.fill(model.head.decoder, place, start)
    record = read_run(start)
    theirs, ours = (
        {name: value for name, value in told.get("head", {}).items() if name not in SAME_WEIGHTS}
        for told in (record["recipe"], recipe)
    )
    if record["facts"].get("kind") == "finetune" and theirs == ours:
        checkpoint.fill(model.head, f"{record['facts'].get('answers', '')}head.", start)
