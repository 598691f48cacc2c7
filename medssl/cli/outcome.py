"""What a user is told when predictions have been made: who was not answered, who looks unlike, which lesions were found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from medssl.domain import BOUND, read_density
from medssl.evaluate.detection import told
from medssl.evaluate.lesions import lesions_beside


def refusals(listed: Path) -> Iterator[str]:
    """How many volumes, series and files were not answered, and why; nothing for a store, or where all were."""
    if not listed.exists() or (refused := pd.read_csv(listed, dtype=str, keep_default_na=False)).empty:
        return
    yield f"{len(refused)} volumes, series and files not answered; {listed} says of each what to do:"
    for reason, count in refused["reason"].value_counts().items():
        yield f"  {reason}: {count}"


def likeness(run: Path, table: pd.DataFrame) -> Iterator[str]:
    """How many volumes are unlike those that the model was trained on, and how many would be by chance."""
    if (density := read_density(run)) is None:
        yield f"note: {run} does not tell what its training volumes look like; run medssl finetune again to add that"
        return
    cases = table.drop_duplicates("sample_id")
    whom = (
        "held-out volumes"
        if density.of == "val"
        else "training volumes (split val has none), each judged by the others"
    )
    yield (
        f"{cases['warning'].ne('').sum()} of {len(cases)} volumes are unlike the training volumes: farther from them than "
        f"{BOUND:.0%} of {len(density.held_out)} {whom}; of volumes like those, {density.by_chance:.1%} would be"
    )


def lesions(output: Path, table: pd.DataFrame) -> Iterator[str]:
    """How well lesions were found, by split, where label maps tell, and elsewhere how many candidates there are."""
    if not (where := lesions_beside(output)).exists():
        return
    entries = pd.read_csv(where) if output.suffix == ".csv" else pd.read_parquet(where)
    for name, cases in table.groupby("split"):
        judged = cases["sample_id"][cases["label"].notna()]
        here = entries[entries["split"] == name]
        known = here[here["sample_id"].isin(judged)]
        if len(judged):
            yield f"{name}: {told(known, cases[cases['label'].notna()])}"
        if len(judged) < len(cases):
            yield f"{name}: {len(here) - len(known)} candidates in {len(cases) - len(judged)} cases without a label map"
