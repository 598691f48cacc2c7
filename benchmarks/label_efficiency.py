"""What pretraining is worth where few volumes are labelled: segmentation of the hippocampus on MR, real data.

Example: python benchmarks/label_efficiency.py $MEDSSL_DATA/msd_hippocampus --jobs 2 -o label_efficiency.json

T1 MR of the Medical Segmentation Decathlon, Task 04. Per seed there is one draw of labelled patients, of which 4 are among
the 8 and these among the 16, one set of first weights, and one pretraining of each kind on all volumes of the training
split, without labels. Everything is fine-tuned alike: the same small network, crops, steps and rate. Dice is
the mean of both structures, of whole volumes. Pretraining sees smaller crops than fine-tuning, half as wide as a volume:
where two views show all of a volume, places are told by where in the view they are, without any anatomy.

The entry that is compared with scratch is the best pretrained one on the validation split at 4 labelled volumes; the
test split is read once everything is trained. A difference is the mean over test patients of their difference, each
averaged over seeds, with the interval of a bootstrap over patients; how far apart the seeds lie is shown beside it.

What the JSON file holds is not computed again. Sized for less than 90 minutes on two cores with --jobs 2.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from medssl.adapt import finetune
from medssl.atomic import write_json
from medssl.evaluate.bootstrap import bootstrap_interval
from medssl.manifest import index, read_card
from medssl.predict import predict
from medssl.recipe import Section, make, read_recipe
from medssl.store import Preparation, prepare
from medssl.train import pretrain

HERE = Path(__file__).parent
RECIPE = HERE.parent / "pipelines" / "hippocampus.yaml"
CARD = HERE.parent / "data_manifests" / "msd_hippocampus.yaml"
LABELLED, SCRATCH = (4, 8, 16), "scratch"

SETTINGS = (
    "views={size: [24, 32, 24], turn: 10, zoom: 0.1}",
    "trunk={name: resenc, widths: [8, 16, 32, 64], blocks: 0}",
    "pretrain={steps: 600, batch: 8, lr: 1e-3}",
    "finetune={steps: 200, batch: 4, lr: 2e-3}",
)
"""The network, crops and steps of all entries."""

SMALL = "views.size=[16, 24, 16]"
"""The crops of pretraining."""

FRESH = "finetune.fresh=[decoder]"
"""Segmentations do not begin with the decoder that a rebuild taught."""

ENTRIES: dict[str, tuple[str, ...]] = {
    SCRATCH: (),
    "masked CNN": ("method={mask: {ratio: 0.6}, rebuild: {}}", "views.count=1", FRESH),
    "SparK": ("method={mask: {ratio: 0.6}, rebuild: {whiten: true}}", "trunk.hide=sparse", "views.count=1", FRESH),
    "global + local": ("method={contrast: {}, local: {apart_mm: 6}}",),
    "local across patients": ("method={local: {apart_mm: 6, across: true}}",),
    "default": ("method={vicreg: {}, local: {apart_mm: 6}}",),
}


def recipe(entry: str, seed: int, labelled: int, *more: str) -> Section:
    """The recipe of an entry, its draw of labelled patients and its first weights."""
    changes = [*SETTINGS, *ENTRIES[entry], f"pretrain.seed={seed}", f"finetune.seed={seed}"]
    return read_recipe(RECIPE, [*changes, f"data.labelled={labelled}", f"data.lot={seed + 1}", *more])


def measure(entry: str, seed: int, store: Path, work: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Dice by number of labelled volumes, split and patient; and under "CPU minutes" what the trainings cost."""
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(dir=work))
    try:
        before, start = time.process_time(), None
        if entry != SCRATCH:
            start = pretrain(recipe(entry, seed, 0, SMALL), store, folder / "trunk")
        found: dict[str, dict[str, dict[str, float]]] = {}
        cost = {"pretrain": (time.process_time() - before) / 60}
        for labelled in LABELLED:
            before = time.process_time()
            run = finetune(recipe(entry, seed, labelled), store, folder / f"tuned-{labelled}", start=start)
            cost[f"finetune {labelled}"] = (time.process_time() - before) / 60
            table = predict(run, store, folder / f"{labelled}.parquet")
            found[str(labelled)] = {
                str(split): rows.groupby("patient_id")["dice_mean"].mean().to_dict()
                for split, rows in table.groupby("split")
            }
        return found | {"CPU minutes": {"all": cost}}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def patients(results: dict, entry: str, labelled: int, split: str) -> pd.DataFrame:
    """Dice of each patient (rows) and seed (columns)."""
    return pd.DataFrame({seed: found[str(labelled)][split] for seed, found in sorted(results[entry].items())})


