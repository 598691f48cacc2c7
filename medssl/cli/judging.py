"""Commands of the Judging room: from predictions to a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medssl.cli.options import INCONCLUSIVE, NOTHING_USABLE, REQUIREMENT, Output, app, now, say, typed
from medssl.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from medssl.evaluate.lesions import Detection

MOST_DIFFERENCES = 10
"""Differences told of a report that does not hold."""

METRICS = "auroc, average_precision, brier, sensitivity, specificity, or a dice_, nsd_ or hd95_ column."


@app.command()
def evaluate(
    context: typer.Context,
    tables: Annotated[list[Path], typer.Argument(help="Predictions, Parquet or CSV; several make one report.")],
    output: Output = Path("report.json"),
    by: Annotated[list[str], typer.Option(help="Attribute, or a crossing such as sex*race. Repeatable.")] = [],  # noqa: B006
    split: Annotated[str, typer.Option(help="The split that is judged.")] = "test",
    title: Annotated[str, typer.Option(help="Title of the report.")] = "Model evaluation",
    lesions: Annotated[
        Path | None, typer.Option(help="Lesions of a detection; else PREDICTIONS_lesions beside it, if there.")
    ] = None,
    require: Annotated[
        list[str],
        typer.Option(help="What must be reached, e.g. sensitivity=0.80; declared before looking. Repeatable."),
    ] = [],  # noqa: B006
    strict: Annotated[bool, typer.Option(help="Exit code 7 where a requirement is neither met nor missed.")] = False,
    deviation: Annotated[list[str], typer.Option(help="Where this departs from what was planned. Repeatable.")] = [],  # noqa: B006
    prevalence: Annotated[
        float | None, typer.Option(help="How common it is in use, e.g. 0.02: for PPV and NPV.")
    ] = None,
) -> None:
    """Judge predictions, overall and by group, with intervals over patients; of a table with several tasks each by itself.

    The report is written whatever it says. Exit code 6 where a requirement is not met, overall or in a group.

    Example: medssl evaluate predictions.parquet --by sex --by race --by 'sex*race' -o report.json
    """
    from medssl.atomic import write_json
    from medssl.evaluate import evaluate as judge
    from medssl.evaluate.criteria import NOT_MET, OPEN, read_criteria, with_criteria

    limits = read_criteria(require)
    report = with_criteria(
        judge(_detections(_named(tables), tables, lesions), by=by, split=split, title=title, prevalence=prevalence),
        limits,
    )
    report["provenance"] |= {"command": typed(context), "date": now(), "deviations": deviation}
    write_json(output, report)
    for line in [*report["findings"], f"report in {output}"]:
        say(line)
    verdicts = [row["verdict"] for row in report["criteria"]["rows"]] if limits else []
    if limits:
        say(f"required: {len(verdicts) - verdicts.count(NOT_MET) - verdicts.count(OPEN)} met, "
            f"{verdicts.count(NOT_MET)} not met, {verdicts.count(OPEN)} cannot be concluded")  # fmt: skip
    if NOT_MET in verdicts:
        raise typer.Exit(REQUIREMENT)
    if strict and OPEN in verdicts:
        raise typer.Exit(INCONCLUSIVE)


@app.command()
def calibrate(
    predictions: Annotated[Path, typer.Argument(help="Predictions with validation rows, Parquet or CSV.")],
    output: Output,
) -> None:
    """Make scores as sure as they should be, by a temperature fixed on the validation rows; no two change ranks.

    The table keeps what scores were as score_before, and the temperature with where it comes from as calibration. Several
    tasks have each its own.

    Example: medssl calibrate predictions.parquet -o calibrated.parquet
    """
    from medssl.atomic import replacing
    from medssl.evaluate import read_predictions
    from medssl.evaluate.analysis import digest
    from medssl.evaluate.predictions import by_task
    from medssl.evaluate.temperature import calibrated

    if output.suffix not in (".parquet", ".csv"):
        raise UserError(f"{output}: a predictions table is .parquet or .csv; give one of these endings")
    given = read_predictions(predictions)
    table = calibrated(given, digest(given))
    with replacing(output) as part:
        if output.suffix == ".csv":
            table.to_csv(part, index=False)
        else:
            table.to_parquet(part, index=False)
    for task, rows in by_task(table).items():
        say(f"{task + ': ' if task else ''}temperature {rows['calibration'].iloc[0]}")
    say(f"{len(table)} predictions in {output}")


@app.command()
def report(
    content: Annotated[Path, typer.Argument(help="report.json, made by medssl evaluate.")],
    output: Output,
    pdf: Annotated[bool, typer.Option(help="Also as PDF, printed by an installed Chromium or Chrome.")] = False,
    verify: Annotated[
        list[Path], typer.Option(help="Its predictions: make every number again and compare first. Repeatable.")
    ] = [],  # noqa: B006
) -> None:
    """Draw report.json, or the JSON of a comparison, as one self-contained HTML file, and as Markdown; a report also
    as CSV and a fragment of a model card.

    Exit code 3, and nothing is written, for a report that --verify finds to differ.

    Example: medssl report report.json -o report --verify predictions.parquet
    """
    from medssl.report import comparison, write_report

    told = _read_json(content)
    compared = isinstance(told, dict) and told.get("kind") == comparison.KIND
    if verify and compared:
        raise UserError(f"--verify: {content} is a comparison; make it again with medssl compare")
    if verify:
        _hold(told, verify)
    page = comparison.write_comparison(told, output) if compared else write_report(told, output)
    say(f"{'comparison' if compared else 'report'} in {page}")
    if pdf:
        from medssl.report.pdf import write_pdf

        say(f"printed in {write_pdf(page)}")


def _hold(told: dict[str, object], tables: Sequence[Path]) -> None:
    """Nothing; leaves with exit code 3, having named the first differences, where a report does not hold."""
    from medssl.report.verification import differences

    found = differences(told, _named(tables))
    for line in found[:MOST_DIFFERENCES]:
        say(line)
    if found:
        say(f"the report does not hold: {len(found)} {'difference' if len(found) == 1 else 'differences'}")
        raise typer.Exit(NOTHING_USABLE)
    say("the report holds: every number made again is the same")


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="Predictions of model A; of several seeds, with commas between.")],
    second: Annotated[str, typer.Argument(help="Predictions of model B, for the same samples, in the same order.")],
    metric: Annotated[str, typer.Option(help=METRICS)] = "auroc",
    by: Annotated[list[str], typer.Option(help="Attribute, or a crossing such as sex*race. Repeatable.")] = [],  # noqa: B006
    split: Annotated[str, typer.Option(help="The split that is judged.")] = "test",
    margin: Annotated[
        float | None, typer.Option(help="The difference that would matter, declared before looking.")
    ] = None,
    intersect: Annotated[bool, typer.Option(help="Compare only samples of all tables; tells who is left out.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A .json file, or a folder for a page.")] = None,
) -> None:
    """Compare two models on the same patients: difference B - A, in whom, and whether gaps between groups changed.

    One table of each compares two runs; three or more, of as many seeds, two ways of training (A1,A2,A3 B1,B2,B3).

    Example: medssl compare scratch.parquet pretrained.parquet --by sex --by race -o comparison
    """
    from medssl.atomic import write_json
    from medssl.evaluate import compare as judge
    from medssl.report.comparison import write_comparison

    tables = [_tables(given) for given in (first, second)]
    result = judge(*tables, metric=metric, split=split, by=by, margin=margin, intersect=intersect)
    if output and output.suffix == ".json":
        write_json(output, result)
    elif output:
        say(f"comparison in {write_comparison(result, output)}")
    for line in result["sentences"]:
        say(line)


def _tables(given: str) -> list[pd.DataFrame]:
    """The tables of one model's runs: of a path, or of several with commas between."""
    from medssl.evaluate import read_predictions

    paths = [given] if Path(given).exists() else [one.strip() for one in given.split(",")]
    return [read_predictions(path) for path in paths]


