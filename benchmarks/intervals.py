"""How often the report is right about cohorts whose truth is known: intervals, false gaps, false equivalence.

Intervals of AUROC through `estimate`, as a report makes them, beside two that are often published: DeLong's standard error
over rows, 1.96 times it on either side, and the percentiles of a bootstrap over rows. Verdicts through `gaps`: how often any
of six equal groups is told to differ, beside six tests at 5 % each; and how often two groups that differ by just the margin
are told to be equivalent. Scores are normal, a patient's two eyes have the same label and a correlation of .8.

`OMP_NUM_THREADS=1 python benchmarks/intervals.py` prints Markdown.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import stats

from medssl.evaluate.bootstrap import counts, weighted_auroc
from medssl.evaluate.groups import estimate, gaps
from medssl.evaluate.intervals import logit
from medssl.evaluate.measures import AUROC
from medssl.evaluate.metrics import measure_auroc

EYES_ALIKE = 0.8
MARGIN = 0.05
SIZES = ((8, 40), (15, 100), (100, 1000))
TRUE = (0.94, 0.80)
DRAWN = 500
"""Replicates of the percentile bootstrap."""

SIX_EQUAL = ((20, 60),) * 6
SIX_UNEQUAL = ((14, 56), (20, 80), (30, 120), (60, 240), (90, 360), (120, 480))
TWO = ((400, 1200), (400, 1200))
SIX = ((300, 900),) * 6


def scores(label: np.ndarray, shift: np.ndarray, eyes: int, rng: np.random.Generator) -> np.ndarray:
    """Scores of the eyes of patients, positives `shift` standard deviations higher."""
    own, shared = rng.normal(size=(len(label), eyes)), rng.normal(size=(len(label), 1))
    noise = math.sqrt(1 - EYES_ALIKE) * own + math.sqrt(EYES_ALIKE) * shared
    return (noise + (label * shift)[:, None]).ravel()


def shift_of(auroc: float) -> float:
    """The distance of two normals of one width that have this AUROC."""
    return math.sqrt(2) * float(stats.norm.ppf(auroc))


def cohorts(groups: tuple[tuple[int, int], ...], aurocs: list[float], eyes: int, times: int) -> Iterator[pd.DataFrame]:
    """Tables of groups with (positive, negative) patients, each group with its true AUROC."""
    rng = np.random.default_rng([eyes, len(groups), *map(sum, groups)])
    label = np.concatenate([np.repeat([1.0, 0.0], sizes) for sizes in groups])
    group = np.repeat(np.arange(len(groups)), [sum(sizes) for sizes in groups])
    shift = np.array([shift_of(auroc) for auroc in aurocs])[group]
    table = pd.DataFrame({
        "patient_id": np.repeat(np.arange(len(label)), eyes), "label": np.repeat(label, eyes),
        "race": np.repeat(np.array(list("abcdef"), object)[group], eyes),
    })  # fmt: skip
    for _ in range(times):
        yield table.assign(score=scores(label, shift, eyes, rng))


def wald(rows: pd.DataFrame) -> tuple[float, float]:
    """The AUROC plus and minus 1.96 of DeLong's errors, every row a patient."""
    found = measure_auroc(rows["label"].to_numpy(), rows["score"].to_numpy(), np.arange(len(rows)), len(rows))
    return found.value - 1.96 * found.error, found.value + 1.96 * found.error


def percentiles(rows: pd.DataFrame) -> tuple[float, float]:
    """The percentiles of AUROCs of rows drawn again."""
    statistic = weighted_auroc(rows["label"].to_numpy(), rows["score"].to_numpy(), np.arange(len(rows)))
    drawn = np.concatenate([statistic(chunk) for chunk in counts(len(rows), DRAWN)])
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def ours(rows: pd.DataFrame) -> tuple[float, float]:
    """The interval of a report."""
    row = estimate(rows, AUROC, "", "all", 1)
    return (math.nan, math.nan) if row["low"] is None else (row["low"], row["high"])