def difference(results: dict, entry: str, labelled: int) -> tuple[float, float, float, list[float]]:
    """How much higher than scratch the test Dice is, its interval, and that of each seed."""
    gain = patients(results, entry, labelled, "test") - patients(results, SCRATCH, labelled, "test")
    each = gain.mean(axis=1).to_numpy()

    def mean(weights: np.ndarray) -> np.ndarray:
        return each @ weights / weights.sum(0)

    return float(each.mean()), *bootstrap_interval(float(each.mean()), mean, len(each)), gain.mean().tolist()


def table(results: dict) -> str:
    """The results as Markdown, and which entry the validation split chose."""
    lines = [
        "| labelled volumes | entry | test Dice | less scratch (95 %) | of each seed | validation Dice |",
        "|---" * 6 + "|",
    ]
    for labelled in LABELLED:
        for entry in ENTRIES:
            if entry not in results:
                continue
            test, val = (patients(results, entry, labelled, split).to_numpy().mean() for split in ("test", "val"))
            cells = ["", ""]
            if entry != SCRATCH and set(results[entry]) == set(results[SCRATCH]):
                gain, low, high, seeds = difference(results, entry, labelled)
                cells = [f"{gain:+.3f} ({low:+.3f} to {high:+.3f})", ", ".join(f"{value:+.3f}" for value in seeds)]
            lines.append(f"| {labelled} | {entry} | {test:.3f} | {cells[0]} | {cells[1]} | {val:.3f} |")
    tried = [entry for entry in ENTRIES if entry != SCRATCH and entry in results]
    if tried:
        best = max(tried, key=lambda entry: patients(results, entry, LABELLED[0], "val").to_numpy().mean())
        lines += ["", f"Best pretrained entry on the validation split at {LABELLED[0]} labelled volumes: {best}."]
    return "\n".join(lines)


LOST = 0.6
"""Mean Dice below which a training has lost a whole structure: beyond the plot's edge."""


def draw(results: dict, path: Path) -> None:
    """Nothing; a plot of test Dice against labelled volumes is at `path`: a mark for each seed, a line through the medians.

    Trainings that lost a structure stand at the lower edge, with their Dice.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    means = {
        entry: np.array([patients(results, entry, n, "test").mean().to_numpy() for n in LABELLED]) for entry in results
    }
    kept = np.concatenate([values[values > LOST] for values in means.values()])
    low = kept.min() - 0.01
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    styles = "-o", "--s", "-.^", ":D", "-v", "--P"
    for number, (entry, style) in enumerate(zip(results, styles, strict=False)):
        where = np.array(LABELLED) * 1.03 ** (number - (len(results) - 1) / 2)
        (line,) = axes.plot(where, np.median(means[entry], axis=1), style, markevery=[], label=entry, lw=1.5)
        for seed in range(means[entry].shape[1]):
            values = means[entry][:, seed]
            marks = {"color": line.get_color(), "alpha": 0.6, "ms": 5}
            axes.plot(where, np.maximum(values, low), style[-1], **marks)
            for x, value in zip(where[values <= LOST], values[values <= LOST], strict=True):
                axes.annotate(
                    f"{value:.2f}", (x, low), (0, 6 + 8 * (number % 2)), textcoords="offset points", fontsize=7
                )
    axes.set(xscale="log", xlabel="labelled volumes", ylabel="test Dice: each seed, and their median")
    axes.set_ylim(bottom=low - 0.002)
    axes.xaxis.set_major_locator(ticker.FixedLocator(LABELLED))
    axes.xaxis.set_major_formatter(ticker.FixedFormatter([*map(str, LABELLED)]))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    """Measure what is not measured yet; print the table and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="the folder msd_hippocampus, with images/ and labels/")
    parser.add_argument("-o", "--output", type=Path, default=Path("label_efficiency.json"))
    parser.add_argument("--only", action="append", choices=list(ENTRIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="entries measured side by side, one thread each")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "medssl-label-efficiency")
    told = parser.parse_args()
    store = told.work / "store"
    index(told.archive, told.work / "cohort", card=read_card(CARD))
    prepare(told.work / "cohort", store, settings=make(Preparation, read_recipe(RECIPE)["prepare"], "prepare"))
    results = json.loads(told.output.read_text()) if told.output.exists() else {}
    todo = [(e, s) for s in told.seeds for e in told.only or ENTRIES if str(s) not in results.get(e, {})]
    with ProcessPoolExecutor(told.jobs) as pool:
        jobs = {pool.submit(measure, entry, seed, store, told.work): (entry, seed) for entry, seed in todo}
        for job in as_completed(jobs):
            entry, seed = jobs[job]
            results.setdefault(entry, {})[str(seed)] = job.result()
            write_json(told.output, results)
            minutes = sum(job.result()["CPU minutes"]["all"].values())
            sys.stdout.write(f"{entry}, seed {seed}: {minutes:.1f} CPU minutes\n")
            sys.stdout.flush()
    results = {entry: results[entry] for entry in ENTRIES if entry in results}
    sys.stdout.write(table(results) + "\n")
    draw(results, told.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
