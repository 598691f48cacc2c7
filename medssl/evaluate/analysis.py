"""From predictions to a report: cohort, missingness, metrics by group, gaps, and three sentences that sum it up."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from medssl.errors import UserError
from medssl.evaluate import cohort, lesions
from medssl.evaluate.average import average
from medssl.evaluate.bootstrap import SEED
from medssl.evaluate.deployment import check_prevalence
from medssl.evaluate.door import Admitted, admit
from medssl.evaluate.findings import findings
from medssl.evaluate.groups import (
    MOST_LEVELS,
    Row,
    by_group,
    check_levels,
    estimate,
    gaps,
    has_attribute,
    levels_of,
    with_group,
)
from medssl.evaluate.lesions import Detection, check_lesions, separated
from medssl.evaluate.locked import thresholds_of
from medssl.evaluate.measures import AUROC, BRIER, Metric, of_outlines, of_probabilities, share
from medssl.evaluate.outlines import CONVENTIONS, measure_of
from medssl.evaluate.power import power
from medssl.evaluate.predictions import NOT_KNOWN, attributes_of, by_task, in_order, structures_of
from medssl.evaluate.resampling import resampled_metrics
from medssl.evaluate.sections import SECTIONS, Judged
from medssl.evaluate.sections.missing import remarks
from medssl.evaluate.terms import DECLARED_NOTHING, Terms
from medssl.evaluate.threshold import Threshold, threshold_for

SCHEMA_VERSION = "1"


@dataclass(frozen=True)
class Rules:
    """What is decided before looking at the numbers."""

    split: str
    margin: float
    minimum_patients: int
    target_sensitivity: float | None
    prevalence: float | None
    terms: Terms
    thresholds: Mapping[str, Threshold]


class Part(NamedTuple):
    """What is judged by itself: a table, or of one with several tasks the rows of one; `digest` and `notes` are the whole
    table's. `lesions` are those of a detection, whose table they came with.
    """

    name: str
    table: pd.DataFrame
    digest: str
    notes: Sequence[str]
    lesions: pd.DataFrame | None = None


def evaluate(
    tables: Mapping[str, pd.DataFrame | Detection],
    *,
    by: Sequence[str] = (),
    split: str = "test",
    margin: float = 0.05,
    minimum_patients: int = 11,
    title: str = "Model evaluation",
    target_sensitivity: float | None = None,
    prevalence: float | None = None,
    terms: Terms = DECLARED_NOTHING,
) -> dict[str, Any]:
    """The content of report.json: an analysis for each table (name -> predictions), and of one with several tasks for each
    task, with a threshold of its own; and the mean AUROC over the tasks of each such table.

    A table with labels and scores is a classification, one with dice_, nsd_ or hd95_ columns a segmentation, a `Detection`
    a classification of its cases with its lesions judged beside. `by` names
    attributes, "a*b" crosses two; empty means every attribute of at most 20 groups. `margin` is the difference that
    would matter, declared before looking. Groups below `minimum_patients` are not shown. The threshold comes from the
    validation rows: Youden's, or the one that reaches `target_sensitivity`; or it is given in `terms`, which declare what a
    table does not say by itself. `prevalence` is how common the finding is where the model will be used: PPV, NPV and net
    benefit are told for it. Raises UserError with everything that is wrong with a table.
    """
    asked = {name: value for name, value in locals().items() if name not in ("tables", "terms")} | {
        "terms": terms.told()
    }
    if not 0 < margin < 1:
        raise UserError(f"evaluate: margin {margin} is not between 0 and 1; 0.05 is usual")
    if minimum_patients < 1:
        raise UserError(f"evaluate: minimum_patients {minimum_patients} is below 1; 11 is usual")
    if target_sensitivity is not None and terms.thresholds:
        raise UserError(
            "evaluate: a threshold is given, and a target sensitivity to choose one by; leave one of them out"
        )
    check_prevalence(prevalence)
    tables, found = separated(tables)
    admitted = _admitted(tables, by, terms, split)
    checked = {name: one.table for name, one in admitted.items()}
    found = {name: check_lesions(table, checked[name], name) for name, table in found.items()}
    parts = {name: _parts(name, one.table, split, one.notes, alone=len(checked) == 1) for name, one in admitted.items()}
    parts |= {name: ([parts[name][0][0]._replace(lesions=table)], {}) for name, table in found.items()}
    scored = [part.name for each, _ in parts.values() for part in each if not structures_of(part.table)]
    thresholds = thresholds_of(scored, terms.thresholds)
    rules = Rules(split, margin, minimum_patients, target_sensitivity, prevalence, terms, thresholds)
    analyses = [_analysis(part, by, rules) for found, _ in parts.values() for part in found]
    averages = [
        average(name, {part.name: _judged(part.table, split) for part in found}, left_out)
        for name, (found, left_out) in parts.items()
        if len(by_task(checked[name])) > 1 and not structures_of(checked[name])
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "title": title,
        "split": split,
        "margin": margin,
        "minimum_patients": minimum_patients,
        "explored": terms.explore,
        "analyses": analyses,
        "averages": averages,
        "findings": findings(analyses, averages, margin),
        "provenance": {
            "tables": {name: digest(table) for name, table in checked.items()}
            | {f"{name}{lesions.BESIDE}": lesions.digest(table) for name, table in found.items()},
            "versions": versions(),
            "unit": "patient",
            "level": 0.95,
            "settings": {**asked, "by": list(by)},
            "seed": SEED,
            "splits": {name: _splits(table) for name, table in checked.items()},
            "models": {name: _models(table) for name, table in checked.items()},
        },
    }


def _admitted(tables: Mapping[str, pd.DataFrame], by: Sequence[str], terms: Terms, split: str) -> dict[str, Admitted]:
    """The tables as they are judged; raises UserError where no table has an attribute that is asked for."""
    if not tables:
        raise UserError("evaluate: no predictions table given")
    found = {name: admit(table, name, terms, split) for name, table in tables.items()}
    for attribute in by:
        if not any(has_attribute(one.table, attribute) for one in found.values()):
            with_group(next(iter(found.values())).table, attribute)  # says what there is instead
    return found


def digest(table: pd.DataFrame) -> str:
    """What identifies a table's content, whatever file it came from."""
    content = in_order(table.reindex(sorted(table.columns), axis=1))
    return hashlib.sha256(content.to_csv(index=False).encode()).hexdigest()[:16]