def _named(paths: Sequence[Path]) -> dict[str, pd.DataFrame]:
    """Tables by file name, or by the folder's where files share one (runs/a/predictions.parquet, runs/b/...)."""
    from medssl.evaluate import read_predictions

    stems = [path.stem for path in paths]
    names = [path.stem if stems.count(path.stem) == 1 else path.resolve().parent.name for path in paths]
    if len(set(names)) < len(names):
        raise UserError(f"{paths[0].name}: two tables would have the name {names[0]!r}; rename one of the files")
    return {name: read_predictions(path) for name, path in zip(names, paths, strict=True)}


def _detections(
    named: dict[str, pd.DataFrame], paths: Sequence[Path], lesions: Path | None
) -> dict[str, pd.DataFrame | Detection]:
    """The tables, each with its lesions: those of the file `lesions`, or of the one beside it where there is one."""
    from medssl.evaluate.lesions import Detection, lesions_beside, read_lesions

    if lesions and len(paths) > 1:
        raise UserError(
            f"--lesions {lesions}: of which of {len(paths)} tables? Give one table, or name the files alike"
        )
    found = {name: lesions or lesions_beside(path) for name, path in zip(named, paths, strict=True)}
    return {
        name: Detection(table, read_lesions(found[name])) if lesions or found[name].exists() else table
        for name, table in named.items()
    }


def _read_json(path: Path) -> dict[str, object]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; make it with medssl evaluate") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error}); make it again with medssl evaluate") from None
