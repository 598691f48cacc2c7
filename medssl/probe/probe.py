"""The questions that are put to a run's frozen features, and the answers side by side with those of an untrained trunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from torch import nn

from medssl.errors import UserError
from medssl.probe.features import features_of, read_trunk, views_of
from medssl.probe.findings import UNKNOWN, Findings, Lines, Question, advice
from medssl.probe.guard import collapsed
from medssl.probe.health import layers_of, token_similarity
from medssl.probe.intervals import accuracy_interval, lots_interval
from medssl.probe.linear import FEW, few_patients, linear_says
from medssl.probe.neighbours import balanced_accuracy, neighbours_say
from medssl.probe.online import Looking, read_rows
from medssl.probe.questions import Task, answers, names, task
from medssl.probe.rank import rank_me
from medssl.progress import Progress, silent
from medssl.store import Store, open_store

LOTS = 5
"""Lots of labelled patients that the linear probe learns from, each by itself."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the findings rest on: the held-out rows and the features (N, dim) that the trunk makes of them; and those that it
    learned from (`seen_rows`, `seen`).
    """

    run: Path
    store: Store
    rows: pd.DataFrame
    features: np.ndarray
    untrained: np.ndarray
    seen_rows: pd.DataFrame
    seen: np.ndarray
    findings: Findings


def probe(
    run: Path | str,
    store: Path | str,
    *,
    split: str = "val",
    few: Sequence[int] = (FEW,),
    hold_out: str = "",
    progress: Progress = silent,
) -> Findings:
    """What the trunk of a run tells of volumes in `split`, never of those it learned from: see `examine`."""
    return examine(run, store, split=split, few=few, hold_out=hold_out, progress=progress).findings


def examine(
    run: Path | str,
    store: Path | str,
    *,
    split: str = "val",
    few: Sequence[int] = (FEW,),
    hold_out: str = "",
    progress: Progress = silent,
) -> Evidence:
    """What the trunk of a run tells of volumes in `split`, with what is needed to draw it.

    For each label and attribute: the vote of the nearest neighbours among other patients of the split; with `hold_out` (a
    column: scanner, site) also of those neighbours that differ in it; and a logistic regression learned on each number in
    `few` of labelled patients of the training split, over several lots of them. Every number stands beside that of the same
    trunk untrained: what chance makes is often not bad. Raises UserError for too few patients.
    """
    run, store_ = Path(run), open_store(store)
    if split == "train":
        raise UserError("split train: the trunk has learned from these; use val, or test once all is decided")
    held, rows = features_of(run, store_, split, progress=progress)
    seen, seen_rows = features_of(run, store_, "train", progress=progress)
    raw, _ = features_of(run, store_, split, trained=False, progress=progress)
    raw_seen, _ = features_of(run, store_, "train", trained=False, progress=progress)
    patients = rows["patient_pid"].nunique()
    if patients < 3:
        raise UserError(f"split {split}: {patients} patients, of whom nothing can be said; use a larger one")
    if hold_out and hold_out not in rows.columns:
        raise UserError(f"hold-out {hold_out}: the store has no such column; use scanner or site")
    apart = rows[hold_out].astype(str).to_numpy() if hold_out else None
    questions = [
        _ask(one, ((held, seen), (raw, raw_seen)), sorted(set(few)), None if name == hold_out else apart)
        for name in names(store_, rows)
        if (one := task(store_, rows, seen_rows, name))
    ]
    labels = set(store_.labels["name"])
    trunk = read_trunk(run)
    layers = layers_of(cast(nn.Module, trunk))
    found = Findings(
        split=split, volumes=len(rows), patients=patients,
        questions=tuple(replace(question, label=question.name in labels) for question in questions),
        rank=rank_me(held), rank_untrained=rank_me(raw),
        dead=float(np.mean([layer.dead for layer in layers])) if layers else 0.0,
        variety=float(np.mean([layer.variety for layer in layers])) if layers else 1.0,
        layers=layers, tokens=token_similarity(trunk, views_of(run, store_, rows)),
        collapse=collapsed(read_rows(run), Looking.patience), held_out=hold_out, advice=(),
    )  # fmt: skip
    found = replace(found, advice=tuple(advice(found, min(held.shape))))
    return Evidence(
        run=run, store=store_, rows=rows, features=held, untrained=raw, seen_rows=seen_rows, seen=seen, findings=found
    )


def words(evidence: Evidence, name: str) -> np.ndarray:
    """The answers to a question of the held-out rows (N,) as words; "" where it is not known."""
    return answers(evidence.store, evidence.rows, name).to_numpy()


Side = tuple[np.ndarray, np.ndarray]
"""Features of the held-out rows, and of those that may be learned from."""


def _ask(one: Task, sides: tuple[Side, Side], few: Sequence[int], apart: np.ndarray | None) -> Question:
    """The answers to one question, of the trained trunk (first) and of the untrained one."""
    near = [neighbours_say(held[one.held], one.truth, one.patients) for held, _ in sides]
    far = [np.full(len(one.truth), -1)] * 2
    if apart is not None:
        far = [neighbours_say(held[one.held], one.truth, one.patients, apart=apart[one.held]) for held, _ in sides]
    asked = apart is not None and bool((far[0] >= 0).all())
    most = len(set(one.seen_patients))
    curve = tuple(_lines(one, sides, number) for number in sorted({min(number, most) for number in few}))
    return Question(
        name=one.name, classes=len(one.classes), patients=len(set(one.patients)), chance=1 / len(one.classes),
        neighbours=balanced_accuracy(near[0], one.truth), neighbours_untrained=balanced_accuracy(near[1], one.truth),
        neighbours_interval=accuracy_interval(near[0], one.truth, one.patients),
        elsewhere=balanced_accuracy(far[0], one.truth) if asked else float("nan"),
        elsewhere_untrained=balanced_accuracy(far[1], one.truth) if asked else float("nan"),
        elsewhere_interval=accuracy_interval(far[0], one.truth, one.patients) if asked else UNKNOWN,
        linear=curve[-1].value, linear_untrained=curve[-1].untrained, curve=curve,
    )  # fmt: skip


def _lines(one: Task, sides: tuple[Side, Side], few: int) -> Lines:
    """The linear probe by `few` labelled patients, over several lots of them; one where they are all there are."""
    lots = LOTS if few < len(set(one.seen_patients)) else 1
    said: list[list[np.ndarray]] = []
    for held, seen in sides:
        chosen = [few_patients(one.seen_truth, one.seen_patients, few, seed=lot) for lot in range(lots)]
        said.append([linear_says(seen[one.seen][of], one.seen_truth[of], held[one.held]) for of in chosen])
    value, untrained = (float(np.mean([balanced_accuracy(lot, one.truth) for lot in side])) for side in said)
    interval = lots_interval(said[0], one.truth, one.patients)
    return Lines(few=few, lots=lots, value=value, interval=interval, untrained=untrained)
