"""Cross-validation: every patient who is not of the test split is judged once, by a model that has not seen them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from medssl.adapt import finetune
from medssl.errors import UserError
from medssl.evaluate.lesions import lesions_beside
from medssl.predict import predict, write_table
from medssl.progress import Progress, silent
from medssl.recipe import Section
from medssl.train import pretrain

NAME = "predictions.parquet"


def crossvalidate(
    recipe: Section, store: Path | str, output: Path | str, *, folds: int = 5, progress: Progress = silent
) -> Iterator[str]:
    """Lines to tell the user while `output` fills: fold-0/ to the last, each with its run, and predictions.parquet with
    every patient of the splits train and val, told by the one model that did not learn from them.

    These rows are called "test", as nothing was chosen by them; a threshold cannot be fixed without others. Patients are
    dealt by `views.select.folds`. With a section `method` in the recipe, each fold has a pretraining of its own, which does
    not see its held-out patients either. Of a head for detection, the tables of lesions are put together as well.
    What is done is kept: a second call goes on.
    """
    output = Path(output)
    if folds < 2:
        raise UserError(f"folds: {folds}; give at least 2, 5 is usual")
    parts = []
    for fold in range(folds):
        place = output / f"fold-{fold}"
        part = recipe | {"data": dict(recipe.get("data", {})) | {"folds": str(folds), "fold": str(fold)}}
        start = pretrain(part, store, place / "trunk", progress=progress) if "method" in recipe else None
        run = finetune(part, store, place / "model", start=start, progress=progress)
        table = predict(run, store, place / NAME, splits=["val"], progress=progress)
        yield f"fold {fold + 1} of {folds}: {table['patient_id'].nunique()} patients judged by {run}"
        parts.append(place / NAME)
    told = [pd.read_parquet(part) for part in parts]
    table = pd.concat(told, ignore_index=True).assign(split="test", model=output.name)
    write_table(table, output / NAME)
    if all(lesions_beside(part).exists() for part in parts):
        lesions = pd.concat([pd.read_parquet(lesions_beside(part)) for part in parts], ignore_index=True)
        write_table(lesions.assign(split="test", model=output.name), lesions_beside(output / NAME))
    yield f"{len(table)} predictions of {table['patient_id'].nunique()} patients in {output / NAME}"
