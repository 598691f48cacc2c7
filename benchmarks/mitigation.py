"""What ways to narrow a gap between groups do, where the gap is known: glaucoma on invented OCT volumes.

Example: python benchmarks/mitigation.py --jobs 2 -o mitigation.json

The eyes of the demonstration with the planted effect (medssl/phantom/eye.py): glaucoma of Black patients shows less in the
scan, by physics and not by their share, so that what no scan shows cannot be learned. Prepared at half the resolution in
two axes. The same network, scans, steps and seeds learn plainly, with each race and class as often, with each weighing
alike, and with features normalised by race; and the plain one is also judged at thresholds of each race with equal false
alarms, fixed on validation rows: a diagnosis, not a proposal (see medssl/evaluate/sections/thresholds.py). The last weights
count; nothing is chosen by validation, no setting was tuned.

Every way is put beside the plain one by `medssl compare` over all seeds: the difference in all and in Black patients, the
change of their gap to the rest, and whether the gap closed because the best group fell. What the JSON file holds is not
computed again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medssl.adapt import finetune
from medssl.atomic import write_json
from medssl.evaluate import compare
from medssl.evaluate.sections.thresholds import threshold_at
from medssl.evaluate.threshold import fix_threshold
from medssl.manifest import index, read_card
from medssl.phantom import PhantomSettings, write_archive
from medssl.phantom.cohort import MUTED_RACE
from medssl.predict import predict
from medssl.recipe import make, read_recipe
from medssl.store import Preparation, prepare

HERE = Path(__file__).parent.parent
RECIPE, CARD = HERE / "pipelines" / "phantom_oct_glaucoma.yaml", HERE / "data_manifests" / "phantom.yaml"
EYES = PhantomSettings(eye_patients=500, prostate_patients=0, chest_patients=0, xray_patients=0, head_patients=0)

SETTINGS = (
    "prepare.oct_spacing=[0.375, 0.25, 0.0416]",
    "views.size=[16, 24, 48]",
    "trunk={name: resenc, widths: [12, 24, 48], strides: [[1, 1, 2], [2, 2, 2], [2, 2, 2]]}",
    "finetune={steps: 300, batch: 12, lr: 3e-3}",
)
"""The network, its views and steps, the same for all."""

PLAIN, OWN = "plain", "thresholds by race"
WAYS: dict[str, tuple[str, ...]] = {
    PLAIN: (),
    "balanced": ("finetune.balance=race*glaucoma",),
    "reweighed": ("learn={name: reweighed, by: race*glaucoma}",),
    "FIN": ("head.fin={race: [Asian, Black, White]}",),
}
METRICS = ("auroc", "sensitivity", "specificity")
KEPT = ["sample_id", "patient_id", "split", "label", "score", "race"]


def make_store(work: Path) -> Path:
    """The prepared eyes."""
    write_archive(work / "archive", EYES)
    index(work / "archive", work / "cohort", card=read_card(CARD))
    settings = make(Preparation, read_recipe(RECIPE, list(SETTINGS))["prepare"], "prepare")
    prepare(work / "cohort", work / "store", settings=settings)
    return work / "store"


def measure(way: str, seed: int, work: Path, changes: list[str]) -> dict[str, Any]:
    """The predictions of val and test, and what they cost."""
    torch.set_num_threads(1)
    run, before = Path(tempfile.mkdtemp(dir=work)), time.process_time()
    try:
        recipe = read_recipe(RECIPE, [*SETTINGS, *WAYS[way], f"finetune.seed={seed}", *changes])
        finetune(recipe, work / "store", run / "run")
        table = predict(run / "run", work / "store", run / "table.parquet")
        return {"table": table[KEPT].to_dict("list"), "CPU min": (time.process_time() - before) / 60}
    finally:
        shutil.rmtree(run, ignore_errors=True)


def at_own_thresholds(table: pd.DataFrame) -> pd.DataFrame:
    """The table with yes or no in place of scores (0.75 and 0.25), by the threshold of each race that flags as many of its
    validation negatives as the common one flags of all; the common one where the race is not known.
    """
    val = table[table["split"] == "val"]
    common = fix_threshold(val, "").value
    assert common is not None
    well = val[val["label"] == 0]
    share = float((well["score"] >= common).mean())
    own = {race: threshold_at(inside["score"].to_numpy(float), share) for race, inside in well.groupby("race")}
    cuts = table["race"].map(own | {"unknown": common}).fillna(common)
    return table.assign(score=np.where(table["score"] >= cuts, 0.75, 0.25))


def table_of(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    plain = {seed: pd.DataFrame(found["table"]) for seed, found in results[PLAIN].items()}
    heads = [
        "way", "metric", "all", "difference (95 %)", "Black", "difference (95 %, among races)", "gap of Black",
        "change (95 %, among races)", "levelling down", "CPU min",
    ]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for way in [*WAYS, OWN]:
        found = results[PLAIN if way == OWN else way]
        seeds = sorted(set(plain) & set(found))
        tables = [pd.DataFrame(found[seed]["table"]) for seed in seeds]
        tables = [at_own_thresholds(one) for one in tables] if way == OWN else tables
        spent = np.mean([found[seed]["CPU min"] for seed in seeds])
        for metric in METRICS[1:] if way == OWN else METRICS:
            told = compare([plain[seed] for seed in seeds], tables, metric=metric, by=["race"])
            whole = told["results"][0]
            (muted,) = [row for row in told["results"] if row["group"] == MUTED_RACE]
            (gap,) = [row for row in told["gap_changes"] if row["group"] == MUTED_RACE]
            cells = [
                way, metric, f"{whole['second']:.3f}", "" if way == PLAIN else _signed(whole, ""),
                f"{muted['second']:.3f}", "" if way == PLAIN else _signed(muted, "adjusted_"), f"{gap['second_gap']:+.3f}",
                "" if way == PLAIN else f"{_signed(gap, 'adjusted_')}, {gap['verdict']}",
                "" if way == PLAIN else told["levelling_down"][0]["state"], "" if way == OWN else f"{spent:.1f}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _signed(row: dict[str, Any], which: str) -> str:
    ends = "no interval" if row["low"] is None else f"{row[which + 'low']:+.3f} to {row[which + 'high']:+.3f}"
    return f"{row['value']:+.3f} ({ends})"


def main() -> None:
    """Measure what is not measured yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("mitigation.json"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side, one thread each")
    parser.add_argument("--set", action="append", default=[], help="a change of every recipe, e.g. finetune.lr=1e-3")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "medssl-mitigation")
    told = parser.parse_args()
    make_store(told.work)
    results = json.loads(told.output.read_text()) if told.output.exists() else {}
    todo = [(way, seed) for seed, way in product(told.seeds, WAYS) if str(seed) not in results.get(way, {})]
    with ProcessPoolExecutor(told.jobs) as pool:
        jobs = {pool.submit(measure, *one, told.work, told.set): one for one in todo}
        for job in as_completed(jobs):
            way, seed = jobs[job]
            found = job.result()
            results.setdefault(way, {})[str(seed)] = found
            write_json(told.output, results)
            sys.stdout.write(f"{way}, seed {seed}: {found['CPU min']:.1f} min\n")
            sys.stdout.flush()
    sys.stdout.write(table_of(results) + "\n")


if __name__ == "__main__":
    main()