def _parts(
    name: str, table: pd.DataFrame, split: str, notes: Sequence[str], *, alone: bool
) -> tuple[list[Part], dict[str, str]]:
    """What of a table is judged by itself, and of several tasks those that have nothing to judge, with the reason."""
    # Rows in one order: sums of floats depend on it.
    whole, tasks = digest(table), by_task(in_order(table))
    names = [(task if alone else f"{name}: {task}") if task else name for task in tasks]
    found = [Part(one, rows, whole, notes) for one, rows in zip(names, tasks.values(), strict=True)]
    if len(found) == 1 or structures_of(table):
        return found, {}
    empty = [part.name for part in found if _judged(part.table, split).empty]
    if len(empty) == len(found):
        return found, {}  # the first says what is wrong
    reason = f"no row of split {split!r} has both label and score"
    return [part for part in found if part.name not in empty], dict.fromkeys(empty, reason)


def _judged(rows: pd.DataFrame, split: str) -> pd.DataFrame:
    """The rows of a split that have a label and a score."""
    return rows[(rows["split"] == split) & rows["label"].notna() & rows["score"].notna()]


def _splits(table: pd.DataFrame) -> dict[str, int]:
    """How many patients each split has; `check_predictions` has seen that none is in two of them."""
    return {str(name): int(count) for name, count in table.groupby("split")["patient_id"].nunique().items()}


def _models(table: pd.DataFrame) -> list[str]:
    """Whose predictions they are, as far as the table tells: columns `model` and `weights`; of many the first few."""
    columns = [name for name in ("model", "weights") if name in table]
    told = table[columns].drop_duplicates().sort_values(columns) if columns else table.iloc[:0]
    named = [" ".join(filter(None, row)) for row in told.itertuples(index=False)]
    named = [name for name in named if name]
    return [*named[:MOST_LEVELS], *([f"and {len(named) - MOST_LEVELS} more"] if len(named) > MOST_LEVELS else [])]


def versions() -> dict[str, str]:
    """Of what the numbers were computed with."""
    from importlib.metadata import version

    return {name: version(name) for name in ("medssl", "numpy", "scipy", "pandas")}


