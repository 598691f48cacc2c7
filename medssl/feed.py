"""The batches of a training in their order, and how long the network waited for them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from medssl.asked import deaf
from medssl.errors import UserError
from medssl.store.layout import Damaged
from medssl.views import Batch

Told = UserError | Damaged | OSError
"""Errors with words for the user, which a worker hands over as they are: torch would wrap them in a traceback."""


class Spoken(Dataset["Batch | Told"]):
    """The batches of another dataset, or the error in place of one."""

    def __init__(self, batches: Dataset[Batch]) -> None:
        self.batches = batches

    def __getitem__(self, number: int) -> Batch | Told:
        try:
            return self.batches[number]
        except (UserError, Damaged, OSError) as error:
            return error


class Feed:
    """Gives `batches[number]` for each number of `order`, drawn ahead by so many `workers` (0: by this process, in time).

    Workers do not hear the signals that ask a training to stop: schedulers send them to every process of a job, and a
    worker that died of one would take with it the step that the main process still means to end and save.
    """

    def __init__(self, batches: Dataset[Batch], order: Sequence[int], workers: int) -> None:
        self.waited = 0.0
        self.begun = time.perf_counter()
        with deaf():
            loader = DataLoader(Spoken(batches), None, sampler=order, num_workers=workers)
            self.source: Iterator[Batch | Told] = iter(loader)

    def __next__(self) -> Batch:
        begun = time.perf_counter()
        batch = next(self.source)
        self.waited += time.perf_counter() - begun
        if isinstance(batch, Exception):
            raise batch
        return batch

    def close(self) -> None:
        """Nothing; the workers have ended. Python would end them at exit, by a signal that they do not hear, and wait."""
        if isinstance(self.source, _MultiProcessingDataLoaderIter):
            self.source._shutdown_workers()

    def lap(self) -> dict[str, float]:
        """`seconds` since the lap before, and of those the ones `waiting` for batches."""
        now = time.perf_counter()
        told = {"seconds": now - self.begun, "waiting": self.waited}
        self.begun, self.waited = now, 0.0
        return told
