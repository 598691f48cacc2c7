"""Commands of the Judging room: from predictions to a report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medssl.cli.options import INCONCLUSIVE, NOTHING_USABLE, REQUIREMENT, Output, app, now, say, typed
from medssl.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from medssl.evaluate.lesions import Detection
    from medssl.evaluate.terms import Terms

MOST_DIFFERENCES = 10
"""Differences told of a report that does not hold."""

COLUMNS = "Names of another table: patient_id=PID,score=prob,split=:test."
SCORE_KIND = "rank: scores are no probabilities."
LABEL_MAP = "What labels stand for: yes=1,no=0,U=blank."
ROWS_ARE_PATIENTS = "A table without patient_id: each row is another."
AGE_BANDS = "First ages of the bands that a column age is cut into."
MAPPING = "CSV attribute,value,group: which values belong together."
METRICS = "auroc, average_precision, brier, sensitivity, specificity, or a dice_, nsd_ or hd95_ column."


class ScoreKind(StrEnum):
    """What a score means."""

    probability = "probability"
    rank = "rank"


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
    margin: Annotated[float, typer.Option(help="The difference that would matter, declared before looking.")] = 0.05,
    minimum_patients: Annotated[int, typer.Option(help="Groups below so many patients are not shown.")] = 11,
    protect_unknown: Annotated[
        bool, typer.Option(help="Hide another group where else the number of few not recorded could be computed.")
    ] = False,
    target_sensitivity: Annotated[
        float | None, typer.Option(help="What the threshold reaches on validation rows.")
    ] = None,
    threshold: Annotated[str, typer.Option(help="Fixed elsewhere: VALUE:WHERE FROM, or a JSON file.")] = "",
    explore: Annotated[bool, typer.Option(help="Choose it on the judged rows; marks the report.")] = False,
    columns: Annotated[str, typer.Option(help=COLUMNS)] = "",
    score_kind: Annotated[ScoreKind, typer.Option(help=SCORE_KIND)] = ScoreKind.probability,
    label_map: Annotated[str, typer.Option(help=LABEL_MAP)] = "",
    missing_scores: Annotated[str, typer.Option(help="exclude or as_negative: nan and inf are no errors.")] = "",
    rows_are_patients: Annotated[bool, typer.Option(help=ROWS_ARE_PATIENTS)] = False,
    age_bands: Annotated[str, typer.Option(help=AGE_BANDS)] = "18,40,65,90",
    mapping: Annotated[Path | None, typer.Option(help=MAPPING)] = None,
    mapping_template: Annotated[Path | None, typer.Option(help="Write the values into this file, and stop.")] = None,
    trained_on: Annotated[Path | None, typer.Option(help="Patients learned from; none may be judged.")] = None,
    show_ids: Annotated[bool, typer.Option(help="Messages may name samples and patients.")] = False,
) -> None:
    """Judge predictions, overall and by group, with intervals over patients; of a table with several tasks each by itself.

    Any CSV or Parquet table can be judged; everything wrong with it is told at once, each with a code (exit code 2). The
    report is written whatever it says. Exit code 6 where a requirement is not met, overall or in a group.

    Example: medssl evaluate predictions.parquet --by sex --by race --by 'sex*race' -o report.json
    """
    from medssl.atomic import write_json
    from medssl.evaluate import evaluate as judge
    from medssl.evaluate.criteria import NOT_MET, OPEN, read_criteria, with_criteria
    from medssl.evaluate.door import read_patients
    from medssl.evaluate.files import read_table, said
    from medssl.evaluate.locked import read_thresholds
    from medssl.evaluate.values import write_template

    limits = read_criteria(require)
    names = said(columns, "--columns")
    given = _named(tables, lambda path: read_table(path, names))
    if mapping_template:
        say(
            f"{write_template(mapping_template, given, by, minimum_patients)} values in {mapping_template}; fill in group"
        )
        return
    terms = replace(
        _terms(score_kind, label_map, rows_are_patients, mapping, age_bands),
        missing_scores=missing_scores,
        trained_on=read_patients(trained_on) if trained_on else frozenset(),
        thresholds=read_thresholds(threshold) if threshold else {},
        explore=explore,
        protect_unknown=protect_unknown,
        show_ids=show_ids,
    )
    report = judge(
        _detections(given, tables, lesions), by=by, split=split, margin=margin, minimum_patients=minimum_patients,
        title=title, target_sensitivity=target_sensitivity, prevalence=prevalence, terms=terms,
    )  # fmt: skip
    report = with_criteria(report, limits)
    report["provenance"] |= {"command": typed(context), "date": now(), "deviations": deviation, "columns": names}
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
    columns: Annotated[str, typer.Option(help=COLUMNS)] = "",
) -> None:
    """Make scores as sure as they should be, by a temperature fixed on the validation rows; no two change ranks.

    The table keeps what scores were as score_before, and the temperature with where it comes from as calibration. Several
    tasks have each its own.

    Example: medssl calibrate predictions.parquet -o calibrated.parquet
    """
    from medssl.atomic import replacing
    from medssl.evaluate import check_predictions
    from medssl.evaluate.analysis import digest
    from medssl.evaluate.files import read_table, said
    from medssl.evaluate.predictions import by_task
    from medssl.evaluate.temperature import calibrated

    if output.suffix not in (".parquet", ".csv"):
        raise UserError(f"{output}: a predictions table is .parquet or .csv; give one of these endings")
    given = check_predictions(read_table(predictions, said(columns, "--columns")), str(predictions))
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
    from medssl.evaluate.files import read_table
    from medssl.report.verification import differences

    made = told.get("provenance") if isinstance(told, dict) else None
    names = made.get("columns", {}) if isinstance(made, dict) else {}
    found = differences(told, _detections(_named(tables, lambda path: read_table(path, names)), tables, None))
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
    columns: Annotated[str, typer.Option(help=COLUMNS)] = "",
    score_kind: Annotated[ScoreKind, typer.Option(help=SCORE_KIND)] = ScoreKind.probability,
    label_map: Annotated[str, typer.Option(help=LABEL_MAP)] = "",
    rows_are_patients: Annotated[bool, typer.Option(help=ROWS_ARE_PATIENTS)] = False,
    age_bands: Annotated[str, typer.Option(help=AGE_BANDS)] = "18,40,65,90",
    mapping: Annotated[Path | None, typer.Option(help=MAPPING)] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A .json file, or a folder for a page.")] = None,
) -> None:
    """Compare two models on the same patients: difference B - A, in whom, and whether gaps between groups changed.

    One table of each compares two runs; three or more, of as many seeds, two ways of training (A1,A2,A3 B1,B2,B3).

    Example: medssl compare scratch.parquet pretrained.parquet --by sex --by race -o comparison
    """
    from medssl.atomic import write_json
    from medssl.evaluate import compare as judge
    from medssl.evaluate.files import read_table, said
    from medssl.report.comparison import write_comparison

    names = said(columns, "--columns")
    runs = [_paths(given) for given in (first, second)]
    result = judge(
        *([read_table(path, names) for path in paths] for paths in runs), metric=metric, split=split, by=by, margin=margin,
        intersect=intersect, models=[_called(paths) for paths in runs],
        terms=_terms(score_kind, label_map, rows_are_patients, mapping, age_bands),
    )  # fmt: skip
    result["provenance"] |= {"date": now(), "columns": names}
    if output and output.suffix == ".json":
        write_json(output, result)
    elif output:
        say(f"comparison in {write_comparison(result, output)}")
    for line in result["sentences"]:
        say(line)


def _terms(
    score_kind: ScoreKind, label_map: str, rows_are_patients: bool, mapping: Path | None, age_bands: str
) -> Terms:
    """What is declared of a table, whatever becomes of it."""
    from medssl.evaluate.files import said
    from medssl.evaluate.terms import Terms
    from medssl.evaluate.values import read_mapping

    return Terms(
        probabilities=score_kind is ScoreKind.probability,
        label_map=said(label_map, "--label-map"),
        rows_are_patients=rows_are_patients,
        mapping=read_mapping(mapping) if mapping else {},
        age_bands=_whole(age_bands, "--age-bands"),
    )


def _paths(given: str) -> list[Path]:
    """The tables of one model's runs: a path, or several with commas between."""
    return [Path(given)] if Path(given).exists() else [Path(one.strip()) for one in given.split(",")]


def _called(paths: Sequence[Path]) -> str:
    """A model by its tables' names, each with its folder's: that may be all in which two differ."""
    return ", ".join("/".join(path.parts[-2:]) for path in paths)


def _whole(numbers: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in numbers.split(","))
    except ValueError:
        raise UserError(f"{option} {numbers!r}: give whole numbers with commas, e.g. 18,40,65,90") from None


def _named(paths: Sequence[Path], read: Callable[[Path], pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Tables by file name, or by the folder's where files share one (runs/a/predictions.parquet, runs/b/...)."""
    stems = [path.stem for path in paths]
    names = [path.stem if stems.count(path.stem) == 1 else path.resolve().parent.name for path in paths]
    if len(set(names)) < len(names):
        raise UserError(f"{paths[0].name}: two tables would have the name {names[0]!r}; rename one of the files")
    return {name: read(path) for name, path in zip(names, paths, strict=True)}


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
