"""Commands of the Learning room: from a store to predictions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medssl.cli.options import CORES, Changes, Output, Recipe, RunOption, StoreOption, Workers, app, given, say
from medssl.errors import UserError
from medssl.progress import shown
from medssl.units import Work

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
) -> None:
    """Say what a trunk's frozen features tell of held-out patients: labels, scanner, sex, and how many directions they use.

    Example: medssl probe runs/trunk --store stores/hippocampus --few 4 --few 16 --hold-out scanner -o runs/trunk/probe
    """
    from medssl.probe import examine
    from medssl.probe.page import write_page

    evidence = examine(run, store, split=split, few=few, hold_out=hold_out, progress=shown)
    say(str(evidence.findings))
    if output:
        say(f"page in {write_page(evidence, output)}")


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
def predict(
    run: Annotated[Path, typer.Argument(help="A run made by medssl finetune.")],
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A store, or a folder of raw files: DICOM, NIfTI, NPZ, PNG or JPEG.")
    ],
    output: Output,
    split: Annotated[
        list[str], typer.Option(help="Of a store; without it, val and test. Repeatable.", show_default=False)
    ] = [],  # noqa: B006
    masks: Annotated[Path | None, typer.Option(help="A folder for label maps found, as NIfTI.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="A folder for pictures of the worst segmentations.")] = None,
    card: Annotated[Path | None, typer.Option(help="Of raw files: a data card, as for medssl index.")] = None,
    workers: Workers = CORES,
) -> None:
    """Write the predictions table of a store's volumes, or of raw files.

    Raw files are indexed and prepared as the model's training volumes were, in OUTPUT_work beside the table (its folder
    cohort/phi/ tells which files a volume is); a second call does only what is new. What is outside of what the model was
    trained on (modality, voxel size, ...) is not answered: OUTPUT_refused.csv lists it, with files that cannot be read. Both
    name files: treat them as patients' data. Of what is answered, the column "unlike" tells how far it is from the training
    volumes, and "warning" marks what is far.

    Example: medssl predict runs/scratch stores/hippocampus -o runs/scratch/predictions.parquet

    Example: medssl predict runs/scratch /data/new_scans -o answers/today.csv --masks answers/masks --card card.yaml
    """
    from medssl.arrivals import is_store
    from medssl.cli.outcome import lesions, likeness, refusals
    from medssl.manifest import read_card
    from medssl.predict import beside, predict_raw
    from medssl.predict import predict as answer

    if is_store(source):
        if card:
            raise UserError(f"--card {card}: {source} is a store, which needs none; leave it out")
        table = answer(
            run, source, output, splits=split or ["val", "test"], masks=masks, pictures=pictures, progress=shown
        )
    else:
        if split:
            raise UserError(f"--split {split[0]}: {source} is no store, and raw files have no splits; leave it out")
        if pictures:
            raise UserError(f"--pictures {pictures}: of raw files no reference is known to draw beside; leave it out")
        mapping, work = read_card(card) if card else None, Work(workers=workers)
        table = predict_raw(run, source, output, card=mapping, masks=masks, work=work, progress=shown)
    say(f"{len(table)} predictions in {output}")
    for line in [*refusals(beside(output, "refused", ".csv")), *likeness(run, table), *lesions(output, table)]:
        say(line)


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
def deliver(
    maps: Annotated[Path, typer.Argument(help="The folder of maps that medssl predict --masks wrote.")],
    cohort: Annotated[Path, typer.Option(help="The cohort that the store was made of, with its folder phi/.")],
    name: Annotated[list[str], typer.Option(help="The structures 1, 2, ... of the maps, in this order. Repeatable.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder for VOLUME.dcm and delivered.csv.")],
    model: Annotated[str, typer.Option(help="What the objects call the model.")] = "medssl",
) -> None:
    """Write maps as DICOM segmentations on the slices that they were found in.

    Example: medssl deliver maps --cohort cohort --name gland --name lesion -o segmentations
    """
    from medssl.delivery import deliver as write

    table = write(maps, cohort, output, name, model=model, progress=shown)
    for row in table[table["path"].eq("")].itertuples():
        say(f"not delivered: {row.volume_id}: {row.reason}")
    say(f"{table['path'].ne('').sum()} of {len(table)} maps as DICOM segmentations in {output}")


@app.command()
def explain(
    run: Annotated[Path, typer.Argument(help="A run made by medssl finetune.")],
    store: StoreOption,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder for pictures, maps as NIfTI and explain.csv.")
    ],
    case: Annotated[list[str], typer.Option(help="A volume's id, as in the predictions table. Repeatable.")] = [],  # noqa: B006
    split: Annotated[str, typer.Option(help="Without --case: volumes of this split.")] = "test",
    most: Annotated[int, typer.Option(min=1, help="Without --case: so many of them, evenly taken.")] = 8,
    by: Annotated[
        str,
        typer.Option(
            help="grad-cam: what raised the answer; eigen-cam: what the trunk sees most of, whatever the answer."
        ),
    ] = "grad-cam",
) -> None:
    """Show where a model looked: maps over its volumes, and how far each may be believed.

    Example: medssl explain runs/glaucoma --store stores/oct --split test --most 12 -o reports/glaucoma_maps
    """
    from medssl.explain import Way, cases_of
    from medssl.explain import explain as look
    from medssl.recipe import cast

    way = cast(by, Way, "--by")
    table = look(run, store, output, case or cases_of(run, store, split, most), by=way, progress=shown)
    say(table.to_string(index=False, float_format=lambda value: f"{value:.2f}"))
    say(f"{len(table)} pictures and maps in {output}")


@app.command()
def methods(
    recipes: Annotated[Path, typer.Argument(help="The folder of recipes to list.")] = Path("pipelines/methods"),
    markdown: Annotated[bool, typer.Option("--markdown", help="The page docs/methods.md, with every term.")] = False,
) -> None:
    """List the methods that a trunk can be pretrained by: what each is made of, needs and runs on, and its paper.

    Example: medssl methods
    """
    from medssl.methods.catalogue import page, recipes_in

    found = recipes_in(recipes)
    if markdown:
        say(page(found).rstrip("\n"))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("recipe", "family", "terms", "needs", "paper", box=None, pad_edge=False)
    for one in found:
        table.add_row(one.name, one.family, " + ".join(one.terms), ", ".join(one.needs), "; ".join(one.papers))
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)


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
