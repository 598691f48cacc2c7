"""One function over many units of work: in this process, in expendable ones, or on a Ray cluster.

A unit writes its own result to the disk and returns a small receipt, so what travels between processes stays small and
the engine makes no difference to the speed. A process that dies, hangs or takes too much memory costs the unit it was
working on and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from medssl.errors import UserError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

Unit = TypeVar("Unit")
Receipt = TypeVar("Receipt")
Engine = Literal["process", "ray"]

UNITS_PER_PROCESS = 200
"""Units after which a process is replaced by a fresh one: decoders leak memory."""

STARTING_SECONDS = 120.0
"""How long a fresh process may take to load what it needs."""

NOT_STARTED = (
    "worker processes cannot start; in a script, call it below `if __name__ == '__main__':` (they load the script anew), "
    "or use workers=0"
)

TOO_LITTLE = "memory_gb {:g}: too little for a worker process to begin with; raise it (--memory-gb), or use workers=0"

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl(2)."""

CRASHED, TIMEOUT, OUT_OF_MEMORY = "CRASHED", "TIMEOUT", "OUT_OF_MEMORY"
"""What may end a unit from outside."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """How work is shared: by `engine` "process" on this machine, by "ray" on the cluster at `address` ("": this one).

    With 0 `workers` all happens in this process, where nothing is limited and a crash ends the run. Elsewhere a unit
    that takes more than `memory_gb` of address space, or more than `seconds` for one file or volume, is given up.
    """

    workers: int = 0
    engine: Engine = "process"
    address: str = ""
    memory_gb: float = 8.0
    seconds: float = 120.0

    def __post_init__(self) -> None:
        if self.workers < 0 or not self.memory_gb > 0 or not self.seconds > 0:
            raise UserError(f"{self}: workers may not be negative, memory_gb and seconds must be above 0")


HERE = Work()
"""All in this process."""


def share_from(text: str) -> tuple[int, int]:
    """Share i of n from "i/n". Raises UserError for anything else."""
    told = re.fullmatch(r"(\d+)/(\d+)", text)
    if not told or not 1 <= int(told.group(1)) <= int(told.group(2)):
        raise UserError(f"--shard {text}: write i/n with i from 1 to n, e.g. --shard 3/16")
    return int(told.group(1)), int(told.group(2))


def map_units(
    function: Callable[[Unit], Receipt],
    units: Sequence[Unit],
    work: Work,
    *,
    failed: Callable[[Unit, str], Receipt],
    seconds: Callable[[Unit], float] | None = None,
) -> Iterator[Receipt]:
    """The receipt of every unit, as they finish; that of a unit ended from outside is `failed(unit, code)`.

    The codes are CRASHED, TIMEOUT and OUT_OF_MEMORY. `seconds` tells the time limit of a unit (`work.seconds` without
    it). An exception that `function` raises ends the run: what it can survive, it returns. Units and receipts are
    pickled, and `function` must be importable: fresh processes inherit nothing.
    """
    limit = seconds or (lambda _: work.seconds)
    if not units:
        return
    if work.engine == "ray":
        yield from _on_ray(function, units, work, failed, limit)
    elif work.workers == 0:
        yield from map(function, units)
    else:
        yield from _in_processes(function, units, work, failed, limit)


@dataclass(kw_only=True)
class _Worker:
    """A process that serves units, and the unit it has in hand."""

    process: BaseProcess
    pipe: Connection
    unit: Any = None
    deadline: float = 0.0
    served: int = 0
    ready: bool = False


def _in_processes(
    function: Callable[[Unit], Receipt],
    units: Sequence[Unit],
    work: Work,
    failed: Callable[[Unit, str], Receipt],
    limit: Callable[[Unit], float],
) -> Iterator[Receipt]:
    from multiprocessing.connection import wait

    waiting = deque(units)
    workers: list[_Worker] = []
    try:
        while waiting or workers:
            while waiting and len(workers) < work.workers:
                workers.append(_started(function, work))
                _give(workers[-1], waiting.popleft(), limit)
            patience = max(0.0, min(worker.deadline for worker in workers) - time.monotonic())
            ready = wait([worker.pipe for worker in workers], patience)
            for worker in list(workers):
                if worker.pipe in ready:
                    told, content = _answer(worker)
                elif time.monotonic() >= worker.deadline:
                    told, content = "ended", TIMEOUT
                else:
                    continue
                if told == "ready":
                    worker.ready, worker.deadline = True, time.monotonic() + limit(worker.unit)
                    continue
                if not worker.ready:
                    raise UserError(NOT_STARTED)
                if told == "raised":
                    raise content
                if told == "ended" or not waiting or worker.served >= UNITS_PER_PROCESS:
                    _stop(worker, at_once=told == "ended")
                    workers.remove(worker)
                unit = worker.unit
                if worker in workers:
                    _give(worker, waiting.popleft(), limit)
                yield failed(unit, str(content)) if told == "ended" else content
    finally:
        for worker in workers:
            _stop(worker, at_once=True)


def _started(function: Callable[[Any], Any], work: Work) -> _Worker:
    from multiprocessing import get_context

    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, function, work.memory_gb), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process=process, pipe=ours)


def _give(worker: _Worker, unit: Any, limit: Callable[[Any], float]) -> None:
    worker.unit, worker.served = unit, worker.served + 1
    worker.deadline = time.monotonic() + (limit(unit) if worker.ready else STARTING_SECONDS)
    # One that died says so through its pipe to whoever waits for the answer.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        worker.pipe.send(unit)


def _answer(worker: _Worker) -> tuple[str, Any]:
    try:
        return worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        return "ended", CRASHED


def _stop(worker: _Worker, *, at_once: bool) -> None:
    if at_once:
        worker.process.kill()
    worker.pipe.close()
    worker.process.join()
    worker.process.close()


def _serve(pipe: Connection, function: Callable[[Any], Any], memory_gb: float) -> None:
    """Nothing; answers units until the other side closes the pipe."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it ends this process
    _end_with_parent()
    _bound(memory_gb)
    # Native decoders print names of files and values of tags; nothing of a patient may reach a log.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    pipe.send(("ready", None))
    while True:
        try:
            unit = pipe.recv()
        except EOFError:
            return
        except (MemoryError, ImportError):  # a library of the unit's own kind cannot be loaded either
            pipe.send(("raised", UserError(TOO_LITTLE.format(memory_gb))))
            return
        told, content = _result(function, unit)
        try:
            pipe.send((told, content))
        except Exception:  # an error that cannot be pickled; its text could name a patient
            pipe.send(("raised", RuntimeError(f"{type(content).__name__} in a worker process")))


