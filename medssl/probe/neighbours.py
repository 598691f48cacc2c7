"""k nearest neighbours in a space of features. A patient's own volumes are never neighbours: they are alike anyway."""

from __future__ import annotations

import numpy as np

K, TEMPERATURE = 10, 0.07
"""Neighbours that vote, and how much more the nearer ones count (Wu et al., CVPR 2018, arXiv:1805.01978)."""


def neighbours_say(
    features: np.ndarray, labels: np.ndarray, patients: np.ndarray, k: int = K, apart: np.ndarray | None = None
) -> np.ndarray:
    """The label (N,) that the k nearest volumes of other patients vote for, by cosine similarity.

    `features` (N, E), `labels` (N,) whole numbers, `patients` (N,). Two volumes that share a value of `apart` (N,), say
    their scanner, are no neighbours either. Fewer than k others all vote; with none, -1.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    forbidden = patients[:, None] == patients[None]
    if apart is not None:
        forbidden = forbidden | (apart[:, None] == apart[None])
    similarity = np.where(forbidden, -np.inf, unit @ unit.T)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    near = np.take_along_axis(similarity, nearest, axis=1)
    weight = np.where(np.isfinite(near), np.exp((near - 1) / TEMPERATURE), 0.0)
    votes = np.stack([(weight * (labels[nearest] == value)).sum(1) for value in range(labels.max() + 1)], axis=1)
    return np.where(weight.any(1), votes.argmax(1), -1)


def balanced_accuracy(said: np.ndarray, labels: np.ndarray) -> float:
    """The mean over classes of the share that was said right: 1 / classes by chance, however many are of each. nan of
    fewer than two classes.
    """
    classes = np.unique(labels)
    if len(classes) < 2:
        return float("nan")
    return float(np.mean([(said[labels == value] == value).mean() for value in classes]))
