"""The one loop: every training, with or without labels, passes through `fit`.

The batch, the mask and the dropout of a step depend on (seed, step) alone, and the checkpoint holds everything else, so
a run that was killed and started again ends in the same bits as one that was not (on one device with one thread count).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, cast

import pandas as pd
import torch
from lightning_fabric import Fabric
from torch.utils.data import Dataset
from torch.utils.tensorboard import SummaryWriter

from medssl import checkpoint, processes
from medssl.asked import listening
from medssl.compiling import compile_parts
from medssl.divergence import Rise
from medssl.domain import write_ranges
from medssl.errors import UserError
from medssl.feed import Feed
from medssl.idle import Idle
from medssl.methods import Method, build_method
from medssl.pictures import save_picture
from medssl.place import Strategy, join
from medssl.probe.online import Online
from medssl.progress import Progress, silent
from medssl.recipe import Count, Positive, Section, Share, Weight, Whole, make
from medssl.runs import TIMES, Log, occupied, open_run
from medssl.schedule import cosine
from medssl.sharding import assembled, whole
from medssl.store import Store, open_store
from medssl.trunks import build_trunk
from medssl.trunks.recompute import recompute
from medssl.views import Batch, Steps
from medssl.views.select import build_views, narrowed, select
from medssl.weights import begin_with, origin_of

KEPT_BACK = "lower lr or raise warmup; the last checkpoint is kept"
"""What to do about a training that diverges, and what it left."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How long and how fast. `batch` scans a step, which the processes of a training share alike: what is learned does not
    depend on how many there are. `accumulate` such batches before the weights move.

    `warmup` is a fraction of the steps. `weight_decay` is of weights of two and more axes: biases and scales do not decay.
    `trunk_lr` scales the trunk's rate (below 1: a pretrained trunk moves less).
    `frozen` names the parts that do not move at all: trunk, decoder. `fresh` names the parts that begin with random weights
    though the run that they begin with has learned ones: decoder (what a rebuild taught it may be in the way, see
    benchmarks/README.md). With `by_scanner`, the scans that a step of
    pretraining compares are all of one scanner, or each of one that has no second patient.
    `balance` names a column or label of the store (modality, site), or
    several crossed (sex*glaucoma), whose values come equally often, of which unknown is one.
    `recompute` saves memory and costs time: blocks keep only what they are given and are computed again on the way back, to
    the same bits. `compile` compiles the trunk first, which did not pay on a CPU (see compiling.py).
    `strategy` says what each of several processes holds: "ddp" the whole model, "fsdp" a part of each weight.
    `may_rise` is the share of what the loss has fallen by that it may rise again (1: to where it began) before the run is
    stopped (see divergence.py); 0 lets it rise.
    """

    steps: Count
    batch: Count = 4
    lr: Positive = 1e-3
    warmup: Share = 0.1
    trunk_lr: Weight = 1.0
    frozen: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    weight_decay: Weight = 0.01
    clip: Positive = 1.0
    may_rise: Weight = 0.0
    accumulate: Count = 1
    by_scanner: bool = True
    balance: str = ""
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    recompute: bool = False
    compile: bool = False
    strategy: Strategy = "ddp"
    log_every: Count = 10
    save_every: Count = 100
    picture_every: Count = 200
    workers: Whole = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if strange := set(self.frozen) - {"trunk", "decoder"}:
            raise UserError(f"frozen: {sorted(strange)[0]!r} is no part that can be; use trunk or decoder")
        if strange := set(self.fresh) - {"decoder"}:
            raise UserError(f"fresh: {sorted(strange)[0]!r} is no part that can be; use decoder")


class Trainable(Protocol):
    """What the loop trains: a module that turns a batch into named, weighted losses."""

    def __call__(self, batch: Batch) -> dict[str, torch.Tensor]: ...
    def after_step(self, steps: int) -> None: ...
    def picture(self, batch: Batch) -> dict[str, torch.Tensor]: ...


def fit(
    model: torch.nn.Module,
    batches: Dataset[Any],
    settings: Training,
    run: Path,
    progress: Progress = silent,
    watch: Callable[[int, SummaryWriter], None] | None = None,
    rates: Sequence[float] = (),
) -> None:
    """Nothing; `run` holds the weights after `settings.steps` steps, going on from its checkpoint if it has one.

    `watch` is called after each step, before its checkpoint; it may raise, and must change nothing. `rates` are the
    learning rates of all steps; without any, they are those that `settings` describe.
    Raises KeyboardInterrupt after the step, and its checkpoint, during which SIGTERM or SIGUSR1 came.
    Of several processes (see processes.py) the first writes and calls `watch`; all stop after the same step.
    """
    torch.manual_seed(settings.seed)
    for name, parameter in model.named_parameters():
        if part_of(name) in settings.frozen:
            parameter.requires_grad_(False)
    if settings.recompute:
        recompute(model)
    fabric = join(settings.precision, settings.strategy)
    if settings.compile:
        compile_parts(model, fabric.device)
    wrapped = fabric.setup_module(model)
    optimizer = fabric.setup_optimizers(torch.optim.AdamW(_groups(model, settings)))
    path = run / checkpoint.NAME
    start = processes.agreed(checkpoint.restore(path, model, optimizer.optimizer), f"steps done in {path}")
    if start >= settings.steps:
        return
    rates = rates or cosine(settings.lr, settings.steps, settings.warmup)
    order = range(start * settings.accumulate, settings.steps * settings.accumulate)
    feed = Feed(batches, order, settings.workers)
    first = processes.first()
    log, times = (Log(run / name, start) if first else None for name in ("log.csv", TIMES))
    rise = Rise(settings.may_rise if first else 0.0, run)
    idle = Idle(name for name, term in getattr(model, "terms", {}).items() if term.weight)
    writer = SummaryWriter(run / "tensorboard", purge_step=start) if first else nullcontext()
    model.train()
    with closing(feed), writer as board, listening() as asked:
        for step in (progress if first else silent)(range(start, settings.steps), "training", settings.steps, start):
            # All that is random in a step (masks, dropout, places) follows from its number, so resuming needs no state.
            torch.manual_seed(settings.seed * 1_000_003 + step)
            for group in optimizer.param_groups:
                group["lr"] = rates[step] * group["scale"]
            losses: dict[str, float] = {}
            for part in range(settings.accumulate):
                batch = fabric.to_device(next(feed))
                with fabric.no_backward_sync(wrapped, enabled=part < settings.accumulate - 1), processes.together():
                    named = wrapped(batch)
                    told = dict(zip(named, processes.mean(torch.stack([*named.values()])).tolist(), strict=True))
                    fabric.backward(_total(named, told, step) / settings.accumulate)
                losses = {name: losses.get(name, 0.0) + loss / settings.accumulate for name, loss in told.items()}
            norm = fabric.clip_gradients(wrapped, optimizer, max_norm=settings.clip, error_if_nonfinite=False)
            norm = float(whole(norm))
            if not math.isfinite(norm):  # a loss may be finite where its slope is not; the weights have not moved yet
                raise UserError(f"step {step}: the norm of the gradient is {norm}; {KEPT_BACK}")
            idle.check(step, norm, losses)
            optimizer.step()
            optimizer.zero_grad()
            model.after_step(settings.steps)  # type: ignore[operator]
            done = step + 1
            looks = watch is not None or step % settings.picture_every == 0 or done == settings.steps
            with processes.failing_together(), assembled(model) if looks else nullcontext():
                if log is not None and times is not None and board is not None:
                    if step % settings.log_every == 0 or done == settings.steps:
                        row = {"step": step, "lr": rates[step], "gradient_norm": norm, **losses}
                        _tell(log, board, row)
                        times.write({"step": step, **feed.lap()})
                        rise.check(row)
                    if step % settings.picture_every == 0 or done == settings.steps:
                        _draw(model, batch, fabric, run, board, done)
                    if watch is not None:
                        watch(step, board)
            stop = processes.anyone(asked.is_set())
            if done % settings.save_every == 0 or done == settings.steps or stop:
                with processes.failing_together():
                    if first:
                        rise.keep(path)
                    checkpoint.save(path, model, optimizer.optimizer, done)
            if stop and done < settings.steps:
                raise KeyboardInterrupt  # as Ctrl-C: the command line says how to go on, and its exit code does too


class Plan(NamedTuple):
    """A training before its first step."""

    model: torch.nn.Module
    batches: Dataset[Any]
    settings: Training
    facts: dict[str, Any]
    """What run.json tells of it beside recipe, store and versions."""


def plan(recipe: Section, store: Store, start: Path | str | None = None) -> Plan:
    """The pretraining that a recipe describes, as `pretrain` begins it; nothing is written."""
    for name in ("views", "method", "pretrain"):
        if name not in recipe:
            raise UserError(f"recipe: no section {name!r}; pretraining needs data, views, trunk, method and pretrain")
    settings, store = make(Training, recipe["pretrain"], "pretrain"), narrowed(store, recipe.get("data", {}))
    join(settings.precision, settings.strategy)
    views = build_views(recipe["views"])
    torch.manual_seed(settings.seed)
    trunk = build_trunk(recipe.get("trunk", {}), views.crops.size)
    if start is not None:  # before the method is built: its teacher begins as a copy of the trunk
        begin_with(trunk, recipe.get("trunk", {}), views.crops.size, Path(start))
    method = build_method(recipe["method"], trunk)
    rows = select(store, recipe.get("data", {}), split="train", channels=trunk.channels)
    method.check(views, max(store.shape(volume_id)[2] for volume_id in rows["volume_id"]))
    if start is not None:
        last = Path(start) / checkpoint.NAME
        learned = "decoder" not in settings.fresh and last.exists()
        if method.decoder is not None and learned and checkpoint.weights(last, "decoder."):
            checkpoint.fill(method.decoder, "decoder.", Path(start))
    group = ""
    if settings.by_scanner and views.count > 1:
        rows, group = rows.assign(together=_together(rows)), "together"
    store = store.told(*method.tables)
    steps = Steps(
        store, rows, views, batch=settings.batch, seed=settings.seed, group=group, balance=settings.balance,
        facts=method.columns, share=processes.share(),
    )  # fmt: skip
    began = origin_of(None if start is None else Path(start))
    facts = {"kind": "pretrain", "start": began, "volumes": len(rows)}
    if method.tables:  # a table that has changed meanwhile would make another run of it
        facts["labels"] = {table: hashlib.sha256(Path(table).read_bytes()).hexdigest() for table in method.tables}
    return Plan(method, steps, settings, facts)


def _together(rows: pd.DataFrame) -> pd.Series:
    """The scanner of each row; "" for all those that have one patient only, who could be compared with nobody there."""
    return rows["scanner"].where(rows.groupby("scanner")["patient_pid"].transform("nunique") > 1, "")


def pretrain(
    recipe: Section,
    store: Path | str,
    run: Path | str,
    *,
    start: Path | str | None = None,
    progress: Progress = silent,
) -> Path:
    """The run folder with a trunk pretrained as the recipe says on the store's training volumes; labels are not read,
    unless the method compares by one.

    `start` is a pretraining run whose trunk, and decoder if it has one, this one begins with: the next stage of several;
    or a folder of weights.
    """
    run, store_ = Path(run), open_store(store)
    planned = plan(recipe, store_, start)
    watch = watching(planned, recipe, store_, run)
    with occupied(run):
        open_run(run, recipe, store_, planned.facts)
        with processes.failing_together():
            if processes.first():
                write_ranges(run, select(store_, recipe.get("data", {}), split="train"), start)
        fit(planned.model, planned.batches, planned.settings, run, progress, watch)
    return run


def watching(planned: Plan, recipe: Section, store: Store, run: Path) -> Online | None:
    """What looks at a pretraining while it runs; None when the recipe has no section `probe`."""
    if "probe" not in recipe:
        return None
    last = planned.settings.steps - 1
    return Online(cast(Method, planned.model), store, recipe, run, cast(Steps, planned.batches), last)


def _tell(log: Log, board: SummaryWriter, numbers: dict[str, float]) -> None:
    log.write(numbers)
    for name, number in numbers.items():
        board.add_scalar(name, number, int(numbers["step"]))


def _draw(model: torch.nn.Module, batch: Batch, fabric: Fabric, run: Path, board: SummaryWriter, done: int) -> None:
    model.eval()
    with fabric.autocast():
        images = model.picture(batch)  # type: ignore[operator]
    board.add_image("views", save_picture(run / "pictures" / f"step-{done:06d}.png", images), done, dataformats="HW")
    model.train()


def part_of(name: str) -> str:
    """The part that a weight is of, in whichever network of a learner: trunk, decoder, head, ..."""
    first, _, rest = name.partition(".")
    if first in ("other", "policy"):
        return part_of(rest)
    return "decoder" if name.startswith("head.decoder.") else first


def _groups(model: torch.nn.Module, settings: Training) -> list[dict[str, Any]]:
    """The weights that move, those of one rate and decay together; a model with `rate_of` says at which share of the rate
    each moves. Biases, scales of norms and whatever else has one axis do not decay: nothing is gained by making them small.
    """
    rate_of = getattr(model, "rate_of", lambda _: 1.0)
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = rate_of(name) * (settings.trunk_lr if part_of(name) == "trunk" else 1.0)
            decay = settings.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((scale, decay), []).append(parameter)
    return [{"params": some, "scale": scale, "weight_decay": decay} for (scale, decay), some in groups.items()]


def _total(losses: dict[str, torch.Tensor], told: dict[str, float], step: int) -> torch.Tensor:
    """The sum of this process's losses. What is `told` is their means over processes, so all raise alike."""
    if not math.isfinite(sum(told.values())):
        named = ", ".join(f"{name} {loss:.4g}" for name, loss in told.items())
        raise UserError(f"step {step}: the loss is not finite ({named}); {KEPT_BACK}")
    return torch.stack(list(losses.values())).sum()
