"""Being asked to stop: a scheduler's signal, heard at the end of a step, so that nothing done is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = signal.SIGTERM, signal.SIGUSR1
"""What Slurm sends before it kills: at the end of the time or on scancel, and with --signal=USR1@60."""


@contextmanager
def listening() -> Iterator[threading.Event]:
    """An event that is set once one of `SIGNALS` has come; inside the block they do not end the process.

    Outside of the main thread Python hears no signals: the event is never set and nothing changes.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, lambda *_: asked.set()) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deaf() -> Iterator[None]:
    """While it lasts, `SIGNALS` wait; a process that starts inside of it never hears them, from its first moment on.

    That is so because a process begins with the blocked signals of the thread that starts it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
