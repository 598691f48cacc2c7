"""Commands of the Judging room: from predictions to a report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medssl.cli.options import Output, app, say
from medssl.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


class ScoreKind(StrEnum):
    """What a score means."""

    probability = "probability"
    rank = "rank"


@app.command()
def evaluate(
    tables: Annotated[list[Path], typer.Argument(help="Predictions, Parquet or CSV; several make one report.")],
    output: Output = Path("report.json"),
    by: Annotated[list[str], typer.Option(help="Attribute, or a crossing such as sex*race. Repeatable.")] = [],  # noqa: B006
    split: Annotated[str, typer.Option(help="The split that is judged.")] = "test",
    title: Annotated[str, typer.Option(help="Title of the report.")] = "Model evaluation",
    margin: Annotated[float, typer.Option(help="The difference that would matter, declared before looking.")] = 0.05,
    minimum_patients: Annotated[int, typer.Option(help="Groups below so many patients are not shown.")] = 11,
    target_sensitivity: Annotated[
        float | None, typer.Option(help="What the threshold reaches on validation rows.")
    ] = None,
    threshold: Annotated[str, typer.Option(help="Fixed elsewhere: VALUE:WHERE FROM, or a JSON file.")] = "",
    explore: Annotated[bool, typer.Option(help="Choose it on the judged rows; marks the report.")] = False,
    columns: Annotated[str, typer.Option(help="Names of another table: patient_id=PID,score=prob,split=:test.")] = "",
    score_kind: Annotated[ScoreKind, typer.Option(help="rank: scores are no probabilities.")] = ScoreKind.probability,
    label_map: Annotated[str, typer.Option(help="What labels stand for: yes=1,no=0,U=blank.")] = "",
    missing_scores: Annotated[str, typer.Option(help="exclude or as_negative: nan and inf are no errors.")] = "",
    rows_are_patients: Annotated[bool, typer.Option(help="A table without patient_id: each row is another.")] = False,
    age_bands: Annotated[
        str, typer.Option(help="First ages of the bands that a column age is cut into.")
    ] = "18,40,65,90",
    mapping: Annotated[
        Path | None, typer.Option(help="CSV attribute,value,group: which values belong together.")
    ] = None,
    mapping_template: Annotated[Path | None, typer.Option(help="Write the values into this file, and stop.")] = None,
    trained_on: Annotated[Path | None, typer.Option(help="Patients learned from; none may be judged.")] = None,
    show_ids: Annotated[bool, typer.Option(help="Messages may name samples and patients.")] = False,
) -> None:
    """Judge predictions, overall and by group, with intervals over patients; of a table with several tasks each by itself.

    Any CSV or Parquet table can be judged; everything wrong with it is told at once, each with a code (exit code 2).

    Example: medssl evaluate predictions.parquet --by sex --by race --by 'sex*race' -o report.json
    """
    from medssl.atomic import write_json
    from medssl.evaluate import evaluate as judge
    from medssl.evaluate.door import read_patients
    from medssl.evaluate.files import read_table, said
    from medssl.evaluate.locked import read_thresholds
    from medssl.evaluate.terms import Terms
    from medssl.evaluate.values import read_mapping, write_template

    names = said(columns, "--columns")
    given = _named(tables, lambda path: read_table(path, names))
    if mapping_template:
        say(
            f"{write_template(mapping_template, given, by, minimum_patients)} values in {mapping_template}; fill in group"
        )
        return
    terms = Terms(
        missing_scores=missing_scores,
        probabilities=score_kind is ScoreKind.probability,
        label_map=said(label_map, "--label-map"),
        rows_are_patients=rows_are_patients,
        mapping=read_mapping(mapping) if mapping else {},
        age_bands=_whole(age_bands, "--age-bands"),
        trained_on=read_patients(trained_on) if trained_on else frozenset(),
        thresholds=read_thresholds(threshold) if threshold else {},
        explore=explore,
        show_ids=show_ids,
    )
    report = judge(
        given, by=by, split=split, margin=margin, minimum_patients=minimum_patients, title=title,
        target_sensitivity=target_sensitivity, terms=terms,
    )  # fmt: skip
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


def _whole(numbers: str, option: str) -> list[int]:
    try:
        return [int(number) for number in numbers.split(",")]
    except ValueError:
        raise UserError(f"{option} {numbers!r}: give whole numbers with commas, e.g. 18,40,65,90") from None


def _named(paths: Sequence[Path], read: Callable[[Path], pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Tables by file name, or by the folder's where files share one (runs/a/predictions.parquet, runs/b/...)."""
    stems = [path.stem for path in paths]
    names = [path.stem if stems.count(path.stem) == 1 else path.resolve().parent.name for path in paths]
    if len(set(names)) < len(names):
        raise UserError(f"{paths[0].name}: two tables would have the name {names[0]!r}; rename one of the files")
    return {name: read(path) for name, path in zip(names, paths, strict=True)}


def _read_json(path: Path) -> dict[str, object]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; make it with medssl evaluate") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error}); make it again with medssl evaluate") from None
