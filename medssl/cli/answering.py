"""Commands that ask a trained model: predictions, maps as DICOM, and where it looked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medssl.cli.options import CORES, Output, StoreOption, Workers, app, say
from medssl.errors import UserError
from medssl.progress import shown
from medssl.units import Work


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
    masks: Annotated[Path | None, typer.Option(help="A folder for the maps found, as NIfTI.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="A folder for pictures of the worst segmentations.")] = None,
    grid: Annotated[
        str, typer.Option(help="Of the maps: source, that of the volume that was read, or prepared, that of the store.")
    ] = "source",
    with_: Annotated[
        list[Path],
        typer.Option("--with", help="Another fold's run that answers with it, as the mean of all. Repeatable."),
    ] = [],  # noqa: B006
    flip: Annotated[
        list[int],
        typer.Option(
            min=0,
            max=2,
            help="Judge volumes also mirrored along an axis (in body axes 0: left-right, 1: front-back, 2: head-feet), "
            "and average. Repeatable: all combinations, each as long as one. Only where anatomy allows it: along 0 if no "
            "structure or label has a side; along 1 and 2 hardly ever.",
        ),
    ] = [],  # noqa: B006
    overlap: Annotated[
        float, typer.Option(min=0.0, max=0.95, help="Share by which neighbouring windows of voxels overlap.")
    ] = 0.5,
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

    Folds together: medssl predict runs/fold0 stores/ct --with runs/fold1 --split test --masks maps -o all.parquet
    """
    from medssl.answers import Answering
    from medssl.answers.ensemble import Where
    from medssl.arrivals import is_store
    from medssl.cli.outcome import lesions, likeness, refusals
    from medssl.manifest import read_card
    from medssl.predict import beside, predict_raw
    from medssl.predict import predict as answer
    from medssl.recipe import cast

    asked = Answering(
        runs=tuple(with_), flips=tuple(flip), overlap=overlap, grid=cast(grid, Where, "--grid"), maps=masks,
        pictures=pictures,
    )  # fmt: skip
    if is_store(source):
        if card:
            raise UserError(f"--card {card}: {source} is a store, which needs none; leave it out")
        table = answer(run, source, output, splits=split or ["val", "test"], answering=asked, progress=shown)
    else:
        if split:
            raise UserError(f"--split {split[0]}: {source} is no store, and raw files have no splits; leave it out")
        mapping, work = read_card(card) if card else None, Work(workers=workers)
        table = predict_raw(run, source, output, card=mapping, answering=asked, work=work, progress=shown)
    say(f"{len(table)} predictions in {output}")
    for line in [*refusals(beside(output, "refused", ".csv")), *likeness(run, table), *lesions(output, table)]:
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
