"""Frozen features of a store's volumes: what a run's trunk makes of the unaltered middle of each."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch
from torch import nn

from medssl import checkpoint
from medssl.place import find_place
from medssl.progress import Progress, silent
from medssl.runs import read_run
from medssl.store import Store
from medssl.trunks import Trunk, build_trunk
from medssl.views import Steps
from medssl.views.select import build_views, narrowed, select


def read_trunk(run: Path, *, trained: bool = True) -> Trunk:
    """The trunk of a run; with `trained` False another that chance made."""
    record = read_run(run)
    recipe = record["recipe"]
    torch.manual_seed(0)
    trunk = build_trunk(recipe.get("trunk", {}), build_views(recipe["views"]).crops.size)
    if trained:
        checkpoint.fill(cast(nn.Module, trunk), record["facts"].get("answers", "") + "trunk.", run)
    return trunk


def features_of(
    run: Path, store: Store, split: str, *, trained: bool = True, progress: Progress = silent
) -> tuple[np.ndarray, pd.DataFrame]:
    """Pooled features (N, dim) and the store's rows of those volumes of a split that the run's recipe asks for."""
    recipe = read_run(run)["recipe"]
    trunk = read_trunk(run, trained=trained)
    rows = select(store, {k: v for k, v in recipe.get("data", {}).items() if k != "labelled"}, split=split)
    module = cast(nn.Module, trunk).to(find_place("32-true").device).eval()
    views = views_of(run, store, rows)
    return pooled(cast(Trunk, module), views, f"features of {split}", progress), rows


def views_of(run: Path, store: Store, rows: pd.DataFrame) -> Steps:
    """The unaltered middle of each row's volume, as large as the run's views."""
    recipe = read_run(run)["recipe"]
    views = build_views(recipe["views"], count=1, alter=False)
    return Steps(narrowed(store, recipe.get("data", {})), rows, views, batch=1, seed=0)


def pooled(trunk: Trunk, views: Steps, name: str = "features", progress: Progress = silent) -> np.ndarray:
    """Pooled features (N, dim) of the first view of each volume. The trunk must be in eval mode."""
    device = next(cast(nn.Module, trunk).parameters()).device
    found = []
    for row in progress(range(len(views.ids)), name, len(views.ids)):
        with torch.no_grad():
            found.append(trunk(views.view_of(row)[None].to(device)).pooled[0].float().cpu().numpy())
    return np.stack(found)
