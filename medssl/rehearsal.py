"""A rehearsal: what a training will need, measured on a few real steps before days are spent on it.

The steps are `fit`'s own, with the recipe's batches, workers, precision and learning rates, in a folder that is removed
afterwards. What is measured is this machine as it is now. Volumes are read for the first time, as in the first pass of a
training; a set that fits the cache of a process (see views/draw.py) is read faster from the second pass on.
"""

from __future__ import annotations

import math
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch.utils.data import Dataset
from torch.utils.tensorboard import SummaryWriter

from medssl import adapt, checkpoint, train
from medssl.learners import MixedSteps
from medssl.place import ask_alone
from medssl.progress import Progress, silent
from medssl.recipe import Section
from medssl.runs import TIMES, read_log
from medssl.store import Store, open_store
from medssl.train import Plan, fit
from medssl.views import Steps
from medssl.views.draw import CACHE_BYTES, KEPT

T = TypeVar("T")
Kind = Literal["pretrain", "finetune"]

PLANS = {"pretrain": train.plan, "finetune": adapt.plan}

FIRST = 2
"""Steps that warm up caches, workers and compilers; their times do not count."""

LEAST, MOST, SECONDS = 4, 20, 30.0
"""How many steps count: as many as fit into so many seconds, but at least and at most so many (rounds of all workers)."""

SLOW_FEED = 0.2
"""Share of a step spent waiting for batches, above which the loader is the bottleneck."""

BUSY = 0.5
"""Load of each core, from others, above which times are not those of this machine alone."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a training needs: seconds, and bytes of memory."""

    kind: Kind
    device: str
    precision: str
    volumes: int
    parameters: int
    trained: int
    scans: int
    """Scans that a step takes."""
    steps: int
    """Steps of the recipe."""
    counted: int
    """Steps that were measured."""
    step: float
    """Seconds a step: the median, over rounds of as many steps as there are workers, of their mean."""
    data: float
    """Of these, seconds for which the network waits for its batches; the rest is the network's."""
    workers: int
    other: dict[str, tuple[int, float]]
    """How often, and how long each time: checkpoints, pictures and looks of the whole training."""
    peak: int
    weights: int
    optimizer: int
    kept: int
    """Bytes of decoded volumes that each process that draws batches comes to keep in the course of the training."""
    cores: int
    load: float = 0.0
    """What else the machine was doing before the rehearsal: processes that want a core."""

    @property
    def network(self) -> float:
        """Seconds a step in which the weights learn."""
        return self.step - self.data

    @property
    def total(self) -> float:
        """Seconds of the whole training."""
        return self.steps * self.step + sum(count * seconds for count, seconds in self.other.values())

    def lines(self, per_hour: float = 0.0) -> list[str]:
        """What to tell a user; with `per_hour`, the price of an hour of this machine, also the price of the training."""
        passes = self.steps * self.scans / self.volumes
        extra = ", ".join(f"{n} {what} of {span(each)}" for what, (n, each) in self.other.items())
        told = [
            f"{self.volumes} volumes; {self.parameters:,} parameters, of which {self.trained:,} are trained",
            f"on {self.device}, {self.precision}",
            f"memory: peak {size(self.peak)}, of which weights {size(self.weights)}, optimizer {size(self.optimizer)}; "
            f"in time {size(self.kept)} more of volumes in each of {max(self.workers, 1)} processes",
            f"a step of {self.scans} scans: {span(self.step)} = {span(self.data)} waiting for data + "
            f"{span(self.network)} network (median of {self.counted} steps)",
            f"{self.steps} steps, {passes:.3g} passes over the volumes: {span(self.total)} with {extra}",
        ]
        if per_hour:
            told.append(f"price: {self.total / 3600 * per_hour:,.2f} at {per_hour:g} an hour")
        return told + self._warnings()

    def _warnings(self) -> list[str]:
        if self.load <= BUSY * self.cores:
            return self._slow_feed()
        told = f"warning: this machine has other work (load {self.load:.1f} on {self.cores} cores); alone it is faster"
        return [told, *self._slow_feed()]

    def _slow_feed(self) -> list[str]:
        if self.data <= SLOW_FEED * self.step:
            return []
        # Workers draw side by side: so many keep up with the network.
        drawing = max(self.workers, 1) * (self.step if self.workers else self.data)
        wanted = math.ceil(drawing / max(self.network, 1e-9))
        free = max(self.cores - 1, 0)
        told = f"warning: the loader is the bottleneck, {self.data / self.step:.0%} of a step is waiting for data; "
        if min(wanted, free) > self.workers:
            return [told + f"raise {self.kind}.workers from {self.workers} to {min(wanted, free)}"]
        return [
            told + f"all {self.cores} cores have work to do: put the store on a local disk, or lower views.size, "
            "views.count or views.small.count"
        ]


@dataclass
class Clock:
    """Reads the time where `fit` lets others in: before each step, after it, and after its checkpoint."""

    seconds: list[float] = field(default_factory=list)
    begun: float = 0.0
    ended: float = 0.0

    def progress(self, items: Iterable[T], description: str, total: int, done: int = 0) -> Iterator[T]:
        """The items; before each the clock starts."""
        for item in items:
            self.begun = time.perf_counter()
            yield item

    def watch(self, step: int, board: SummaryWriter) -> None:
        """Nothing; the step has been timed."""
        self.ended = time.perf_counter()
        self.seconds.append(self.ended - self.begun)


