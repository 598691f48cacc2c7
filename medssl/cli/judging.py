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


@app.command()
def evaluate(
    tables: Annotated[list[Path], typer.Argument(help="Predictions, Parquet or CSV; several make one report.")],
    output: Output = Path("report.json"),
    by: Annotated[list[str], typer.Option(help="Attribute, or a crossing such as sex*race. Repeatable.")] = [],  # noqa: B006
    split: Annotated[str, typer.Option(help="The split that is judged.")] = "test",
    title: Annotated[str, typer.Option(help="Title of the report.")] = "Model evaluation",
    prevalence: Annotated[
        float | None, typer.Option(help="How common it is in use, e.g. 0.02: for PPV and NPV.")
    ] = None,
) -> None:
    """Judge predictions, overall and by group, with intervals over patients; of a table with several tasks each by itself.

    Example: medssl evaluate predictions.parquet --by sex --by race --by 'sex*race' -o report.json
    """
    from medssl.atomic import write_json
    from medssl.evaluate import evaluate as judge

    report = judge(_named(tables), by=by, split=split, title=title, prevalence=prevalence)
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
    """Draw report.json as one self-contained HTML file.

    Example: medssl report report.json -o report
    """
    from medssl.report import write_report

    say(f"report in {write_report(_read_json(content), output)}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Predictions of model A.")],
    second: Annotated[Path, typer.Argument(help="Predictions of model B, for the same samples.")],
    metric: Annotated[str, typer.Option(help="auroc, or a dice_, nsd_ or hd95_ column.")] = "auroc",
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
