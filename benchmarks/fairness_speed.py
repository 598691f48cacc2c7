"""What a bootstrap of AUROCs by group costs: medssl beside a loop over scikit-learn and fairlearn; and a whole report.

CPU seconds, in one process and on the same rows. The peers draw fewer replicates and are scaled up; each replicate costs
them the same. All draw with patients as rows, as fairlearn knows nothing else. A peer that is not installed is left out.

`OMP_NUM_THREADS=1 python benchmarks/fairness_speed.py` prints Markdown.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from medssl.evaluate import evaluate
from medssl.evaluate.bootstrap import counts, weighted_auroc
from medssl.evaluate.resampling import resampled_metrics
from medssl.report import write_report

PEER_REPLICATES = 20
ATTRIBUTES = {"sex": 2, "site": 3, "age_band": 5, "race": 6}
LARGE = {"patients": 100_000, "replicates": 2000, "groups": 20}


def cohort(patients: int, groups: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (a fifth are positive), scores, and groups of equal size by chance."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(patients) < 0.2).astype(float)
    return truth, 1 / (1 + np.exp(1 - rng.normal(size=patients) - 1.4 * truth)), rng.integers(0, groups, patients)


def seconds(work: Callable[[], object], rounds: int = 1) -> float:
    """CPU seconds of the quickest of some rounds."""
    found = []
    for _ in range(rounds):
        before = time.process_time()
        work()
        found.append(time.process_time() - before)
    return min(found)


def ours(truth: np.ndarray, score: np.ndarray, group: np.ndarray, replicates: int) -> np.ndarray:
    """AUROCs (1 + groups, replicates) of everybody and each group, from the same draws."""
    people = np.arange(len(truth))
    sides = [people, *(np.flatnonzero(group == one) for one in np.unique(group))]
    each = [weighted_auroc(truth[side], score[side], side) for side in sides]
    return np.concatenate([np.stack([one(drawn) for one in each]) for drawn in counts(len(truth), replicates)], axis=1)


def looped(truth: np.ndarray, score: np.ndarray, group: np.ndarray, replicates: int) -> list[list[float]]:
    """The same by drawing rows and asking scikit-learn."""
    rng, found = np.random.default_rng(0), []
    for _ in range(replicates):
        rows = rng.integers(0, len(truth), len(truth))
        y, s, g = truth[rows], score[rows], group[rows]
        found.append([roc_auc_score(y, s), *(roc_auc_score(y[g == one], s[g == one]) for one in np.unique(group))])
    return found


def fairlearns(truth: np.ndarray, score: np.ndarray, group: np.ndarray, replicates: int) -> object:
    """The same by fairlearn's MetricFrame, with its intervals."""
    from fairlearn.metrics import MetricFrame

    return MetricFrame(
        metrics=roc_auc_score, y_true=truth, y_pred=score, sensitive_features=group, n_boot=replicates,
        ci_quantiles=[0.025, 0.975], random_state=0,
    ).by_group_ci  # fmt: skip


def table(patients: int) -> pd.DataFrame:
    """Predictions with four attributes; a tenth are validation rows."""
    truth, score, _ = cohort(patients, 1)
    rng = np.random.default_rng(1)
    names = {name: np.array(list("FMabcd"))[rng.integers(0, levels, patients)] for name, levels in ATTRIBUTES.items()}
    every = np.arange(patients)
    return pd.DataFrame({
        "sample_id": [f"s{k}" for k in every], "patient_id": [f"p{k}" for k in every],
        "split": np.where(every % 10 == 0, "val", "test"), "label": truth, "score": score, **names,
    })  # fmt: skip


def alone(what: str) -> None:
    """One of the large measurements in a process of its own, for its memory; prints seconds and MB."""
    if what == "bootstrap":
        truth, score, group = cohort(LARGE["patients"], LARGE["groups"])
        before, clock = time.process_time(), time.perf_counter()
        ours(truth, score, group, LARGE["replicates"])
    elif what == "nothing":
        before, clock = time.process_time(), time.perf_counter()
    else:
        rows = table(LARGE["patients"])
        before, clock = time.process_time(), time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            write_report(evaluate({"predictions": rows}), folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{time.process_time() - before} {time.perf_counter() - clock} {peak}")


def apart(what: str) -> list[float]:
    """CPU seconds, seconds on the wall and MB at most of one of the large measurements."""
    done = subprocess.run([sys.executable, __file__, "--alone", what], capture_output=True, text=True, check=True)
    return [float(number) for number in done.stdout.split()]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=20_000)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--alone", choices=["bootstrap", "nothing", "report"], help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.alone:
        alone(told.alone)
        return
    rows = cohort(told.patients, 6)
    ours(*rows, 2)  # what is imported late is imported now
    own = seconds(lambda: ours(*rows, told.replicates), rounds=5)
    print(f"| {told.patients} patients, {told.replicates} replicates, 6 groups and everybody | CPU s | x medssl |")
    print("|---|---|---|")
    print(f"| medssl | {own:.3f} | 1 |", flush=True)
    scale = told.replicates / PEER_REPLICATES
    for name, way in ("a loop over scikit-learn's roc_auc_score", looped), ("fairlearn's MetricFrame", fairlearns):
        try:
            taken = scale * min(seconds(lambda way=way: way(*rows, PEER_REPLICATES)) for _ in range(2))
        except ImportError:
            print(f"| {name}: not installed | | |")
            continue
        print(f"| {name}, {PEER_REPLICATES} replicates, scaled | {taken:.1f} | {taken / own:.0f} |", flush=True)
    print("\n| 100,000 patients | CPU s | s on the wall | MB at most |\n|---|---|---|---|")
    for what, name in (
        ("nothing", "only imported"),
        ("bootstrap", "AUROC, 2000 replicates, 20 groups and everybody"),
        ("report", f"evaluate and write_report, {len(resampled_metrics()) + 4} metrics, 4 attributes of 2 to 6 groups"),
    ):
        cpu, wall, peak = apart(what)
        print(f"| {name} | {cpu:.1f} | {wall:.1f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
