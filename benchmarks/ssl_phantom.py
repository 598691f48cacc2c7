"""What each method of pretraining is worth on invented scans whose truth is known, beside no pretraining and all labels.

Example: python benchmarks/ssl_phantom.py --jobs 2
         python benchmarks/ssl_phantom.py --only simclr --only default --seeds 0

A scan is a flat 64x64 mm MR picture of a body in a random pose with two organs. Its class (one of four) is whether the
first organ is large and whether there is a lesion; neither body size nor pose nor scanner tells it. Three scanners differ
in gain, coil, sharpness, contrast and noise; a fourth is only met in the test split. What else differs from scan to scan is
less than what views are altered by: a method learns whatever two views share, of which the class must be the most.
Everything takes the road of real data: NIfTI files and a table -> index -> prepare -> pretrain -> probe.

Per seed there are new patients and new weights. All methods have the same trunk, steps, batch and views, but for what
their recipe in pipelines/methods says; "supervised" has twice the steps, since it sees one view of a scan where pretraining
sees two. All numbers are of patients whom nothing was learned from:

lin-64       balanced accuracy (chance .25) of a line through frozen features, learned from 64 labelled patients
kNN          the same of the ten nearest labelled training patients' votes
leak         how well the scanner is told by the nearest neighbours (chance .33; the gate is .43)
unseen kNN   kNN of patients of the scanner that no training saw
rank         directions that the features use
tuned-64     balanced accuracy after fine-tuning the whole network with 64 labelled patients
CPU min      what the pretraining cost

Settings are chosen on patients of seed 100, which is not among those that are reported. Results are kept in a JSON file:
what it holds is not computed again.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from scipy.ndimage import gaussian_filter
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torch.nn import functional

from medssl import checkpoint
from medssl.atomic import write_json
from medssl.errors import UserError
from medssl.manifest import index, read_card
from medssl.place import find_place
from medssl.probe.features import features_of
from medssl.probe.linear import few_patients, linear_says
from medssl.probe.neighbours import TEMPERATURE, K, balanced_accuracy, neighbours_say
from medssl.probe.rank import rank_me
from medssl.recipe import Section, make, read_recipe
from medssl.runs import open_run
from medssl.store import Preparation, Store, open_store, prepare
from medssl.train import Training, fit, pretrain
from medssl.trunks import Trunk, build_trunk
from medssl.views import Batch, Steps
from medssl.views.select import build_views, select

RECIPES = Path(__file__).parent.parent / "pipelines" / "methods"
SHARED = "scans"
"""The recipe that the others are like."""

SIDE, CLASSES, FEW = 64, 4, 64
PATIENTS = {"train": 600, "val": 400, "test": 200}
RANDOM = {"random init": "simclr", "random init, ViT": "mae", "random init, CSWin": "cswin"}
"""Rows of weights as chance made them, and the recipe whose trunk each has."""
FIRST = "random init"
"""That of the trunk that most recipes have, which is always measured."""
LABELS = "supervised, all labels"
TUNING = {"steps": "400", "batch": "16", "lr": "1e-3"}
"""Fine-tuning, the same for all; chosen for the network from scratch."""

CARD = """
name: invented scans
files: "*.nii.gz"
modality: MR
table: scans.csv
key: name
columns: {name: name, patient_id: patient_id, scanner: scanner, split: split}
labels: {kind: column kind}
"""

LOOKS = {
    "A": {"gain": 1.0, "bias": 0.075, "blur": 0.55, "gamma": 1.0, "noise": 0.234},
    "B": {"gain": 1.3, "bias": 0.125, "blur": 0.7, "gamma": 1.075, "noise": 0.253},
    "C": {"gain": 0.85, "bias": 0.1, "blur": 0.6, "gamma": 0.925, "noise": 0.27},
    "unseen": {"gain": 1.1, "bias": 0.15, "blur": 0.65, "gamma": 0.975, "noise": 0.258},
}
"""What a scanner does to a picture: brightness, strength of the coil's bias, blur in mm, contrast, noise."""


