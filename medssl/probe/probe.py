"""The questions that are put to a run's frozen features, and the answers side by side with those of an untrained trunk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from torch import nn

from medssl.errors import UserError
from medssl.probe.features import features_of, read_trunk
from medssl.probe.linear import FEW, few_patients, linear_says
from medssl.probe.neighbours import balanced_accuracy, neighbours_say
from medssl.probe.questions import Task, names, task
from medssl.probe.rank import dead_filters, rank_me, variety
from medssl.progress import Progress, silent
from medssl.store import open_store

GATE = 0.1
"""How far above chance the scanner may be read from the neighbours before it is called a leak."""

COLLAPSED = 0.05
"""Effective rank, as a share of what there could be, below which features count as collapsed."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A thing that may be read from the features: balanced accuracies of held-out patients, and that of chance."""

    name: str
    classes: int
    patients: int
    chance: float
    neighbours: float
    neighbours_untrained: float
    linear: float
    linear_untrained: float


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found; `advice` says what to do about it, empty when nothing is wrong."""

    split: str
    volumes: int
    patients: int
    questions: tuple[Question, ...]
    rank: float
    rank_untrained: float
    dead: float
    variety: float
    advice: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{self.volumes} volumes of {self.patients} patients ({self.split}); balanced accuracy, untrained in brackets:",
            f"  {'':<14} {'chance':>7} {'neighbours':>15} {'line':>15}",
        ]
        lines += [
            f"  {q.name:<14} {q.chance:>7.2f} {q.neighbours:>8.2f} ({q.neighbours_untrained:.2f}) "
            f"{q.linear:>8.2f} ({q.linear_untrained:.2f})"
            for q in self.questions
        ]
        lines.append(f"  directions in use: {self.rank:.1f} ({self.rank_untrained:.1f}); dead filters {self.dead:.0%}; "
                     f"variety of kernels {self.variety:.2f}")  # fmt: skip
        return "\n".join([*lines, *(f"  advice: {text}" for text in self.advice)])


def probe(
    run: Path | str, store: Path | str, *, split: str = "val", few: int = FEW, progress: Progress = silent
) -> Findings:
    """What the trunk of a run tells of volumes in `split`, never of those it learned from.

    For each label and attribute: the vote of the nearest neighbours among other patients of the split, and a logistic
    regression learned on `few` labelled patients of the training split. Every number stands beside that of the same trunk
    untrained: what chance makes is often not bad. Raises UserError for too few patients.
    """
    run, store_ = Path(run), open_store(store)
    if split == "train":
        raise UserError("split train: the trunk has learned from these; use val, or test once all is decided")
    sides = {}
    for trained in (True, False):
        held, rows = features_of(run, store_, split, trained=trained, progress=progress)
        seen, seen_rows = features_of(run, store_, "train", trained=trained, progress=progress)
        sides[trained] = held, seen
    patients = rows["patient_pid"].to_numpy()
    if len(set(patients)) < 3:
        raise UserError(f"split {split}: {len(set(patients))} patients, of whom nothing can be said; use a larger one")
    tasks = (task(store_, rows, seen_rows, name) for name in names(store_, rows))
    questions = [_ask(one, sides, few) for one in tasks if one]
    weights = [
        module.weight.detach().numpy()
        for module in cast(nn.Module, read_trunk(run)).modules()
        if isinstance(module, nn.Conv2d | nn.Conv3d) and min(module.kernel_size) > 1
    ]
    ranks = [rank_me(sides[trained][0]) for trained in (True, False)]
    found = Findings(
        split=split, volumes=len(rows), patients=len(set(patients)), questions=tuple(questions),
        rank=ranks[0], rank_untrained=ranks[1],
        dead=float(np.mean([dead_filters(weight) for weight in weights])) if weights else 0.0,
        variety=float(np.mean([variety(weight) for weight in weights])) if weights else 1.0, advice=(),
    )  # fmt: skip
    return Findings(**{**vars(found), "advice": tuple(_advice(found, min(sides[True][0].shape)))})


def _ask(one: Task, sides: dict[bool, tuple[np.ndarray, np.ndarray]], few: int) -> Question:
    """The answers to one question, of the trained trunk and of the untrained one."""
    chosen = few_patients(one.seen_truth, one.seen_patients, few)
    numbers = []
    for trained in (True, False):
        held, learned = sides[trained]
        said = neighbours_say(held[one.held], one.truth, one.patients)
        line = linear_says(learned[one.seen][chosen], one.seen_truth[chosen], held[one.held])
        numbers.append((balanced_accuracy(said, one.truth), balanced_accuracy(line, one.truth)))
    return Question(
        name=one.name, classes=len(one.classes), patients=len(set(one.patients)), chance=1 / len(one.classes),
        neighbours=numbers[0][0], neighbours_untrained=numbers[1][0],
        linear=numbers[0][1], linear_untrained=numbers[1][1],
    )  # fmt: skip


def _advice(found: Findings, most: int) -> list[str]:
    """What to do about what was found."""
    advice = []
    for question in found.questions:
        above = question.neighbours - question.chance
        if question.name == "scanner" and above > GATE:
            advice.append(
                f"the scanner can be read from the features ({question.neighbours:.2f}, chance {question.chance:.2f}): take "
                "negatives from the same scanner only (same_scanner: true), and stronger changes of intensity"
            )
    if found.rank < max(2.0, COLLAPSED * most):
        advice.append(
            f"the features use {found.rank:.1f} of {most} directions: they have collapsed; raise the batch, add vicreg, or "
            "lower the rate"
        )
    if found.dead > GATE:
        advice.append(f"{found.dead:.0%} of the filters do nothing: lower the rate or the weight decay")
    return advice
