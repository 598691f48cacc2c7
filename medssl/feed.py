"""The batches of a training in their order, and how long the network waited for them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from torch.utils.data import DataLoader, Dataset

from medssl.asked import deaf
from medssl.views import Batch


class Feed:
    """Gives `batches[number]` for each number of `order`, drawn ahead by so many `workers` (0: by this process, in time).

    Workers do not hear the signals that ask a training to stop: schedulers send them to every process of a job, and a
    worker that died of one would take with it the step that the main process still means to end and save.
    """

    def __init__(self, batches: Dataset[Batch], order: Sequence[int], workers: int) -> None:
        self.waited = 0.0
        self.begun = time.perf_counter()
        with deaf():
            self.source: Iterator[Batch] = iter(DataLoader(batches, None, sampler=order, num_workers=workers))

    def __next__(self) -> Batch:
        begun = time.perf_counter()
        batch = next(self.source)
        self.waited += time.perf_counter() - begun
        return batch

    def lap(self) -> dict[str, float]:
        """`seconds` since the lap before, and of those the ones `waiting` for batches."""
        now = time.perf_counter()
        told = {"seconds": now - self.begun, "waiting": self.waited}
        self.begun, self.waited = now, 0.0
        return told
