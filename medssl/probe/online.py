"""Looks at a pretraining while it runs: every so many steps, what the frozen trunk tells of held-out patients.

A look changes no bit of the training: it draws its random numbers beside the training's, writes to no weight or buffer, and
leaves every module in the mode in which it was. Its findings are rows of probes.csv, from which alone the guard judges, so
that a resumed run comes to the same verdict at the same step.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric.utilities import move_data_to_device
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from medssl import checkpoint
from medssl.errors import UserError
from medssl.methods import Method
from medssl.probe.features import pooled
from medssl.probe.guard import collapsed, measure
from medssl.probe.linear import few_patients, linear_says
from medssl.probe.neighbours import balanced_accuracy, neighbours_say
from medssl.probe.questions import names, task
from medssl.probe.rank import rank_me
from medssl.recipe import make
from medssl.runs import Log, read_log
from medssl.store import Store
from medssl.views import Steps
from medssl.views.select import build_views, narrowed, select

TABLE, HEALTHY = "probes.csv", "healthy.safetensors"
"""What was found, a row a look; and the checkpoint before the last look that found nothing wrong (with `stop`)."""

ASKED = ("scanner", "sex")
"""What a look asks of the neighbours beside labels."""

BATCHES = 4
"""Batches of which a look takes the losses at most: it is to cost no more than a few steps."""


@dataclass(frozen=True, kw_only=True)
class Looking:
    """The recipe's `probe` section: a look every so many steps, at `volumes` of held-out patients and as many of patients
    it learns from, of whom `few` are labelled for the linear probe. The same ones each time.

    The guard warns when a term has been stuck, or its head flat, in `patience` looks running; with `stop` it ends the run.
    """

    every: int
    volumes: int = 64
    few: int = 16
    patience: int = 3
    stop: bool = False

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("volumes", 4), ("few", 2), ("patience", 1)):
            if getattr(self, name) < least:
                raise UserError(f"probe.{name}: {getattr(self, name)} is too few; give {least} or more")


class Online:
    """Called after each step with its number and the board; looks when it is time, and at the last step."""

    def __init__(
        self, method: Method, store: Store, recipe: Mapping[str, Any], run: Path, steps: Steps, last: int
    ) -> None:
        """`steps` are the batches of the training, `last` is the number of its last step."""
        self.method, self.run, self.last = method, run, last
        self.settings = make(Looking, recipe["probe"], "probe")
        data = {key: value for key, value in recipe.get("data", {}).items() if key != "labelled"}
        store = narrowed(store, data).told(*method.tables)
        whole, plain = build_views(recipe["views"]), build_views(recipe["views"], count=1, alter=False)
        rows, seen = (some(select(store, data, split=split), self.settings.volumes) for split in ("val", "train"))
        if rows["patient_pid"].nunique() < 3:
            raise UserError(
                f"probe: {rows['patient_pid'].nunique()} patients in split val; use more, or leave probe out"
            )
        found = (task(store, rows, seen, name) for name in names(store, rows, ASKED))
        self.tasks = [one for one in found if one]
        self.held = Steps(store, rows, plain, batch=1, seed=0)
        self.seen = Steps(store, seen, plain, batch=1, seed=0)
        self.drawn = Steps(store, rows, whole, batch=steps.batch, seed=0, facts=method.columns)
        self.drawn.groups = rows["scanner"].tolist() if len(set(steps.groups)) > 1 else self.drawn.groups
        self.log: Log | None = None

    def __call__(self, step: int, board: SummaryWriter) -> None:
        """Nothing; if it was time, a row more is in probes.csv. Raises UserError when the guard is to stop the run."""
        if self.log is None:
            self.log = Log(self.run / TABLE, step)
        if step % self.settings.every and step != self.last:
            return
        row = self.look()
        self.log.write({"step": step, **row})
        for name, value in row.items():
            if value == value:
                board.add_scalar(f"probe/{name}", value, step)
        self._judge(step)

    def look(self) -> dict[str, float]:
        """What is found now, by name: `rank_trunk`, `knn_` and `linear_` each question, and what `measure` gives."""
        with undisturbed(self.method):
            held, seen = (pooled(self.method.trunk, of) for of in (self.held, self.seen))
            count = min(-(-len(self.drawn.ids) // self.drawn.batch), BATCHES)
            terms = measure(self.method, [self._batch(number) for number in range(count)])
        for of in (self.held, self.seen, self.drawn):
            of.forget()
        found = {"rank_trunk": rank_me(held)}
        for one in self.tasks:
            near = neighbours_say(held[one.held], one.truth, one.patients)
            found[f"knn_{one.name}"] = balanced_accuracy(near, one.truth)
            chosen = few_patients(one.seen_truth, one.seen_patients, self.settings.few)
            said = linear_says(seen[one.seen][chosen], one.seen_truth[chosen], held[one.held])
            found[f"linear_{one.name}"] = balanced_accuracy(said, one.truth)
        return found | terms

    def _batch(self, number: int) -> Any:
        batch, device = self.drawn[number], next(self.method.parameters()).device
        return move_data_to_device(batch, device)

    def _judge(self, step: int) -> None:
        rows = read_rows(self.run)
        path = self.run / checkpoint.NAME
        if self.settings.stop and not collapsed(rows[-1:], 1) and path.exists():
            checkpoint.keep(path, self.run / HEALTHY)
        verdict = collapsed(rows, self.settings.patience)
        if verdict and self.settings.stop:
            kept = f"; {HEALTHY} holds the weights from before" if (self.run / HEALTHY).exists() else ""
            raise UserError(f"step {step}: collapsed: {verdict}{kept}")
        if verdict and not collapsed(rows[:-1], self.settings.patience):
            logging.getLogger("medssl").warning("step %d: collapsed: %s", step, verdict)


def read_rows(run: Path) -> list[dict[str, float]]:
    """What the looks of a run found, in order; empty when there were none."""
    return [{key: float(value) for key, value in row.items()} for row in read_log(run / TABLE)]


def some(rows: pd.DataFrame, volumes: int) -> pd.DataFrame:
    """At most `volumes` of the rows, patient after patient by lot, always the same ones; in the order in which they were."""
    patients = rows["patient_pid"].drop_duplicates()
    turn = pd.Series(np.random.default_rng(0).permutation(len(patients)), index=patients)
    order = rows["patient_pid"].map(turn).to_numpy().argsort(kind="stable")[:volumes]
    return rows.iloc[np.sort(order)].reset_index(drop=True)


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """While it lasts, `module` is in eval mode and has no gradients; then modes and random states are what they were."""
    modes = {part: part.training for part in module.modules()}
    device = next(module.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        module.eval()
        try:
            yield
        finally:
            for part, training in modes.items():
                part.training = training
