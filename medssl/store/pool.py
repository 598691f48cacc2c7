"""Running one function over many jobs, in this process or in others that may die without taking the run along."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_all(
    function: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int, crashed: Callable[[Job], Result]
) -> Iterator[Result]:
    """The result of every job, as they finish. A job whose process dies gives `crashed(job)`; the others are done.

    An exception that `function` raises ends the run: what it can survive, it returns. With one worker all happens in
    this process; with more, in fresh ones (spawn: nothing is inherited).
    """
    if workers == 1:
        yield from map(function, jobs)
        return
    waiting = dict(enumerate(jobs))
    while waiting:
        yield from _until_crash(function, waiting, workers)
        # One of those in flight killed its process; run them one by one to find out which.
        for number in list(waiting)[: 2 * workers + 1]:
            yield from _until_crash(function, {number: waiting[number]}, 1, on_crash=crashed)
            del waiting[number]


def _until_crash(
    function: Callable[[Job], Result],
    waiting: dict[int, Job],
    workers: int,
    on_crash: Callable[[Job], Result] | None = None,
) -> Iterator[Result]:
    """Results of `waiting`, which loses those that are done. When a process dies, ends, or gives `on_crash(job)`."""
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(function, job): number for number, job in waiting.items()}
        try:
            for future in as_completed(running):
                result = future.result()
                if on_crash is None:
                    del waiting[running[future]]
                yield result
        except BrokenProcessPool:
            if on_crash is not None:
                yield from map(on_crash, waiting.values())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