def _result(function: Callable[[Any], Any], unit: Any) -> tuple[str, Any]:
    try:
        return "done", function(unit)
    except MemoryError:
        return "ended", OUT_OF_MEMORY
    except Exception as error:
        error.add_note("in a worker process:\n" + traceback.format_exc())
        return "raised", error


def _end_with_parent() -> None:
    """Nothing; on Linux the system ends this process when its parent is killed: no orphan writes beside the next run."""
    import ctypes
    import signal

    with contextlib.suppress(OSError, AttributeError):  # another system: the closed pipe ends it after its unit
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _bound(memory_gb: float) -> None:
    """Nothing; from here on this process gets MemoryError instead of so much more address space, and no core file."""
    import resource

    # On Linux, what is mapped now (Ray maps its whole object store) does not count.
    statm = Path("/proc/self/statm")
    there = int(statm.read_text().split()[0]) * resource.getpagesize() if statm.exists() else 0
    limit, hard = there + int(memory_gb * 2**30), resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _on_ray(
    function: Callable[[Unit], Receipt],
    units: Sequence[Unit],
    work: Work,
    failed: Callable[[Unit, str], Receipt],
    limit: Callable[[Unit], float],
) -> Iterator[Receipt]:
    """As `_in_processes`; a unit that takes too long is told as CRASHED, for Ray does not say why a process ended."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a hospital's machine reports to nobody
    import logging

    try:
        import ray
    except ImportError:
        raise UserError(
            "engine ray: Ray is not installed; pip install 'medssl[ray]', or use --engine process"
        ) from None
    ray.init(
        address=work.address or None,
        num_cpus=None if work.address else max(1, work.workers),
        include_dashboard=None if work.address else False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        task = ray.remote(num_cpus=1, max_retries=0, max_calls=UNITS_PER_PROCESS)(_on_node)
        waiting = deque(units)
        running: dict[Any, Unit] = {}
        while waiting or running:
            slots = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))  # nodes may come and go
            while waiting and len(running) < slots:
                unit = waiting.popleft()
                running[task.remote(function, unit, limit(unit), work.memory_gb)] = unit
            for reference in ray.wait(list(running), num_returns=1)[0]:
                unit = running.pop(reference)
                try:
                    told, content = ray.get(reference)
                except ray.exceptions.WorkerCrashedError:
                    told, content = "ended", CRASHED
                if told == "raised":
                    raise content
                yield failed(unit, str(content)) if told == "ended" else content
    finally:
        ray.shutdown()


def _on_node(function: Callable[[Any], Any], unit: Any, seconds: float, memory_gb: float) -> tuple[str, Any]:
    """What a unit comes to in one of Ray's processes, which ends with it when it takes too long."""
    import threading

    _bound(memory_gb)
    watchdog = threading.Timer(seconds, os._exit, [1])
    watchdog.daemon = True
    watchdog.start()
    try:
        return _result(function, unit)
    finally:
        watchdog.cancel()