def scan(rng: np.random.Generator, kind: int, scanner: str, noise: float = 1.0) -> np.ndarray:
    """A picture (64, 64, 1) of a body of class `kind`: bit 1 a large organ, bit 0 a lesion; with so much of the noise."""
    axis = np.arange(SIDE) - (SIDE - 1) / 2
    x, y = np.meshgrid(axis, axis, indexing="ij")
    turn = rng.uniform(-np.pi, np.pi)
    size = rng.uniform(0.97, 1.03)  # more than views zoom would be learned in place of the class
    x, y = x - rng.uniform(-1, 1), y - rng.uniform(-1, 1)
    x, y = (x * np.cos(turn) + y * np.sin(turn)) / size, (y * np.cos(turn) - x * np.sin(turn)) / size

    def blob(cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
        level = np.hypot((x - cx) / rx, (y - cy) / ry)
        return 1 / (1 + np.exp((level - 1) * min(rx, ry) / 0.4))

    def about(value: float, spread: float) -> float:
        return value + rng.uniform(-spread, spread)

    picture = 0.45 * blob(0, 0, 22, 26)
    picture += 0.35 * blob(-7, -6, *(about(7.8 if kind & 2 else 6.2, 0.1) for _ in range(2)))
    picture -= 0.25 * blob(8, 9, 6, 5)
    if kind & 1:
        picture += 0.3 * blob(7, -4, about(4, 0.1), about(4, 0.1))
    look = LOOKS[scanner]
    sigma = look["noise"] * noise
    picture = gaussian_filter(np.clip(picture, 0.01, None), look["blur"]) ** look["gamma"]
    # The body lies somewhere in the coil: brighter on one side.
    angle = rng.uniform(0, 2 * np.pi)
    picture *= np.exp(look["bias"] * (axis[:, None] * np.cos(angle) + axis[None] * np.sin(angle)) / SIDE)
    real = picture + rng.normal(0, sigma, x.shape)
    return (1000 * look["gain"] * np.hypot(real, rng.normal(0, sigma, x.shape))).astype(np.float32)[..., None]


def cohort(folder: Path, seed: int) -> Path:
    """The store of new patients, made by the road of real data."""
    store = folder / "store"
    if (folder / "done").exists():
        return store
    shutil.rmtree(folder, ignore_errors=True)
    archive = folder / "archive"
    archive.mkdir(parents=True)
    rng = np.random.default_rng([seed, 2026])
    rows = []
    for split, patients in PATIENTS.items():
        for number in range(patients):
            kind = number % CLASSES
            scanner = "unseen" if split == "test" else "ABC"[rng.integers(3)]
            name = f"{split}{number:04d}"
            nib.save(nib.Nifti1Image(scan(rng, kind, scanner), np.eye(4)), archive / f"{name}.nii.gz")
            rows.append(
                {"name": f"{name}.nii.gz", "patient_id": name, "scanner": scanner, "split": split, "kind": kind}
            )
    with (archive / "scans.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "card.yaml").write_text(CARD)
    index(archive, folder / "cohort", card=read_card(folder / "card.yaml"))
    prepare(folder / "cohort", store, settings=make(Preparation, {"xray_pixels": SIDE}, "prepare"))
    (folder / "done").touch()
    return store


class Sort(nn.Module):
    """A trunk with a line into the four classes, for the one loop."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk, self.line = trunk, nn.Linear(trunk.dim, CLASSES)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The cross-entropy."""
        return {"task": functional.cross_entropy(self.line(self.trunk(batch.x[0]).pooled).float(), batch.target.long())}

    def after_step(self, steps: int) -> None:
        """Nothing to do after a step."""

    def picture(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The views."""
        return {"view": batch.x[0, :, 0].float()}


def labelled(store: Store, split: str) -> pd.DataFrame:
    """A row for each volume of a split, with its class."""
    return select(store, {}, split=split, target="kind")


def tuned(recipe: Section, store: Store, run: Path, *, start: Path | None, few: int, settings: Training) -> float:
    """Balanced accuracy on val of the whole network, fine-tuned with `few` labelled patients (0: all)."""
    torch.manual_seed(settings.seed)
    model = Sort(build_trunk(recipe["trunk"], build_views(recipe["views"]).crops.size))
    if start is not None:
        checkpoint.fill(cast(nn.Module, model.trunk), "trunk.", start)
    rows = labelled(store, "train")
    if few:
        chosen = few_patients(rows["kind"].to_numpy(), rows["patient_pid"].to_numpy(), few, settings.seed)
        rows = rows[chosen].reset_index(drop=True)
    open_run(run, recipe, store, {"kind": "finetune"})
    views = build_views(recipe["views"], count=1)
    fit(model, Steps(store, rows, views, batch=settings.batch, seed=settings.seed, target="kind"), settings, run)
    held, plain = labelled(store, "val"), build_views(recipe["views"], count=1, alter=False)
    seen = Steps(store, held, plain, batch=1, seed=0)
    model = model.to(find_place("32-true").device).eval()
    with torch.inference_mode():
        x = torch.stack([seen.view_of(row) for row in range(len(held))])
        said = model.line(model.trunk(x.to(next(model.parameters()).device)).pooled).argmax(1).cpu().numpy()
    return balanced_accuracy(said, held["kind"].to_numpy(int))


def untrained(recipe: Section, store: Store, run: Path, seed: int) -> None:
    """Nothing; `run` holds the trunk that `tuned` begins with where there is no pretraining."""
    torch.manual_seed(seed)
    model = Sort(build_trunk(recipe["trunk"], build_views(recipe["views"]).crops.size))
    open_run(run, recipe, store, {"kind": "none"})
    checkpoint.save(run / checkpoint.NAME, model, torch.optim.AdamW(model.parameters()), 0)


def asked(run: Path, store: Store) -> dict[str, float]:
    """What the frozen features of a run tell."""
    features, kinds, rows = {}, {}, {}
    for split in PATIENTS:
        features[split], rows[split] = features_of(run, store, split)
        told = labelled(store, split).set_index("volume_id")["kind"]
        kinds[split] = rows[split]["volume_id"].map(told).to_numpy(int)
    patients = rows["train"]["patient_pid"].to_numpy()
    chosen = few_patients(kinds["train"], patients, FEW)
    line = linear_says(features["train"][chosen], kinds["train"][chosen], features["val"])
    near = KNeighborsClassifier(K, weights=lambda distance: np.exp(-distance / TEMPERATURE), metric="cosine")
    near.fit(features["train"], kinds["train"])
    scanner = pd.factorize(rows["val"]["scanner"])[0]
    told = neighbours_say(features["val"], scanner, rows["val"]["patient_pid"].to_numpy())
    return {
        "lin-64": balanced_accuracy(line, kinds["val"]),
        "kNN": balanced_accuracy(near.predict(features["val"]), kinds["val"]),
        "leak": balanced_accuracy(told, scanner),
        "unseen kNN": balanced_accuracy(near.predict(features["test"]), kinds["test"]),
        "rank": rank_me(features["val"]),
    }


def measure(name: str, seed: int, work: Path, changes: tuple[str, ...]) -> dict[str, float]:
    """One row of one seed."""
    torch.set_num_threads(1)
    store = open_store(cohort(work / f"cohort-{seed}", seed))
    base = "simclr" if name == LABELS else RANDOM.get(name, name)
    recipe = read_recipe(RECIPES / f"{base}.yaml", [*changes, f"pretrain.seed={seed}"])
    run = Path(tempfile.mkdtemp(prefix=f"{base}-{seed}-", dir=work))
    try:
        few = make(Training, TUNING | {"seed": str(seed)}, "finetune")
        if name in RANDOM:
            untrained(recipe, store, run / "trunk", seed)
            score = tuned(recipe, store, run / "tuned", start=None, few=FEW, settings=few)
            return asked(run / "trunk", store) | {"tuned-64": score, "CPU min": 0.0}
        before = time.process_time()
        if name == LABELS:
            twice = {"steps": str(2 * int(recipe["pretrain"]["steps"]))}  # as many views as pretraining sees
            long = make(Training, recipe["pretrain"] | twice, "pretrain")
            score = tuned(recipe, store, run / "trunk", start=None, few=0, settings=long)
            spent = time.process_time() - before
            return asked(run / "trunk", store) | {"tuned-64": score, "CPU min": spent / 60}
        start = pretrain(recipe, store.path, run / "trunk")
        spent = time.process_time() - before
        score = tuned(recipe, store, run / "tuned", start=start, few=FEW, settings=few)
        return asked(run / "trunk", store) | {"tuned-64": score, "CPU min": spent / 60}
    finally:
        shutil.rmtree(run, ignore_errors=True)


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """The results as Markdown: the mean over seeds, and between how far apart they lie."""
    columns = list(next(iter(next(iter(results.values())).values())))
    lines = ["| method | seeds | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    first = [name for name in (*RANDOM, LABELS) if name in results]
    for name in [*first, *sorted(set(results) - set(first))]:
        rows = list(results[name].values())
        cells = []
        for column in columns:
            values = [row[column] for row in rows]
            digits = 1 if column in ("rank", "CPU min") else 2
            spread = f" ({min(values):.{digits}f}-{max(values):.{digits}f})" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.{digits}f}{spread if column not in ('rank', 'CPU min') else ''}")
        lines.append(f"| {name} | {len(rows)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def measured(only: list[str] | None) -> list[str]:
    """What is measured, by name: all, or `only` these, with what they are to be better than: the same trunk as chance made
    it, and all labels.
    """
    methods = only or sorted({path.stem for path in RECIPES.glob("*.yaml")} - {SHARED})

    def trunk(name: str) -> str:
        return str(read_recipe(RECIPES / f"{name}.yaml")["trunk"].get("name", "resenc"))

    tried = {trunk(name) for name in methods if name not in (*RANDOM, LABELS)}
    chance = [name for name, base in RANDOM.items() if name == FIRST or trunk(base) in tried]
    return list(dict.fromkeys([*chance, LABELS, *methods]))


def main() -> None:
    """Measure what is not measured yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="a recipe by name, beside chance and all labels; repeatable")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="methods measured side by side, one thread each")
    parser.add_argument("--set", action="append", default=[], help="a change of every recipe, e.g. pretrain.steps=100")
    parser.add_argument("--results", type=Path, default=Path("ssl_phantom.json"), help="what is known, and is added to")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "medssl-ssl-phantom")
    told = parser.parse_args()
    names = measured(told.only)
    results = json.loads(told.results.read_text()) if told.results.exists() else {}
    todo = [(name, seed) for seed in told.seeds for name in names if str(seed) not in results.get(name, {})]
    for seed in told.seeds:
        cohort(told.work / f"cohort-{seed}", seed)
    with ProcessPoolExecutor(told.jobs) as pool:
        jobs = {pool.submit(measure, name, seed, told.work, tuple(told.set)): (name, seed) for name, seed in todo}
        for job in as_completed(jobs):
            name, seed = jobs[job]
            try:
                results.setdefault(name, {})[str(seed)] = job.result()
            except UserError as error:
                sys.stderr.write(f"{name}, seed {seed}: {error}\n")
                continue
            write_json(told.results, results)
            numbers = ", ".join(f"{key} {value:.2f}" for key, value in results[name][str(seed)].items())
            sys.stdout.write(f"{name}, seed {seed}: {numbers}\n")
            sys.stdout.flush()
    sys.stdout.write(table({name: results[name] for name in names if name in results}) + "\n")


if __name__ == "__main__":
    main()
