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
from medssl.heads import Detect, Segment, build_head
from medssl.learners import Learner, Mixed, MixedSteps, Supervised, Telling, build_learner
from medssl.learners.pseudo_supervisor import PseudoSupervisor
from medssl.place import join
from medssl.progress import Progress, silent
from medssl.recipe import Section, make
from medssl.runs import occupied, open_run
from medssl.store import Store, open_store
from medssl.train import Plan, Training, fit, part_of
from medssl.trunks import build_trunk
from medssl.views import Batch, Steps
from medssl.views.select import Selection, build_views, matching, select
from medssl.weights import begin_with, origin_of


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
    model = build_model(recipe)
    target = model.head.target
    rows = select(store, recipe.get("data", {}), split="train", target=target, channels=model.trunk.channels)
    if target != "mask" and rows[target].nunique() < 2:
        raise UserError(
            f"label {target!r}: all {len(rows)} training volumes have the value {rows[target].iloc[0]:g}; a classifier "
            "needs both classes: raise data.labelled or check the labels table"
        )
    if target != "mask" and (odd := sorted(set(rows[target]) - {0.0, 1.0})):
        raise UserError(f"label {target!r}: {odd[0]:g} is not 0 or 1; make a 0/1 label of it in the data card")
    if isinstance(model.head, Segment):
        _check_structures(rows, model.head.structures)
    facts: dict[str, Any] = {
        "kind": "finetune",
        "start": origin_of(None if start is None else Path(start)),
        "volumes": len(rows),
        "patients": rows["patient_pid"].nunique(),
        "labels": _told(rows, target),
    }
    _begin(model, recipe, start)

    def another() -> Supervised:
        torch.manual_seed(settings.seed + 1)
        return _begin(build_model(recipe), recipe, start)

    size = build_views(recipe["views"]).crops.size
    learner = build_learner(recipe.get("learn", {}), model, {
        "steps": settings.steps, "shape": (settings.batch, model.trunk.channels, *size), "other": another,
        "policy": another, "patients": rows["patient_pid"].drop_duplicates().tolist(),
    })  # fmt: skip
    _check_together(learner, model, settings, recipe.get("learn", {}).get("name", ""))
    moving = ((n, p) for n, p in learner.named_parameters() if p.requires_grad and part_of(n) not in settings.frozen)
    facts["moving"] = sum(p.numel() for _, p in moving)
    facts["answers"] = learner.answers
    return Plan(learner, _batches(learner, store, rows, recipe, settings), settings, facts)


def _begin(model: Supervised, recipe: Section, start: Path | str | None) -> Supervised:
    """The model, which holds the weights of `start` and moves as the recipe says."""
    if start is not None:
        load_trunk(model, recipe, Path(start))
    model.adapt(build_adaptation(recipe.get("adapt", {})))
    return model


def _batches(
    learner: Learner, store: Store, rows: pd.DataFrame, recipe: Section, settings: Training
) -> Dataset[Batch] | Dataset[Mixed]:
    """What `learner` learns from: the labelled `rows`, and the other scans that it wants."""
    target = str(learner.head.target)

    def steps(some: pd.DataFrame, *, labelled: bool = True, alter: bool = True, count: int = 1) -> Steps:
        views = build_views(recipe["views"], count=count, alter=alter)
        balance = settings.balance if labelled else ""
        return Steps(
            store, some.reset_index(drop=True), views, batch=settings.batch, seed=settings.seed,
            target=target if labelled else "", balance=balance, share=processes.share(),
        )  # fmt: skip

    if not learner.wants:
        return steps(rows)
    others = {}
    patients = rows["patient_pid"].to_numpy()
    if isinstance(learner, PseudoSupervisor):
        aside = set_aside(rows, target, learner.aside, settings.seed)
        if any(rows[target][side].nunique() < 2 for side in (aside, ~aside)):
            raise UserError(
                f"learn.aside: {learner.aside:g} of {len(set(patients))} labelled patients leaves one side without both "
                "classes; raise data.labelled"
            )
        others["judged"], rows = steps(rows[aside]), rows[~aside]
    data = {key: value for key, value in recipe.get("data", {}).items() if key not in ("labelled", "lot")}
    every = select(store, data, split="train", channels=int(rows["channels"].iloc[0]))
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
    data, target = recipe.get("data", {}), str(cast(Learner, model).head.target)
    rows = select(store_, data, split="train", target=target)
    with occupied(run):
        open_run(run, recipe, store_, facts)
        with processes.failing_together():
            if processes.first():
                write_ranges(run, rows)
        fit(model, steps, settings, run, progress)
        if processes.first():
            if isinstance(model, Telling):
                model.tell(run)
            held_out = matching(store_, make(Selection, data, "data"), "val", target)
            alike = held_out["channels"].astype(int) == int(rows["channels"].iloc[0])
            write_density(run, store_, rows, held_out[alike], progress)
    return run


def _told(rows: pd.DataFrame, target: str) -> str:
    """What identifies the labels that are learned from; label maps are part of what identifies the store."""
    told = (
        ""
        if target == "mask"
        else "\n".join(f"{n} {v:g}" for n, v in zip(rows["volume_id"], rows[target], strict=True))
    )
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _check_structures(rows: pd.DataFrame, structures: tuple[str, ...]) -> None:
    """Nothing; raises UserError where a label map has a structure without a name."""
    for volume_id, numbers in zip(rows["volume_id"], rows["mask_labels"], strict=True):
        if max(numbers, default=0) > len(structures):
            raise UserError(
                f"head.structures: {list(structures)} names {len(structures)}, but the label map of {volume_id} holds "
                f"{max(numbers)}; name them all, in the order of their numbers"
            )


def load_trunk(model: Supervised, recipe: Section, start: Path) -> None:
    """Nothing; the model's trunk holds the weights of `start`, and so does its decoder where that is a run with one."""
    begin_with(model.trunk, recipe.get("trunk", {}), build_views(recipe["views"]).crops.size, start)
    last = start / checkpoint.NAME
    if isinstance(model.head, Segment | Detect) and last.exists():
        for place in ("decoder.", "head.decoder."):  # of a pretraining, of a segmentation
            if checkpoint.weights(last, place):
                checkpoint.fill(model.head.decoder, place, start)
