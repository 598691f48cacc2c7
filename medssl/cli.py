"""The `medssl` command: each room's work from a shell, with progress, clear errors and exit codes a scheduler can act on.

Exit codes: 0 done; 2 something given is wrong (the message says what and how to mend it); 3 done, but nothing usable
came out; 4 somebody is on both sides of a split; 5 damaged data; 74 the disk is full or failing; 130 interrupted. Rooms
are imported by the command that enters them, so that `--help` answers at once.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medssl.errors import UserError
from medssl.progress import shown
from medssl.units import Engine, Work, share_from

if TYPE_CHECKING:
    import pandas as pd

BAD_INPUT, NOTHING_USABLE, LEAKING, DAMAGED, DISK, INTERRUPTED = 2, 3, 4, 5, 74, 130
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}

app = typer.Typer(
    help="From an unlabelled hospital imaging archive to a fair, calibrated clinical model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

Output = Annotated[Path, typer.Option("--output", "-o", help="Where the result goes.")]
Changes = Annotated[
    list[str], typer.Option("--set", help="Change one setting of the recipe: section.key=value. Repeatable.")
]
Workers = Annotated[
    int, typer.Option(min=0, help="Processes that read files; 0: none, a file that crashes a decoder ends the run.")
]
Where = Annotated[Engine, typer.Option(help="Processes of this machine, or of a Ray cluster.")]
Address = Annotated[str, typer.Option(help="Of the Ray cluster; without it, a local one is started.")]
MemoryGb = Annotated[float, typer.Option(help="Memory that one process may take.")]
Seconds = Annotated[float, typer.Option(help="How long one file (index) or volume (prepare) may take.")]
Shard = Annotated[
    str, typer.Option(help="i/n: only the i-th of n shares, e.g. of a job array; run without it when all are done.")
]
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
Recipe = Annotated[Path, typer.Argument(help="A recipe, e.g. pipelines/hippocampus.yaml.")]
StoreOption = Annotated[Path, typer.Option("--store", help="The store made by medssl prepare.")]
RunOption = Annotated[Path, typer.Option("--run", help="The run's folder; an unfinished run there goes on.")]


def say(text: str) -> None:
    """Nothing; the text is on standard output."""
    typer.echo(text)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where everything goes.")] = Path("medssl-demo"),
    fast: Annotated[bool, typer.Option(help="A tiny cohort and a few steps: shows the way, not the numbers.")] = False,
) -> None:
    """Write a phantom hospital archive and take it all the way to a report. About 10 minutes on 2 CPU cores.

    Example: medssl demo
    """
    from medssl.demo import run_demo

    for line in run_demo(folder, fast=fast, progress=shown):
        say(line)


@app.command()
def index(
    archive: Annotated[Path, typer.Argument(help="A folder of DICOM, NIfTI, NPZ, PNG or JPEG files.")],
    output: Output,
    card: Annotated[Path | None, typer.Option(help="A data card: which files, which table, which labels.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="32 secret bytes for pseudonyms; made if absent.")] = None,
    strict_table: Annotated[bool, typer.Option(help="Fail when the clinical table names unknown ids.")] = False,
    workers: Workers = CORES,
    shard: Shard = "",
    engine: Where = "process",
    address: Address = "",
    memory_gb: MemoryGb = Work.memory_gb,
    seconds: Seconds = Work.seconds,
) -> None:
    """Read the headers of an archive into a manifest (Parquet), with a reason for everything left out.

    Again after new files arrived or a kill, it reads only what it has not read yet.

    Example: medssl index /data/pacs_export -o cohorts/pacs --workers 8
    """
    from medssl.manifest import index as make_index
    from medssl.manifest import read_card, read_share

    work = Work(workers=workers, engine=engine, address=address, memory_gb=memory_gb, seconds=seconds)
    mapping = read_card(card) if card else None
    if shard:
        share = share_from(shard)
        count = read_share(archive, output, share, card=mapping, work=work, progress=shown)
        say(f"share {shard}: {count} files read; when all shares are, run medssl index without --shard")
        return
    receipt = make_index(
        archive, output, card=mapping, key_file=key_file, strict_table=strict_table, work=work, progress=shown
    )
    say(str(receipt))
    if not receipt.volumes:
        raise typer.Exit(NOTHING_USABLE)


@app.command()
def summary(
    cohort: Annotated[Path, typer.Argument(help="The cohort made by medssl index.")],
    thumbnails: Annotated[bool, typer.Option(help="Draw slices of some volumes: patient data, even unnamed.")] = True,
) -> None:
    """Show what is in a cohort, what was lost and why: summary.html, summary.json and summary/*.csv in its folder.

    Example: medssl summary cohorts/pacs --no-thumbnails
    """
    from medssl.manifest import write_summary

    say(f"summary in {write_summary(cohort, thumbnails=24 * thumbnails, work=Work(workers=1), progress=shown)}")


@app.command()
def prepare(
    cohort: Annotated[Path, typer.Argument(help="The cohort made by medssl index.")],
    output: Output,
    recipe: Annotated[Path | None, typer.Option(help="A recipe whose prepare section says how.")] = None,
    set_: Changes = [],  # noqa: B006
    workers: Workers = CORES,
    shard: Shard = "",
    engine: Where = "process",
    address: Address = "",
    memory_gb: MemoryGb = Work.memory_gb,
    seconds: Seconds = Work.seconds,
) -> None:
    """Reorient, resample and normalise a cohort's volumes into a store. Volumes already there are kept.

    Example: medssl prepare cohorts/hippocampus -o stores/hippocampus --recipe pipelines/hippocampus.yaml
    """
    from medssl.recipe import make, read_recipe
    from medssl.store import Preparation, prepare_share
    from medssl.store import prepare as make_store

    work = Work(workers=workers, engine=engine, address=address, memory_gb=memory_gb, seconds=seconds)
    settings = make(Preparation, read_recipe(recipe, set_).get("prepare", {}) if recipe else {}, "prepare")
    if shard:
        count = prepare_share(cohort, output, share_from(shard), settings=settings, work=work, progress=shown)
        say(f"share {shard}: {count} volumes tried; when all shares are, run medssl prepare without --shard")
        return
    receipt = make_store(cohort, output, settings=settings, work=work, progress=shown)
    say(str(receipt))
    if not receipt.prepared:
        raise typer.Exit(NOTHING_USABLE)


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(help="A cohort or a store.")],
    against: Annotated[
        Path | None, typer.Option(help="Another: nobody learned from in PATH may be judged on in it.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write all findings as JSON.")] = None,
) -> None:
    """Check every byte and row, and that no patient, study, copy or near-copy is on both sides of a split.

    Exit code 4 for a leak, 5 for damage.

    Example: medssl verify stores/pretraining --against stores/prostate
    """
    from medssl.atomic import write_json
    from medssl.store import verify as check

    verdict = check(path, against=against, progress=shown)
    if output:
        write_json(output, asdict(verdict))
    say(str(verdict))
    if verdict.leaks:
        raise typer.Exit(LEAKING)
    if verdict.damage or verdict.faults:
        raise typer.Exit(DAMAGED)


@app.command()
def plan(
    store: Annotated[Path, typer.Argument(help="The store made by medssl prepare.")],
    modality: Annotated[str, typer.Option(help="CT, MR, OPT, DX or CR; without it, the most frequent one.")] = "",
    voxels: Annotated[int, typer.Option(min=64, help="Voxels that a view may have: what the GPU's memory holds.")] = (
        128 * 128 * 64
    ),
) -> None:
    """Print the part of a recipe that fits a store's volumes: voxel size, view size, and where the trunk pools.

    Example: medssl plan stores/hippocampus > pipelines/mine.yaml
    """
    import yaml

    from medssl.store.fingerprint import fingerprint
    from medssl.store.plan import plan as make_plan

    made = make_plan(fingerprint(store), modality=modality, voxels=voxels)
    for section, content in made.recipe().items():
        say(f"{section}: {yaml.safe_dump(content, default_flow_style=True, sort_keys=False, width=10_000).strip()}")


@app.command()
def pretrain(recipe: Recipe, store: StoreOption, run: RunOption, set_: Changes = []) -> None:  # noqa: B006
    """Pretrain a trunk on a store's training volumes, without labels.

    Example: medssl pretrain pipelines/hippocampus.yaml --store stores/hippocampus --run runs/hippocampus_local
    """
    from medssl.recipe import read_recipe
    from medssl.train import pretrain as train

    say(f"trunk in {train(read_recipe(recipe, set_), store, run, progress=shown)}")


@app.command()
def finetune(
    recipe: Recipe,
    store: StoreOption,
    run: RunOption,
    start: Annotated[Path | None, typer.Option("--from", help="A pretraining run; without it, from scratch.")] = None,
    set_: Changes = [],  # noqa: B006
) -> None:
    """Train a head on a trunk with the labels there are.

    Example: medssl finetune pipelines/hippocampus.yaml --store stores/hippocampus --run runs/scratch
    """
    from medssl.adapt import finetune as train
    from medssl.recipe import read_recipe

    say(f"model in {train(read_recipe(recipe, set_), store, run, start=start, progress=shown)}")


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A run made by medssl finetune.")],
    store: StoreOption,
    output: Output,
    split: Annotated[list[str], typer.Option(help="Repeatable.")] = ["val", "test"],  # noqa: B006
    masks: Annotated[Path | None, typer.Option(help="A folder for label maps found, as NIfTI.")] = None,
) -> None:
    """Write the predictions table of a store's volumes.

    Example: medssl predict runs/scratch --store stores/hippocampus -o runs/scratch/predictions.parquet
    """
    from medssl.predict import predict as answer

    table = answer(run, store, output, splits=split, masks=masks, progress=shown)
    say(f"{len(table)} predictions in {output}")


@app.command()
def evaluate(
    tables: Annotated[list[Path], typer.Argument(help="Predictions, Parquet or CSV; several make one report.")],
    output: Output = Path("report.json"),
    by: Annotated[list[str], typer.Option(help="Attribute, or a crossing such as sex*race. Repeatable.")] = [],  # noqa: B006
    split: Annotated[str, typer.Option(help="The split that is judged.")] = "test",
    title: Annotated[str, typer.Option(help="Title of the report.")] = "Model evaluation",
) -> None:
    """Judge predictions, overall and by group, with intervals over patients.

    Example: medssl evaluate predictions.parquet --by sex --by race --by 'sex*race' -o report.json
    """
    from medssl.atomic import write_json
    from medssl.evaluate import evaluate as judge

    report = judge(_named(tables), by=by, split=split, title=title)
    write_json(output, report)
    for line in [*report["findings"], f"report in {output}"]:
        say(line)


@app.command()
def report(
    content: Annotated[Path, typer.Argument(help="report.json, made by medssl evaluate.")],
    output: Output,
) -> None:
    """Draw report.json as one self-contained HTML file.

    Example: medssl report report.json -o report
    """
    from medssl.report import write_report

    say(f"report in {write_report(_read_json(content), output)}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Predictions of model A.")],
    second: Annotated[Path, typer.Argument(help="Predictions of model B, for the same samples.")],
    metric: Annotated[str, typer.Option(help="auroc, or a dice_ column.")] = "auroc",
    by: Annotated[list[str], typer.Option(help="Attribute. Repeatable.")] = [],  # noqa: B006
    split: Annotated[str, typer.Option(help="The split that is judged.")] = "test",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the result as JSON.")] = None,
) -> None:
    """Compare two models on the same patients: difference B - A with its interval.

    Example: medssl compare runs/scratch/predictions.parquet runs/pretrained/predictions.parquet --metric dice_mean
    """
    from medssl.atomic import write_json
    from medssl.evaluate import compare as judge
    from medssl.evaluate import read_predictions

    result = judge(read_predictions(first), read_predictions(second), metric=metric, split=split, by=by)
    if output:
        write_json(output, result)
    for line in result["sentences"]:
        say(line)


def main(arguments: Sequence[str] | None = None) -> None:
    """Nothing; leaves the process with the exit code that this module's first lines explain."""
    try:
        app(args=arguments)
    except SystemExit as left:
        if left.code == INTERRUPTED:
            typer.echo("medssl: interrupted; run the same command again to go on", err=True)
        raise
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        _leave(f"{error.filename or 'disk'}: {error.strerror}; free some space and run the same command again", DISK)
    except Exception as error:
        _leave(str(error), _code_of(error))


def _code_of(error: Exception) -> int:
    """The exit code of a mistake that we have words for; any other error is raised again, with its traceback."""
    # Only here: the rooms' imports would cost every --help half a second.
    from medssl.archive.reasons import Refusal
    from medssl.store.shards import Damaged

    if isinstance(error, UserError | Refusal):
        return BAD_INPUT
    if isinstance(error, Damaged):
        return DAMAGED
    raise error


def _leave(message: str, code: int) -> None:
    typer.echo(f"medssl: {message}", err=True)
    sys.exit(code)


def _named(paths: Sequence[Path]) -> dict[str, pd.DataFrame]:
    """Tables by file name, or by the folder's where files share one (runs/a/predictions.parquet, runs/b/...)."""
    from medssl.evaluate import read_predictions

    stems = [path.stem for path in paths]
    names = [path.stem if stems.count(path.stem) == 1 else path.resolve().parent.name for path in paths]
    if len(set(names)) < len(names):
        raise UserError(f"{paths[0].name}: two tables would have the name {names[0]!r}; rename one of the files")
    return {name: read_predictions(path) for name, path in zip(names, paths, strict=True)}


def _read_json(path: Path) -> dict[str, object]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; make it with medssl evaluate") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error}); make it again with medssl evaluate") from None
