"""k nearest neighbours in a space of features. A patient's own volumes are never neighbours: they are alike anyway."""

from __future__ import annotations

import numpy as np

K, TEMPERATURE = 10, 0.07
"""Neighbours that vote, and how much more the nearer ones count (Wu et al., CVPR 2018, arXiv:1805.01978)."""

CHUNK = 1024
"""Volumes whose neighbours are looked for at a time."""


def neighbours_say(
    features: np.ndarray, labels: np.ndarray, patients: np.ndarray, k: int = K, apart: np.ndarray | None = None
) -> np.ndarray:
    """The label (N,) that the k nearest volumes of other patients vote for, by cosine similarity.

    `features` (N, E), `labels` (N,) whole numbers, `patients` (N,). Two volumes that share a value of `apart` (N,), say
    their scanner, are no neighbours either. Fewer than k others all vote; with none, -1.
    """
    nearest, near = nearest_of(features, patients, k, apart)
    weight = np.where(np.isfinite(near), np.exp((near - 1) / TEMPERATURE), 0.0)
    votes = np.stack([(weight * (labels[nearest] == value)).sum(1) for value in range(labels.max() + 1)], axis=1)
    return np.where(weight.any(1), votes.argmax(1), -1)


def nearest_of(
    features: np.ndarray, patients: np.ndarray, count: int, apart: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The numbers (N, count) of each volume's nearest volumes of other patients by cosine, the nearest first, and how
    similar they are: -inf where one is no neighbour. Fewer columns where there are fewer volumes.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    alike = [np.unique(names.astype(str), return_inverse=True)[1] for names in (patients, apart) if names is not None]
    numbers, similar = [], []
    for start in range(0, len(unit), CHUNK):  # all pairs at once would need memory by the square of the volumes
        some = slice(start, start + CHUNK)
        similarity = unit[some] @ unit.T
        for one in alike:
            similarity[one[some, None] == one[None]] = -np.inf
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
        numbers.append(order)
        similar.append(np.take_along_axis(similarity, order, axis=1))
    return np.concatenate(numbers), np.concatenate(similar)


def balanced_accuracy(said: np.ndarray, labels: np.ndarray) -> float:
    """The mean over classes of the share that was said right: 1 / classes by chance, however many are of each. nan of
    fewer than two classes.
    """
    classes = np.unique(labels)
    if len(classes) < 2:
        return float("nan")
    return float(np.mean([(said[labels == value] == value).mean() for value in classes]))
