"""Who answers: the models of one or several runs, which are asked together, and how they look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from medssl.errors import UserError
from medssl.heads import HEADS, Detect, Head, Segment
from medssl.learners import Supervised
from medssl.recipe import make, section_of, signature, typed
from medssl.views import Crops
from medssl.views.history import NOTHING, Told
from medssl.views.select import Selection, build_views

TRAINING_ONLY = {"drop", "loss", "gamma", "alpha"}
"""Settings of heads that say how to learn and not what is answered."""

LEARNED_FROM = {"train", "val"}
"""Splits that are another run's training patients where folds differ."""

OVERLAP = 0.5
"""Share by which neighbouring windows overlap."""


Where = Literal["source", "prepared"]
"""On which grid maps are written: that of the volume that was read, or that of the store."""


@dataclass(frozen=True, kw_only=True)
class Answering:
    """How runs are asked: together with further `runs`, mirrored along the axes `flips` in all ways, by windows that
    overlap by a share. `maps` is a folder for the label or detection maps found (None: none are written), on the grid of the
    source volume or on the prepared one; `pictures` one for those of the worst segmentations (see mistakes.py).
    """

    runs: tuple[Path, ...] = ()
    flips: tuple[int, ...] = ()
    overlap: float = OVERLAP
    maps: Path | None = None
    pictures: Path | None = None
    grid: Where = "source"

    def __post_init__(self) -> None:
        if any(axis not in range(3) for axis in self.flips):
            raise UserError(f"--flip: {max(self.flips)} is no axis of a volume; use 0, 1 or 2")
        if not 0 <= self.overlap < 1:
            raise UserError(f"--overlap: {self.overlap:g} is not a share from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Models that answer the same question about the same views; what they answer is the mean of their probabilities."""

    models: tuple[Supervised, ...]
    crops: Crops
    flips: tuple[int, ...] = ()
    overlap: float = OVERLAP

    def __post_init__(self) -> None:
        if any(axis >= len(self.crops.size) for axis in self.flips):
            raise UserError(f"--flip {max(self.flips)}: the views are flat, they can be mirrored along 0 and 1")

    @property
    def head(self) -> Head:
        """The head of the first model; the others answer the same."""
        return self.models[0].head

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return next(self.models[0].parameters()).device

    def probabilities(self, x: torch.Tensor, told: Told = NOTHING) -> torch.Tensor:
        """Probabilities for views (B, C, I, J, K), or series of them (B, T, C, I, J, K), K one where views are flat: (B,),
        (B, L) of several labels, or those of each class of voxels (B, classes, I, J, K).
        """
        flat = len(self.crops.size) == 2
        seen, told = (x[..., 0] if flat else x).to(self.device), told.to(self.device)
        found = sum((_probabilities(model, seen, told) for model in self.models), torch.zeros((), device=self.device))
        found = found / len(self.models)
        return found[..., None] if flat and isinstance(self.head, Segment | Detect) else found


def _probabilities(model: Supervised, x: torch.Tensor, told: Told) -> torch.Tensor:
    logits = model.answer(x, told).float()
    if isinstance(model.head, Segment):
        return torch.softmax(logits, 1)
    return torch.sigmoid(logits[:, None] if isinstance(model.head, Detect) else logits)


def agree(records: Mapping[Path, Mapping[str, Any]], splits: Sequence[str]) -> None:
    """Nothing; raises UserError where runs, by their records, do not answer the same question about `splits`.

    Where they learned from other stores (folds), a split that trainings look at may hold patients that one of them knows.
    """
    (first, known), *others = records.items()
    for run, record in others:
        for mine, wanted in zip(_facts(record), _facts(known), strict=True):
            for name in dict.fromkeys((*wanted, *mine)):
                if mine.get(name) != wanted.get(name):
                    raise UserError(
                        f"--with {run}: {name} is {mine.get(name)}, that of {first} is {wanted.get(name)}; only runs of one "
                        "head, views and preparation can answer together"
                    )
        if _dealt(record) != _dealt(known) and (seen := LEARNED_FROM & set(splits)):
            raise UserError(
                f"--with {run}: learned from another store or fold than {first}, whose split {min(seen)!r} may hold "
                "patients that it learned from; predict a split that none has seen, e.g. --split test"
            )


def _dealt(record: Mapping[str, Any]) -> tuple[str, int, int]:
    """What says who is in which split: the store, and into how many folds patients are dealt anew, and which is held out."""
    choice = make(Selection, record["recipe"].get("data", {}), "data")
    return record["store"], choice.folds, choice.fold


def _facts(record: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """What has to be the same, by the names of a recipe's settings: of the head, of views, of data and of preparation."""
    recipe = record["recipe"]
    head, crops = section_of(recipe["head"], "head"), build_views(recipe["views"]).crops
    maker, choice = HEADS[head.pop("name")], make(Selection, recipe.get("data", {}), "data")
    said = {name: one.default for name, one in signature(maker)[0].items() if one.default is not one.empty}
    said = {"name": recipe["head"]["name"]} | said | typed(maker, head, "head", ("trunk",))
    return (
        {f"head.{name}": value for name, value in said.items() if name not in TRAINING_ONLY},
        {"views.size": crops.size, "views.mm": crops.mm},
        {"data.modality": choice.modality, "data.role": choice.role, "data.channels": choice.channels},
        {f"prepare.{name}": value for name, value in record["prepared"]["settings"].items()},
    )
