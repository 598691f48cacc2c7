"""Whether a volume looks like those that a model was trained on: how far its features lie from theirs.

What a trunk makes of the unaltered middle of training volumes is described by mean and covariance; a volume's distance is
Mahalanobis' (Lee et al., NeurIPS 2018, arXiv:1807.03888). Features are the means over the cells of every level of the
pyramid together: the last level alone, which is `pooled`, took a picture of one value for a radiograph. Differs: one mean,
not one a class, so that any head can be asked; levels are not weighted by known outliers, which nobody has; the covariance
is Ledoit and Wolf's, which has an inverse with fewer volumes than features; and a distance is told as the share of held-out
volumes that are nearer, or would be were there enough of them, which means the same for every model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.stats import t as student_t
from torch import nn

from medssl import checkpoint
from medssl.atomic import replacing
from medssl.errors import UserError
from medssl.place import find_place
from medssl.probe.features import read_trunk, views_of
from medssl.progress import Progress, silent
from medssl.store import Store
from medssl.trunks import Trunk
from medssl.views import Steps

NAME = "trained_on.safetensors"
"""Of the file in a run's folder."""

ARRAYS, ABOUT = ("mean", "covariance", "held_out"), "about"

MOST = 400
"""Volumes, taken by lot, that describe a set: more would change little and cost a forward pass each."""

BOUND = 0.99
"""Share of held-out volumes that are nearer, above which a volume counts as unlike the training volumes."""

FOLDS = 5
"""Parts that training patients are cut into where nobody was held out: each is judged by the others."""

ENOUGH = 100
"""Held-out volumes from which their ranks tell one in a hundred; with fewer, a law is fitted to their distances."""

FLOOR = 1e-6
"""Share of the mean variance that is added to each, so that features which never vary leave an inverse."""


@dataclass(frozen=True, eq=False)
class Density:
    """Mean (D,) and covariance (D, D) of the features of training volumes, and the distances (N,), sorted, of volumes of
    the split `of` that the features did not learn from, or, for "train", from whose patients mean and covariance did not.
    """

    mean: np.ndarray
    covariance: np.ndarray
    held_out: np.ndarray
    of: str

    def unlike(self, features: np.ndarray) -> np.ndarray:
        """The share (N,) of volumes like the held-out ones that are nearer than each of `features` (N, D): 0 none, 1 all.

        Of `ENOUGH` held-out volumes it is the share of these; of fewer, that which the logarithm of distances leads one to
        expect were it normal, by Student's law of one more value (Geisser, Predictive Inference, 1993): five volumes of
        which none is as far do not make the sixth unlike. nan where there is one volume, and so nothing to expect.
        """
        found = distances(features, self.mean, self.covariance)
        count = len(self.held_out)
        if count >= ENOUGH:
            return np.searchsorted(self.held_out, found, side="left") / count
        known, new = (np.log(np.maximum(one, FLOOR)) for one in (self.held_out, found))
        spread = known.std(ddof=1) * np.sqrt(1 + 1 / count) if count > 1 else np.nan
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(student_t.cdf((new - known.mean()) / spread, count - 1))

    @property
    def by_chance(self) -> float:
        """The share of volumes that are like the held-out ones and count as unlike all the same."""
        count = len(self.held_out)
        return float((np.arange(count + 1) / count > BOUND).mean()) if count >= ENOUGH else 1 - BOUND


