"""Pseudo-classes of training volumes: clusters of their frozen features, as a table that the next pretraining compares by.

Scans of one cluster are then no negatives of each other, or attract: the idea of G-SimCLR, arXiv:2009.12007. Differs: any
pretrained trunk's features are clustered, where theirs are those of a denoising autoencoder, and by direction.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans

from medssl.atomic import write_text
from medssl.errors import UserError
from medssl.probe.probe import Evidence

STARTS = 10
"""Beginnings of k-means, of which the best is kept."""


def cluster_numbers(features: np.ndarray, count: int) -> np.ndarray:
    """The number (N,), from 0, of the cluster in which k-means puts each of the features (N, dim), always the same ones.

    Lengths do not count, as for neighbours. Raises UserError for fewer than two clusters, and for more than volumes.
    """
    if not 2 <= count <= len(features):
        raise UserError(
            f"clusters: {count} of {len(features)} training volumes; give a number from 2 to that of volumes"
        )
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return KMeans(count, n_init=STARTS, random_state=0).fit_predict(unit.astype(np.float64))


def write_clusters(evidence: Evidence, count: int, folder: Path) -> Path:
    """The path of clusters.csv in `folder`: of each training volume its id, its patient and, as label:cluster, a number.

    Held-out volumes are not in it: they would have helped to draw what the next trunk learns from.
    """
    rows, path = evidence.seen_rows, folder / "clusters.csv"
    table = rows[["volume_id", "patient_pid"]].assign(**{"label:cluster": cluster_numbers(evidence.seen, count)})
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, table.to_csv(index=False))
    return path