def rehearse(
    recipe: Section,
    store: Path | str,
    kind: Kind,
    *,
    start: Path | str | None = None,
    progress: Progress = silent,
) -> Cost:
    """What the training `kind` of a recipe would need on this machine. It takes about `SECONDS` seconds and at least
    `FIRST + LEAST` steps; nothing of it stays.

    Raises UserError for all that the training itself would refuse.
    """
    ask_alone("--dry-run")
    store_, load = open_store(store), os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    planned = PLANS[kind](recipe, store_, start)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory(prefix="medssl-") as folder:
        run = Path(folder)
        (_, second), _, _ = _steps(planned, run, FIRST, silent)
        workers = planned.settings.workers
        rounds = max(workers, 1)
        count = min(max(int(SECONDS / second), LEAST), MOST)
        seconds, waiting, saving = _steps(planned, run, FIRST + math.ceil(count / rounds) * rounds + 1, progress)
        looking = _look(planned, recipe, store_, run) if kind == "pretrain" else {}
        tensors = checkpoint.read(run / checkpoint.NAME)
    # The first of these steps waited for its workers to start; the last one also drew a picture.
    step = _typical(seconds[1:], rounds)
    drawing = max(seconds[-1] - statistics.median(seconds[1:-1]), 0.0)
    settings, parameters = planned.settings, list(planned.model.parameters())
    return Cost(
        kind=kind,
        device=_device(parameters[0].device),
        precision=settings.precision,
        volumes=planned.facts["volumes"],
        parameters=sum(p.numel() for p in parameters),
        trained=sum(p.numel() for p in parameters if p.requires_grad),
        scans=settings.batch * settings.accumulate,
        steps=settings.steps,
        counted=len(seconds) - 1,
        step=step,
        data=min(_typical(waiting[1:], rounds), step),
        workers=workers,
        other={
            "checkpoints": (math.ceil(settings.steps / settings.save_every), saving),
            "pictures": (_often(settings.steps, settings.picture_every), drawing),
            **looking,
        },
        peak=_peak(parameters[0].device),
        weights=_bytes(tensors, checkpoint.MODEL),
        optimizer=_bytes(tensors, checkpoint.OPTIMIZER),
        kept=_kept(planned.batches),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        load=load,
    )


def _steps(planned: Plan, run: Path, until: int, progress: Progress) -> tuple[list[float], list[float], float]:
    """The seconds of each step up to `until`, those waiting for data, and those of a checkpoint."""
    settings, clock = planned.settings, Clock()
    whole = train.cosine(settings.lr, settings.steps, settings.warmup)
    rates = (whole + [0.0] * until)[:until]
    short = replace(settings, steps=until, log_every=1, save_every=until, picture_every=until)
    progress = clock.progress if progress is silent else _both(clock, progress)
    fit(planned.model, planned.batches, short, run, progress, clock.watch, rates)
    saving = time.perf_counter() - clock.ended
    return clock.seconds, [float(row["waiting"]) for row in read_log(run / TIMES)][-len(clock.seconds) :], saving


def _both(clock: Clock, progress: Progress) -> Progress:
    def shown(items: Iterable[T], description: str, total: int, done: int = 0) -> Iterator[T]:
        yield from clock.progress(progress(items, "rehearsing", total, done), description, total, done)

    return shown


def _look(planned: Plan, recipe: Section, store: Store, run: Path) -> dict[str, tuple[int, float]]:
    """How often the training looks at held-out patients, and how long once takes."""
    online = train.watching(planned, recipe, store, run)
    if online is None:
        return {}
    begun = time.perf_counter()
    online.look()
    seconds = time.perf_counter() - begun
    return {"looks": (_often(planned.settings.steps, online.settings.every), seconds)}


def _often(steps: int, every: int) -> int:
    """How often something happens that happens at the first step, every so many steps, and at the last."""
    return len({*range(0, steps, every), steps - 1})


def _typical(seconds: list[float], rounds: int) -> float:
    """The median over rounds of their mean: with several workers, batches come in rounds, and most cost no wait at all."""
    means = [statistics.fmean(seconds[n : n + rounds]) for n in range(0, len(seconds), rounds)]
    return statistics.median(means)


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} with {torch.get_num_threads()} threads"


def _peak(device: torch.device) -> int:
    """Bytes at most: of the device's memory that tensors took, or of the main process where there is no device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _kept(batches: Dataset[Any]) -> int:
    """Bytes of the volumes that are small enough to be kept once they have been read, two a voxel and one of a mask."""
    if isinstance(batches, MixedSteps):
        return sum(_kept(one) for one in (batches.labelled, *batches.others.values()))
    assert isinstance(batches, Steps)
    store = batches.store
    channels = store.volumes.set_index("volume_id")["channels"].astype(int)
    mask = int(batches.target == "mask")
    volumes = {one for visits in batches.history.volumes for one in visits}
    voxels = [(math.prod(store.shape(one)), int(channels[one])) for one in volumes]
    return min(sum(n * (2 * c + mask) for n, c in voxels if 2 * n <= CACHE_BYTES // KEPT), CACHE_BYTES)


def _bytes(tensors: dict[str, torch.Tensor], prefix: str) -> int:
    return sum(tensor.nbytes for name, tensor in tensors.items() if name.startswith(prefix))


def span(seconds: float) -> str:
    """A time as people say it: 2 d 3 h, 1 h 5 min, 3 min 20 s, 1.25 s, 12 ms."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    for large, small, name, part in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if whole >= large:
            return f"{whole // large} {name} {whole % large // small} {part}"
    raise AssertionError(seconds)


def size(count: int) -> str:
    """Bytes as people say them: 1.31 GB, 12.5 MB."""
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