def distances(features: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Mahalanobis distances (N,) of `features` (N, D)."""
    from scipy.linalg import cho_factor, cho_solve

    apart = features.astype(float) - mean
    return np.sqrt(np.maximum((apart * cho_solve(cho_factor(covariance, lower=True), apart.T).T).sum(1), 0))


def described(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D) of features (N, D); the covariance has an inverse whatever they are."""
    from sklearn.covariance import ledoit_wolf

    features, width = features.astype(float), features.shape[1]
    covariance = ledoit_wolf(features)[0] if len(features) > 1 else np.zeros((width, width))
    least = FLOOR * float(np.trace(covariance)) / width or FLOOR
    return features.mean(0), covariance + least * np.eye(width)


def density_of(train: np.ndarray, patients: np.ndarray, held_out: np.ndarray | None) -> Density:
    """The density of features (N, D) of training volumes of `patients` (N,), with the distances of features (M, D) of
    volumes that were held out. Without any (None), each part of the training patients is judged by the others; one patient
    alone is judged by itself.
    """
    mean, covariance = described(train)
    if held_out is not None:
        return Density(mean, covariance, np.sort(distances(held_out, mean, covariance)), "val")
    part = pd.factorize(patients)[0] % FOLDS
    found = []
    for number in np.unique(part):
        mine = part == number
        others = train[~mine] if not mine.all() else train
        found.append(distances(train[mine], *described(others)))
    return Density(mean, covariance, np.sort(np.concatenate(found)), "train")


def write_density(
    run: Path, store: Store, train: pd.DataFrame, held_out: pd.DataFrame, progress: Progress = silent
) -> None:
    """Nothing; `run`, whose training on the rows `train` of a store has ended, holds the density of their features, and the
    distances of the rows `held_out`, of which there may be none. One that is there, of the same weights, is kept.
    """
    weights = checkpoint.digest(run / checkpoint.NAME)
    if (run / NAME).exists() and _facts(run / NAME).get("weights") == weights:
        return
    trunk = cast(Trunk, cast(nn.Module, read_trunk(run)).to(find_place("32-true").device).eval())
    train, held_out = _by_lot(train), _by_lot(held_out)
    features = features_of(trunk, views_of(run, store, train), "likeness of training volumes", progress)
    others = None
    if len(held_out):
        others = features_of(trunk, views_of(run, store, held_out), "likeness of held-out volumes", progress)
    density = density_of(features, train["patient_pid"].to_numpy(), others)
    arrays = {name: np.ascontiguousarray(getattr(density, name)) for name in ARRAYS}
    with replacing(run / NAME) as part:
        # Of several entries, safetensors would write now one and now another first.
        save_file(arrays, part, {ABOUT: json.dumps({"of": density.of, "weights": weights})})


def _by_lot(rows: pd.DataFrame) -> pd.DataFrame:
    """At most `MOST` of the rows, the same ones every time."""
    rows = rows.sort_values("volume_id")
    chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[:MOST])
    return rows.iloc[chosen].reset_index(drop=True)


def _facts(path: Path) -> dict[str, str]:
    """What the file of a density says of it; nothing where it is damaged."""
    try:
        with safe_open(path, framework="np") as file:
            return dict(json.loads(file.metadata()[ABOUT]))
    except (SafetensorError, KeyError, TypeError, ValueError):
        return {}


def read_density(run: Path) -> Density | None:
    """The density that a run holds; None for a run of before it was kept. Raises UserError for a damaged one."""
    path = run / NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="np") as file:
            mean, covariance, held_out = map(file.get_tensor, ARRAYS)
        return Density(mean, covariance, held_out, _facts(path)["of"])
    except (SafetensorError, KeyError) as error:
        raise UserError(f"{path}: damaged ({error}); run medssl finetune again, it writes it anew") from None


def features_of(trunk: Trunk, views: Steps, name: str = "likeness", progress: Progress = silent) -> np.ndarray:
    """Features (N, D) of the first view of each volume: the mean over the cells of each level of the trunk's pyramid. The
    trunk must be in eval mode.
    """
    device = next(cast(nn.Module, trunk).parameters()).device
    found = []
    for row in progress(range(len(views.ids)), name, len(views.ids)):
        with torch.no_grad():
            pyramid = trunk(views.view_of(row)[None].to(device)).pyramid
            found.append(torch.cat([level[0].float().flatten(1).mean(1) for level in pyramid]).cpu().numpy())
    return np.stack(found)


def unlike(
    run: Path, density: Density, trunk: Trunk, store: Store, rows: pd.DataFrame, progress: Progress
) -> np.ndarray:
    """The share (N,) of held-out volumes that are nearer to the training volumes than each of `rows` of a store, as the
    `trunk` of a run sees it.
    """
    return density.unlike(features_of(trunk, views_of(run, store, rows), progress=progress))
