"""Features as points on a plane, and who is near whom."""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np


def plane_by_pca(features: np.ndarray) -> np.ndarray:
    """The two directions of most spread of unit features (N, E), as places (N, 2); the larger side of each is positive."""
    unit = _unit(features)
    u, values, _ = np.linalg.svd(unit - unit.mean(0), full_matrices=False)
    places = np.zeros((len(features), 2))
    kept = min(2, len(values))
    places[:, :kept] = u[:, :kept] * values[:kept]
    side = np.sign(places[np.abs(places).argmax(0), [0, 1]])
    return places * np.where(side == 0, 1, side)


def plane_by_umap(features: np.ndarray) -> np.ndarray | None:
    """UMAP's places (N, 2) by cosine, the same each time; None where umap-learn is not installed (medssl[atlas]).

    McInnes et al., 2018, arXiv:1802.03426. It shows neighbours; distances between groups mean nothing.
    """
    if importlib.util.find_spec("umap") is None or len(features) < 5:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numba's and of threads, on import and in every fit
        import umap

        near = min(15, len(features) - 1)
        return np.asarray(umap.UMAP(n_neighbors=near, metric="cosine", random_state=0).fit_transform(features))


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
