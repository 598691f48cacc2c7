"""A case's part of the predictions table: what is answered, and how far that is from what is known."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from medssl.answers.ensemble import Answering, Ensemble
from medssl.answers.grids import place_of
from medssl.answers.voxels import Found, detection_maps, label_maps, likeliest, save_map
from medssl.answers.whole import scores
from medssl.evaluate.detection import lesions_of
from medssl.evaluate.outlines import measured
from medssl.heads import Detect, Present, Segment
from medssl.mistakes import Worst
from medssl.store import Store
from medssl.views.history import Told


class Case(NamedTuple):
    """A row of a store's table, the volumes of its visits, the last first (its own), and what is told beside."""

    row: pd.Series
    volumes: tuple[str, ...]
    told: Told


def answer(models: Ensemble, store: Store, case: Case, asked: Answering, worst: Worst | None = None) -> dict[str, Any]:
    """Columns of the table by name. "scores" are those of each label, "lesions" rows of the table of lesions. Measures are
    nan where there is no label map. A segmentation is shown to `worst`.
    """
    head, row = models.head, case.row
    if isinstance(head, Present):
        known = store.read(row["volume_id"], "mask")[0] if row["has_mask"] else None
        label = np.nan if known is None else float(head.found(torch.from_numpy(known.astype(np.int64))).any())
        return {"scores": [likeliest(models, store, row["volume_id"])[0]], "label": label}
    if not isinstance(head, Segment | Detect):
        return {"scores": scores(models, store, case.volumes, case.told)}
    wanted = place_of(row, "" if asked.maps is not None and asked.grid == "source" else "prepared_")
    found = (label_maps if isinstance(head, Segment) else detection_maps)(models, store, row, wanted)
    truth = store.read(row["volume_id"], "mask")[0] if row["has_mask"] else None
    if isinstance(head, Detect):
        return _lesions(found.prepared, truth, head) | _written(found, row, asked)
    columns = measured(truth, found.prepared, head.structures, row["prepared_spacing"], head.tolerance_mm)
    if worst is not None and truth is not None:
        image = store.read(row["volume_id"])[0]
        worst.show(row["volume_id"], image, (truth, found.prepared), columns, row["prepared_spacing"])
    return columns | _written(found, row, asked)


def _written(found: Found, row: pd.Series, asked: Answering) -> dict[str, Any]:
    """On which grid a map was written, and what there is to say of that; nothing where none is."""
    if asked.maps is None:
        return {}
    save_map(asked.maps / f"{row['volume_id']}.nii.gz", found.written, found.place.affine)
    return {"map_grid": "source" if found.place.is_(place_of(row)) else "prepared", "map_note": found.note}


def _lesions(found: np.ndarray, truth: np.ndarray | None, head: Detect) -> dict[str, Any]:
    highest = float(found.max())
    if truth is None:
        unknown = {"truth": np.nan, "overlap": np.nan}
        alone = [one._asdict() | unknown for one in lesions_of(found, np.zeros_like(found))]
        return {"scores": [highest], "label": np.nan, "lesions": alone}
    lesions = head.lesion(torch.from_numpy(truth.astype(np.int64))).numpy()
    entries = [one._asdict() for one in lesions_of(found, lesions)]
    return {"scores": [highest], "label": float(lesions.any()), "lesions": entries}