def coverage(times: int) -> Iterator[str]:
    """Lines of the first table."""
    yield "| positives / negatives | eyes | true AUROC | medssl | too low / too high | naive Wald DeLong | percentiles |"
    yield "|---" * 7 + "|"
    for sizes in SIZES:
        for eyes in (1, 2):
            for true in TRUE:
                ends = np.array([
                    [way(rows) for way in (ours, wald, percentiles)] for rows in cohorts((sizes,), [true], eyes, times)
                ])  # fmt: skip
                held = ((ends[..., 0] <= true) & (true <= ends[..., 1])).mean(0)
                under, over = (ends[:, 0, 1] < true).mean(), (ends[:, 0, 0] > true).mean()
                yield (
                    f"| {sizes[0]} / {sizes[1]} | {eyes} | {true:.2f} | **{100 * held[0]:.1f}** | "
                    f"{100 * under:.1f} / {100 * over:.1f} | {100 * held[1]:.1f} | {100 * held[2]:.1f} |"
                )


def each_for_itself(rows: pd.DataFrame) -> bool:
    """Whether any group differs from the others by its own test at 5 %, as patients."""
    patient = np.asarray(pd.factorize(rows["patient_id"])[0])
    label, score, race = (rows[name].to_numpy() for name in ("label", "score", "race"))
    for name in "abcdef":
        sides = []
        for inside in (race == name, race != name):
            found = measure_auroc(label[inside], score[inside], patient[inside], int(patient.max()) + 1)
            slope = max(found.value * (1 - found.value), 1e-9)
            sides.append((logit(min(found.value, 1 - 1e-9)), found.error / slope))
        if abs(sides[0][0] - sides[1][0]) > 1.96 * math.hypot(sides[0][1], sides[1][1]):
            return True
    return False


def false_gaps(times: int) -> Iterator[str]:
    """Lines of the second table."""
    yield "| six groups of the same true AUROC (.85) | eyes | medssl: any gap | six tests at 5 %: any gap |"
    yield "|---" * 4 + "|"
    for name, groups in (
        ("20 / 60 each", SIX_EQUAL),
        ("14 / 56 to 120 / 480", SIX_UNEQUAL),
    ):
        for eyes in (1, 2):
            found = np.array([
                (any(gap["verdict"] == "gap" for gap in gaps(rows, AUROC, "race", 11, MARGIN)), each_for_itself(rows))
                for rows in cohorts(groups, [0.85] * 6, eyes, times)
            ])  # fmt: skip
            yield f"| {name} | {eyes} | **{100 * found[:, 0].mean():.1f}** | {100 * found[:, 1].mean():.1f} |"


def false_equivalence(times: int) -> Iterator[str]:
    """Lines of the third table."""
    yield "| groups | eyes | told equivalent at a true gap of the margin | at no gap |"
    yield "|---" * 4 + "|"
    for name, groups in ("two, 400 / 1200 each", TWO), ("six, 300 / 900 each", SIX):
        for eyes in (1, 2):
            told = []
            for gap, count in (MARGIN, times), (0.0, max(times // 4, 1)):
                # The first group differs from all others by the gap.
                aurocs = [0.85 - gap, *[0.85] * (len(groups) - 1)]
                told.append(np.mean([
                    gaps(rows, AUROC, "race", 11, MARGIN)[0]["verdict"] == "equivalent"
                    for rows in cohorts(groups, aurocs, eyes, count)
                ]))  # fmt: skip
            yield f"| {name} | {eyes} | **{100 * told[0]:.1f}** | {100 * told[1]:.1f} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=2000, help="cohorts of each line (default 2000)")
    times = parser.parse_args().times
    for table in (coverage, false_gaps, false_equivalence):
        before = time.process_time()
        for line in table(times):
            print(line, flush=True)
        print(f"\n{time.process_time() - before:.0f} CPU s\n", flush=True)


if __name__ == "__main__":
    main()
