"""Showing long work: a bar on a terminal, a plain line now and then elsewhere (log files, schedulers)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 20.0
"""How often a plain line is written where there is no terminal."""


class Progress(Protocol):
    """Passes items on and shows how many of `total` are done; `done` were done before (a resumed run)."""

    def __call__(self, items: Iterable[T], description: str, total: int, done: int = 0) -> Iterator[T]: ...


def silent(items: Iterable[T], description: str, total: int, done: int = 0) -> Iterator[T]:
    """The items; nothing is shown."""
    yield from items


def shown(items: Iterable[T], description: str, total: int, done: int = 0) -> Iterator[T]:
    """The items, with a bar on a terminal and plain lines on standard error elsewhere."""
    return _bar(items, description, total, done) if sys.stderr.isatty() else _lines(items, description, total, done)


def _bar(items: Iterable[T], description: str, total: int, done: int) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<26}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total, completed=done)
        for item in items:
            yield item
            bar.advance(task)


def _lines(items: Iterable[T], description: str, total: int, done: int) -> Iterator[T]:
    started = told = time.monotonic()
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - told > SECONDS_BETWEEN_LINES or done == total:
            told = now
            print(f"{description}: {done} of {total}, {now - started:.0f} s", file=sys.stderr, flush=True)  # noqa: T201
