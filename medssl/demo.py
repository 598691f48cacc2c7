"""The demonstration: a phantom hospital archive, written as real files and taken all the way to a report.

Every stage keeps what it finds done, so a second call is quick and a killed one goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medssl.adapt import finetune
from medssl.evaluate import evaluate, read_predictions
from medssl.manifest import index, read_card
from medssl.phantom import PhantomSettings, write_archive
from medssl.predict import predict
from medssl.progress import Progress, silent
from medssl.recipe import Section, make, read_recipe
from medssl.report import write_report
from medssl.shipped import shipped
from medssl.store import Preparation, prepare
from medssl.train import pretrain

TASKS = {"glaucoma": "phantom_oct_glaucoma.yaml", "prostate": "phantom_mr_prostate.yaml"}
"""What the demonstration trains, and by which recipe."""

GROUPS = ("sex", "race", "age_band", "site", "scanner")

FAST_COHORT = PhantomSettings(eye_patients=40, prostate_patients=14, chest_patients=2, xray_patients=2, head_patients=1)
FAST_STEPS = 12
"""Steps of every training under --fast: enough to pass through everything, too few to learn."""


def run_demo(folder: Path, *, fast: bool = False, progress: Progress = silent) -> Iterator[str]:
    """Lines to tell the user while `folder` fills: archive/, cohort/, store/, runs/, report.html and report.json."""
    folder = folder.resolve()
    archive, cohort, store, runs = (folder / name for name in ("archive", "cohort", "store", "runs"))
    counts = write_archive(archive, FAST_COHORT if fast else PhantomSettings(), progress=progress)
    yield f"archive   {counts['patients']} patients, {counts['files']} files in {archive}"
    receipt = index(archive, cohort, card=read_card(shipped("data_manifests/phantom.yaml")), progress=progress)
    yield f"index     {receipt}"
    settings = make(Preparation, _recipe("glaucoma", fast).get("prepare", {}), "prepare")
    yield f"prepare   {prepare(cohort, store, settings=settings, progress=progress)}"
    tables, pictures = {}, dict[str, Path]()
    for task in TASKS:
        recipe = _recipe(task, fast)
        trunk = pretrain(recipe, store, runs / f"{task}_pretrain", progress=progress)
        yield f"pretrain  {task}: {trunk}"
        model = finetune(recipe, store, runs / task, start=trunk, progress=progress)
        yield f"finetune  {task}: {model}"
        predict(model, store, model / "predictions.parquet", progress=progress)
        tables[task] = read_predictions(model / "predictions.parquet")
        pictures |= {f"{task}: {caption}": _last_picture(run) for caption, run in _captions(trunk, model).items()}
    report = evaluate(tables, by=GROUPS, title="Phantom hospital: glaucoma on OCT, prostate on MR")
    page = write_report(report, folder, pictures)
    yield f"report    {page}"
    yield from report["findings"]


def _captions(trunk: Path, model: Path) -> dict[str, Path]:
    return {
        "what pretraining saw, what was left to see, and what it rebuilt": trunk,
        "what fine-tuning saw (and the label maps given and found)": model,
    }


def _recipe(task: str, fast: bool) -> Section:
    steps = [f"pretrain.steps={FAST_STEPS}", f"finetune.steps={FAST_STEPS}"] if fast else []
    return read_recipe(shipped(f"pipelines/{TASKS[task]}"), steps)


def _last_picture(run: Path) -> Path:
    return max((run / "pictures").glob("*.png"))