def _analysis(part: Part, by: Sequence[str], rules: Rules) -> dict[str, Any]:
    name, table = part.name, part.table
    rows = table[table["split"] == rules.split]
    if rows.empty:
        there = ", ".join(sorted(table["split"].unique()))
        raise UserError(f"{name}: no rows of split {rules.split!r}; the table has: {there}")
    judged, threshold, metrics = _task(part, rows, rules)
    left_out = rows.drop(judged.index)
    names, notes = _attributes(judged, by)
    segmentation = bool(structures_of(rows))
    told = Judged(
        judged, left_out, table[(table["split"] == "val") & (rules.split != "val")], segmentation, threshold, names,
        rules.minimum_patients, rules.margin, lesions=part.lesions, name=name, prevalence=rules.prevalence,
        probabilities=rules.terms.probabilities, table=table,
        free=() if rules.terms.protect_unknown else NOT_KNOWN,
    )  # fmt: skip
    estimates = [estimate(judged, metric, "", "all", 1) for metric in metrics]
    found_gaps: list[Row] = []
    for attribute in names:
        for metric in metrics:
            estimates += by_group(judged, metric, attribute, rules.minimum_patients, told.hidden[attribute], told.free)
            if metric.compared:
                # The margin is of shares; none is declared in mm, so no distance is called equivalent.
                margin = 0.0 if measure_of(metric.name).unit else rules.margin
                found_gaps += gaps(
                    judged, metric, attribute, rules.minimum_patients, margin, told.hidden[attribute], told.free
                )
    notes += _conventions(rows)
    if segmentation and (rows["label"].notna() & rows["score"].notna()).any():
        notes.append("Labels and scores beside the Dice columns are not judged; give them as a table of their own.")
    if not segmentation and not rules.terms.probabilities:
        notes.append(
            "Calibration, decision curves and the Brier score are not available: scores are not probabilities."
        )
    sections = {section: content for section, find in SECTIONS.items() if (content := find(told)) is not None}
    return {
        "name": name,
        "task": "segmentation" if segmentation else "classification",
        "primary_metric": metrics[0].name,
        "cohort": cohort.describe(judged, left_out, names, told.hidden),
        "notes": [*part.notes, *cohort.notes(judged, left_out, names), *notes, *remarks(told, sections.get("missing"))],
        "threshold": {"value": threshold.value, "provenance": threshold.provenance, "source": threshold.source},
        "estimates": estimates,
        "gaps": found_gaps,
        "power": power(estimates, found_gaps),
        "sections": sections,
    }


def _task(part: Part, rows: pd.DataFrame, rules: Rules) -> tuple[pd.DataFrame, Threshold, list[Metric]]:
    """The rows that can be judged, the threshold, and the metrics, the primary one first."""
    if structures := structures_of(rows):
        without = Threshold(None, "not needed: a segmentation has no threshold")
        return rows.assign(label=float("nan")), without, of_outlines(structures)
    judged = _judged(rows, rules.split)
    if judged.empty:
        raise UserError(
            f"{part.name}: no row has both label and score, and no column of outlines (dice_...); nothing to judge"
        )
    threshold = rules.thresholds.get(part.name) or threshold_for(
        part.table,
        rules.split,
        part.digest,
        target_sensitivity=rules.target_sensitivity,
        explore=rules.terms.explore,
    )
    metrics = [AUROC]
    if threshold.value is not None:
        metrics += [share("sensitivity", 1, threshold.value), share("specificity", 0, threshold.value)]
    return judged, threshold, [*metrics, *resampled_metrics(), of_probabilities(BRIER, told=rules.terms.probabilities)]


def _conventions(rows: pd.DataFrame) -> list[str]:
    """What must be known to read the numbers of outlines, where there is more than Dice."""
    columns = structures_of(rows)
    if all(column.startswith("dice_") for column in columns):
        return []
    tolerances = sorted(rows["tolerance_mm"].dropna().unique()) if "tolerance_mm" in rows else []
    within = f"{tolerances[0]:g} mm" if tolerances else "a tolerance that the table does not tell (tolerance_mm)"
    near = f"Surface Dice (NSD) is the share of both surfaces, by area, that lies within {within} of the other one."
    return [CONVENTIONS, *([near] if any(column.startswith("nsd_") for column in columns) else [])]


def _attributes(rows: pd.DataFrame, by: Sequence[str]) -> tuple[list[str], list[str]]:
    """The attributes to stratify by, and notes on those asked for and not there, or not groups but values."""
    if by:
        asked = list(dict.fromkeys(by))
        names = [attribute for attribute in asked if has_attribute(rows, attribute)]
        for attribute in names:
            check_levels(rows, attribute)
        return names, [f"{attribute} is not in this table." for attribute in asked if attribute not in names]
    there = attributes_of(rows)
    names = [name for name in there if levels_of(rows, name) <= MOST_LEVELS]
    return names, [
        f"{name} has {levels_of(rows, name)} different values and is not a grouping; band it to stratify by it."
        for name in there
        if name not in names
    ]


__all__ = ["AUROC", "digest", "evaluate"]
