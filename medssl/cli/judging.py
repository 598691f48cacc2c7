"""Commands of the Judging room: from predictions to a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medssl.cli.options import Output, app, say
from medssl.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

METRICS = "auroc, average_precision, brier, sensitivity, specificity, or a dice_, nsd_ or hd95_ column."


@app.command()
def evaluate(
    tables: Annotated[list[Path], typer.Argument(help="Predictions, Parquet or CSV; several make one report.")],
    output: Output = Path("report.json"),
    by: Annotated[list[str], typer.Option(help="Attribute, or a crossing such as sex*race. Repeatable.")] = [],  # noqa: B006
    split: Annotated[str, typer.Option(help="The split that is judged.")] = "test",
    title: Annotated[str, typer.Option(help="Title of the report.")] = "Model evaluation",
) -> None:
    """Judge predictions, overall and by group, with intervals over patients; of a table with several tasks each by itself.

    Example: medssl evaluate predictions.parquet --by sex --by race --by 'sex*race' -o report.json
    """
    from medssl.atomic import write_json
    from medssl.evaluate import evaluate as judge

    report = judge(_named(tables), by=by, split=split, title=title)
    write_json(output, report)
    for line in [*report["findings"], f"report in {output}"]:
        say(line)


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
) -> None:
    """Draw report.json, or the JSON of a comparison, as one self-contained HTML file.

    Example: medssl report report.json -o report
    """
    from medssl.report import comparison, write_report

    told = _read_json(content)
    if isinstance(told, dict) and told.get("kind") == comparison.KIND:
        say(f"comparison in {comparison.write_comparison(told, output)}")
    else:
        say(f"report in {write_report(told, output)}")


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


def _read_json(path: Path) -> dict[str, object]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; make it with medssl evaluate") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error}); make it again with medssl evaluate") from None
