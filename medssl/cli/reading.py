"""Commands of the Reading room: from an archive to a store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from medssl.cli.options import (
    CORES,
    DAMAGED,
    LEAKING,
    NOTHING_USABLE,
    Address,
    Changes,
    MaximumLeftOut,
    MemoryGb,
    Output,
    Seconds,
    Shard,
    Where,
    Workers,
    app,
    say,
)
from medssl.progress import shown
from medssl.units import Work, share_from

Form = Literal["bids", "nnssl"]


@app.command()
def index(
    archive: Annotated[Path, typer.Argument(help="A folder of DICOM, NIfTI, NPZ, PNG or JPEG files.")],
    output: Output,
    card: Annotated[Path | None, typer.Option(help="A data card: which files, which table, which labels.")] = None,
    clinical: Annotated[
        Path | None, typer.Option(help="A CSV file with sex, race, age_years, site, label:NAME ... by patient or file.")
    ] = None,
    key_file: Annotated[Path | None, typer.Option(help="32 secret bytes for pseudonyms; made if absent.")] = None,
    strict_table: Annotated[bool, typer.Option(help="Fail when the clinical table names unknown ids.")] = False,
    thumbnails: Annotated[bool, typer.Option(help="Draw slices of some volumes: patient data, even unnamed.")] = True,
    max_left_out: MaximumLeftOut = 1.0,
    workers: Workers = CORES,
    shard: Shard = "",
    engine: Where = "process",
    address: Address = "",
    memory_gb: MemoryGb = Work.memory_gb,
    seconds: Seconds = Work.seconds,
) -> None:
    """Read the headers of an archive into a manifest (Parquet), with a reason for everything left out, and summary.html.

    Again after new files arrived or a kill, it reads only what it has not read yet.

    Example: medssl index /data/pacs_export -o cohorts/pacs --workers 8
    """
    from medssl.manifest import Card, read_card, read_cohort, read_share, with_table, write_summary
    from medssl.manifest import index as make_index

    work = Work(workers=workers, engine=engine, address=address, memory_gb=memory_gb, seconds=seconds)
    mapping = read_card(card) if card else None
    if clinical:
        mapping = with_table(mapping or Card(name="archive"), clinical)
    if shard:
        share = share_from(shard)
        count = read_share(archive, output, share, card=mapping, work=work, progress=shown)
        say(f"share {shard}: {count} files read; when all shares are, run medssl index without --shard")
        return
    receipt = make_index(
        archive, output, card=mapping, key_file=key_file, strict_table=strict_table, work=work, progress=shown
    )
    say(str(receipt))
    drawing = Work(workers=min(1, workers), memory_gb=memory_gb, seconds=seconds)
    page = write_summary(output, thumbnails=24 * thumbnails, work=drawing, progress=shown)
    say(f"what is in it, and what is not: {page}")
    excluded = read_cohort(output).instances["status"] == "excluded"
    if not receipt.volumes or _is_too_much(int(excluded.sum()), len(excluded), "files", max_left_out):
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
    max_left_out: MaximumLeftOut = 1.0,
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
    left = sum(count for code, count in receipt.reasons.items() if not code.startswith("MASK_"))
    if not receipt.prepared or _is_too_much(left, left + receipt.prepared, "volumes", max_left_out):
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
def export(
    cohort: Annotated[Path, typer.Argument(help="The cohort made by medssl index.")],
    output: Output,
    to: Annotated[
        Form, typer.Option(help="bids: participants.tsv; nnssl: pretrain_data.json of the split train.")
    ] = "bids",
) -> None:
    """Write a cohort in the form of another tool.

    Example: medssl export cohorts/hippocampus -o exported --to nnssl
    """
    from medssl.manifest.exchange import export_bids, export_nnssl

    if to == "bids":
        say(f"participants in {export_bids(cohort, output)}")
        return
    path, left = export_nnssl(cohort, output, name=output.resolve().name)
    say(
        f"collection in {path} (it names files of the archive); {left} training volumes are in no form that nnssl reads"
    )


@app.command(name="import")
def import_(
    source: Annotated[Path, typer.Argument(help="pretrain_data.json of nnssl or OpenMind.")],
    archive: Annotated[Path, typer.Option(help="The folder that holds the images it lists.")],
    output: Output,
) -> None:
    """Turn the description of another tool into a data card and a table for medssl index.

    Example: medssl import pretrain_data.json --archive /data/openmind -o openmind_card
    """
    from medssl.manifest.exchange import import_nnssl

    card = import_nnssl(source, archive, output)
    say(f"now: medssl index {archive} -o COHORT --card {card}")


@app.command()
def plan(
    store: Annotated[Path, typer.Argument(help="The store made by medssl prepare.")],
    modality: Annotated[str, typer.Option(help="CT, MR, OPT, DX or CR; without it, the most frequent one.")] = "",
    voxels: Annotated[int, typer.Option(min=64, help="Voxels that a view may have: what the GPU's memory holds.")] = (
        128 * 128 * 64
    ),
) -> None:
    """Print a recipe that fits a store's volumes: voxel size, view size, where the trunk pools, and the default method.

    What to fine-tune for is not in it: add a line such as head: {name: classify, label: glaucoma}.

    Example: medssl plan stores/hippocampus > pipelines/mine.yaml
    """
    import re

    import yaml

    from medssl.store.fingerprint import fingerprint
    from medssl.store.plan import plan as make_plan

    made = make_plan(fingerprint(store), modality=modality, voxels=voxels)
    for section, content in made.recipe().items():
        line = yaml.safe_dump(content, default_flow_style=True, sort_keys=False, width=10_000).strip()
        line = re.sub(r"'([0-9.]+)'", r"\1", line)  # numbers of the default recipe are text
        say(f"{section}: {line}")


def _is_too_much(left: int, among: int, what: str, most: float) -> bool:
    """Whether more was left out than may be; if so, it is said."""
    if left <= most * among:
        return False
    say(f"{left} of {among} {what} left out, more than --max-left-out {most:g} allows")
    return True
