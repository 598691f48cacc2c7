"""Fine-tuning: a head on a trunk, from a pretrained run or from scratch, with the labels there are."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from torch import nn

from medssl import checkpoint, processes
from medssl.adaptations import Adaptation, Added, build_adaptation
from medssl.errors import UserError
from medssl.heads import Classify, Segment, build_head
from medssl.place import join
from medssl.progress import Progress, silent
from medssl.recipe import Section, make
from medssl.runs import occupied, open_run
from medssl.store import Store, open_store
from medssl.train import Plan, Training, fit
from medssl.trunks import Trunk, build_trunk
from medssl.views import Batch, Steps
from medssl.views.select import build_views, select
from medssl.weights import begin_with, origin_of


class Supervised(nn.Module):
    """A trunk with a head; a batch gives the loss of the head's answers against its labels.

    `adapted` says how the trunk moves, once it holds the weights that it starts from.
    """

    def __init__(self, trunk: Trunk, head: Classify | Segment) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head
        self.added: Added | None = None
        self.adaptation: Adaptation | None = None

    def adapt(self, adaptation: Adaptation) -> None:
        """Nothing; the trunk moves as `adaptation` says from now on."""
        self.adaptation, self.added = adaptation, adaptation.begin(cast(nn.Module, self.trunk))

    def rate_of(self, name: str) -> float:
        """The share of the learning rate at which a weight of that name moves."""
        if self.adaptation is None or not name.startswith("trunk."):
            return 1.0
        return self.adaptation.rate_of(name.removeprefix("trunk."), cast(nn.Module, self.trunk))

    def answer(self, x: torch.Tensor) -> torch.Tensor:
        """The head's logits for views (B, C, *S)."""
        trunk = cast(nn.Module, self.trunk)
        sums = {} if self.added is None else self.added.sums(trunk)
        features = torch.func.functional_call(trunk, sums, (x,)) if sums else self.trunk(x)
        return self.head(features, tuple(x.shape[2:]))

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The task's loss."""
        return {"task": self.head.loss(self.answer(batch.x[0]), batch.target)}

    def after_step(self, steps: int) -> None:
        """Nothing to do after a step."""

    @torch.no_grad()
    def picture(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Views, and for a segmentation the label maps given and found."""
        images = {"view": batch.x[0, :, 0].float()}
        if isinstance(self.head, Segment):
            images |= {"label": batch.target.float(), "label found": self.answer(batch.x[0]).argmax(1).float()}
        return images


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
    if start is not None:
        load_trunk(model, recipe, Path(start))
    model.adapt(build_adaptation(recipe.get("adapt", {})))
    if model.added is not None and settings.strategy == "fsdp":
        raise UserError(
            "finetune.strategy: fsdp, but what adapt.name low_rank adds to is spread over processes; use ddp"
        )
    facts["moving"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    views = build_views(recipe["views"], count=1)
    steps = Steps(
        store, rows, views, batch=settings.batch, seed=settings.seed, target=target, balance=settings.balance,
        share=processes.share(),
    )  # fmt: skip
    return Plan(model, steps, settings, facts)


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

    `data.labelled` takes that many patients of the training split, the same ones in every run; 0 takes all.
    """
    run, store_ = Path(run), open_store(store)
    model, steps, settings, facts = plan(recipe, store_, start)
    with occupied(run):
        open_run(run, recipe, store_, facts)
        fit(model, steps, settings, run, progress)
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
    if isinstance(model.head, Segment) and last.exists():
        for place in ("decoder.", "head.decoder."):  # of a pretraining, of a segmentation
            if checkpoint.weights(last, place):
                checkpoint.fill(model.head.decoder, place, start)
