"""How far a line gets: logistic regression on frozen features, with few labelled patients."""

from __future__ import annotations

import numpy as np
import pandas as pd

FEW = 64
"""Labelled patients that the probe learns from."""

STRENGTH = 1.0
"""Inverse of the ridge penalty on features of unit spread; fixed, so that nothing is tuned on those who are judged."""


def few_patients(labels: np.ndarray, patients: np.ndarray, few: int = FEW, seed: int = 0) -> np.ndarray:
    """Which rows (N,) are of the `few` patients that are labelled: as many of each class as there can be, by lot.

    A patient belongs to the class of its first row. Smaller numbers choose among those of larger ones.
    """
    first = pd.DataFrame({"patient": patients, "label": labels}).drop_duplicates("patient")
    order = np.random.default_rng(seed).permutation(len(first))
    drawn = first.iloc[order]
    turn = drawn.groupby("label").cumcount()
    chosen = drawn.assign(turn=turn).sort_values(["turn"], kind="stable")["patient"].iloc[:few]
    return np.isin(patients, chosen.to_numpy())


def linear_says(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The label (M,) of features `test` (M, E) by a logistic regression learned on `train` (N, E).

    With one class in `labels` that class is the answer.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(labels)) < 2:
        return np.full(len(test), labels[0])
    scaler = StandardScaler().fit(train)
    line = LogisticRegression(C=STRENGTH, max_iter=2000, class_weight="balanced")
    return line.fit(scaler.transform(train), labels).predict(scaler.transform(test))
