"""Batches of labelled and unlabelled scans together."""

from __future__ import annotations

from typing import NamedTuple

from torch.utils.data import Dataset

from medssl.views import Batch, Steps


class Mixed(NamedTuple):
    """What one step sees of several sets of scans; None of those that nobody asked for."""

    labelled: Batch
    unlabelled: Batch | None = None
    """Scans without labels, altered."""
    plain: Batch | None = None
    """The same scans unaltered."""
    judged: Batch | None = None
    """Labelled scans that nothing is fitted to: by these a way of learning is rewarded."""


class MixedSteps(Dataset[Mixed]):
    """The batches of a run by step number, of each set of scans."""

    def __init__(self, labelled: Steps, others: dict[str, Steps]) -> None:
        self.labelled, self.others = labelled, others

    def __getitem__(self, step: int) -> Mixed:
        return Mixed(self.labelled[step], **{name: steps[step] for name, steps in self.others.items()})
