"""Commands of the Learning room: from a store to predictions."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medssl.cli.options import INCONCLUSIVE, SCANNER, Changes, Recipe, RunOption, StoreOption, app, given, say
from medssl.progress import shown

if TYPE_CHECKING:
    from medssl.recipe import Section
    from medssl.rehearsal import Kind

DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Train nothing: take a few steps and say what memory, time and money all need."),
]
PerHour = Annotated[float, typer.Option(min=0.0, help="With --dry-run: the price of an hour of this machine.")]
FindRate = Annotated[
    bool,
    typer.Option("--find-lr", help="Train nothing: raise the learning rate step by step and say which one is best."),
]
RatesOutput = Annotated[
    Path, typer.Option("--output", "-o", help="With --find-lr: the folder for its curve, as picture and table.")
]

WIDE = 180
"""Characters of a line where there is no terminal to fit into."""


@app.command()
def pretrain(
    recipe: Recipe,
    store: StoreOption,
    run: RunOption = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="A pretraining run, or a folder of weights, to go on from.")
    ] = None,
    dry_run: DryRun = False,
    per_hour: PerHour = 0.0,
    find_lr: FindRate = False,
    output: RatesOutput = Path("find-lr"),
    set_: Changes = [],  # noqa: B006
) -> None:
    """Pretrain a trunk on a store's training volumes, without labels.

    Example: medssl pretrain pipelines/hippocampus.yaml --store stores/hippocampus --run runs/hippocampus_local

    On several GPUs: torchrun --nproc_per_node 4 -m -- medssl pretrain ..., which learns the same from the same recipe.
    """
    from medssl.recipe import read_recipe
    from medssl.train import pretrain as train

    content = read_recipe(recipe, set_)
    asked = per_hour if dry_run else None, output if find_lr else None
    if _tried_out("pretrain", content, store, start, *asked):
        return
    _tell_unlike(start, content, store)
    _say_once(f"trunk in {train(content, store, given(run), start=start, progress=shown)}")


@app.command()
def probe(
    run: Annotated[Path, typer.Argument(help="A run made by medssl pretrain or finetune.")],
    store: StoreOption,
    split: Annotated[str, typer.Option(help="Whom to ask about; never those it learned from.")] = "val",
    few: Annotated[
        list[int], typer.Option(min=2, help="Labelled patients that the linear probe learns from. Repeatable: a curve.")
    ] = [64],  # noqa: B006
    hold_out: Annotated[
        str,
        typer.Option(help="scanner or site: ask also neighbours that differ in it alone, as if it were never seen."),
    ] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder for probe.html, with pictures, and probe.json.")
    ] = None,
    max_leak: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="How far above chance neighbours may tell the scanner; beyond it, all is done but the exit code is 8.",
        ),
    ] = None,
    clusters: Annotated[
        int | None,
        typer.Option(
            min=2, help="Put the training volumes into so many clusters, in clusters.csv of --output or the run."
        ),
    ] = None,
) -> None:
    """Say what a trunk's frozen features tell of held-out patients: labels, scanner, sex, and how many directions they use.

    With --max-leak, exit code 8 for a trunk that knows the scanner, 7 where fewer than two scanners are known.

    Example: medssl probe runs/trunk --store stores/hippocampus --few 4 --few 16 --hold-out scanner -o runs/trunk/probe

    As a gate of a pipeline: medssl probe runs/trunk --store stores/hippocampus --max-leak 0.1

    Pairs by cluster: medssl probe runs/first --store store --clusters 8, and then medssl pretrain
    pipelines/methods/simclr.yaml --store store --run runs/second --set 'method.contrast.pairs={labels:
    runs/first/clusters.csv, ignore: [[same patient], [same cluster]]}'
    """
    from medssl.probe import examine
    from medssl.probe.clusters import write_clusters
    from medssl.probe.findings import leak
    from medssl.probe.page import write_page

    evidence = examine(run, store, split=split, few=few, hold_out=hold_out, progress=shown)
    say(str(evidence.findings))
    if output:
        say(f"page in {write_page(evidence, output)}")
    if clusters:
        say(f"clusters in {write_clusters(evidence, clusters, output or run)}")
    if max_leak is None:
        return
    found = leak(evidence.findings)
    if math.isnan(found):
        say("scanner: fewer than two are known among these patients, so that --max-leak cannot be judged")
        raise typer.Exit(INCONCLUSIVE)
    say(f"scanner: told {found:.2f} better than by chance; --max-leak allows {max_leak:g}")
    if found > max_leak:
        raise typer.Exit(SCANNER)


@app.command()
def finetune(
    recipe: Recipe,
    store: StoreOption,
    run: RunOption = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="A pretraining run, or a folder of weights; else from scratch.")
    ] = None,
    dry_run: DryRun = False,
    per_hour: PerHour = 0.0,
    find_lr: FindRate = False,
    output: RatesOutput = Path("find-lr"),
    set_: Changes = [],  # noqa: B006
) -> None:
    """Train a head on a trunk with the labels there are.

    Example: medssl finetune pipelines/hippocampus.yaml --store stores/hippocampus --run runs/scratch
    """
    from medssl.adapt import finetune as train
    from medssl.recipe import read_recipe

    content = read_recipe(recipe, set_)
    asked = per_hour if dry_run else None, output if find_lr else None
    if _tried_out("finetune", content, store, start, *asked):
        return
    _tell_unlike(start, content, store)
    _say_once(f"model in {train(content, store, given(run), start=start, progress=shown)}")


@app.command()
def crossvalidate(
    recipe: Recipe,
    store: StoreOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder for fold-0/ ... and predictions.parquet.")],
    folds: Annotated[int, typer.Option(min=2, help="Parts that the patients are dealt into.")] = 5,
    set_: Changes = [],  # noqa: B006
) -> None:
    """Train a model for each part of the patients on all others (those of split test left alone), and judge that part.

    Example: medssl crossvalidate pipelines/phantom_bpmri_cspca.yaml --store store -o runs/cspca --folds 5
    """
    import pandas as pd

    from medssl.cli.outcome import lesions
    from medssl.crossvalidate import NAME
    from medssl.crossvalidate import crossvalidate as judge
    from medssl.recipe import read_recipe

    for line in judge(read_recipe(recipe, set_), store, output, folds=folds, progress=shown):
        say(line)
    for line in lesions(output / NAME, pd.read_parquet(output / NAME)):
        say(line)


@app.command()
def protocol(
    recipe: Recipe,
    store: StoreOption,
    start: Annotated[Path, typer.Option("--from", help="The pretraining run, or folder of weights, that is tried.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder for each way's predictions, protocol.csv and its picture.")
    ],
    shots: Annotated[
        list[int], typer.Option(min=1, help="Labelled patients of each class that a line learns from. Repeatable.")
    ] = [4, 16],  # noqa: B006
    set_: Changes = [],  # noqa: B006
) -> None:
    """Try a trunk on a task in every way: neighbours, a line, few labels, biases, low rank, end to end, and from scratch.

    Example: medssl protocol pipelines/nih_pneumonia.yaml --store stores/nih --from runs/nih_trunk -o reports/nih_protocol
    """
    from medssl.protocol import protocol as tried
    from medssl.recipe import read_recipe

    for line in tried(read_recipe(recipe, set_), store, start, output, shots=shots, progress=shown):
        say(line)


@app.command()
def methods(
    recipes: Annotated[
        Path | None, typer.Argument(help="The folder of recipes to list; without it, those that come with medssl.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="The page docs/methods.md, with every term.")] = False,
) -> None:
    """List the methods that a trunk can be pretrained by: what each is made of, needs and runs on, and its paper.

    Example: medssl methods
    """
    from medssl.methods.catalogue import page, recipes_in
    from medssl.shipped import shipped

    folder = recipes or shipped("pipelines/methods")
    found = recipes_in(folder)
    if markdown:
        say(page(found).rstrip("\n"))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("recipe", "family", "terms", "needs", "paper", box=None, pad_edge=False)
    for one in found:
        table.add_row(one.name, one.family, " + ".join(one.terms), ", ".join(one.needs), "; ".join(one.papers))
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)
    say(f"recipes in {folder}")


@app.command()
def keys(
    section: Annotated[str, typer.Argument(help="A section of a recipe, e.g. views; without it, all.")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="The page docs/recipes.md.")] = False,
) -> None:
    """List the keys that a recipe may have, with what each does, what may stand there and the default.

    Example: medssl keys views
    """
    from medssl.keys import chosen, page

    found = chosen(section)
    if markdown:
        say(page(found).rstrip("\n"))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else WIDE)
    for one in found:
        table = Table("key", "what", "default", box=None)
        for key in one.keys:
            table.add_row(f"{one.name.split(' (')[0]}.{key.name}", key.kind, key.default, style=None)
        console.print(f"\n{one.name}", style="bold", markup=False)
        console.print(one.words, markup=False, highlight=False)
        console.print(table, markup=False)


def _tried_out(
    kind: Kind, recipe: Section, store: Path, start: Path | None, per_hour: float | None, curve: Path | None
) -> bool:
    """Whether the training is only to be tried out, which is done: rehearsed at a price, or its learning rate found."""
    from medssl.find_rate import find_rate, write_curve
    from medssl.rehearsal import rehearse

    if per_hour is not None:
        say("\n".join(rehearse(recipe, store, kind, start=start, progress=shown).lines(per_hour)))
    if curve is not None:
        found = find_rate(recipe, store, kind, start=start, progress=shown)
        say(f"{found}\ncurve in {write_curve(found, curve)}")
    return per_hour is not None or curve is not None


def _tell_unlike(start: Path | None, recipe: Section, store: Path) -> None:
    """Nothing; it is said in what the store's images differ from those that the weights saw."""
    if start is None:
        return
    from medssl.store import open_store
    from medssl.weights import unlike

    for line in unlike(start, recipe, open_store(store)):
        _say_once(f"note: {line}")


def _say_once(text: str) -> None:
    """Nothing; the text is on the standard output of the first of the processes that train."""
    from medssl.processes import first

    if first():
        say(text)
