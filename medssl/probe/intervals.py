"""Balanced accuracies with intervals: patients are drawn again, and where several lots of labelled patients were learned
from, the lots too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from medssl.evaluate.bootstrap import SEED, Statistic, bootstrap_interval, weights


def weighted_accuracy(said: np.ndarray, truth: np.ndarray, patients: np.ndarray) -> Statistic:
    """Balanced accuracy (replicates,) as a function of the patients' weights (P, replicates), patients in the order in which
    they first appear; nan where a class has no weight.
    """
    owner = pd.factorize(patients)[0]
    classes = np.unique(truth)

    def statistic(weight_PR: np.ndarray) -> np.ndarray:
        shares = []
        for value in classes:
            of = truth == value
            row_NR = weight_PR[owner[of]]
            total = row_NR.sum(0)
            share = (said[of] == value) @ row_NR / np.maximum(total, 1)
            shares.append(np.where(total > 0, share, np.nan))
        return np.mean(shares, axis=0)

    return statistic


def accuracy_interval(said: np.ndarray, truth: np.ndarray, patients: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the balanced accuracy of answers (N,); nan where a class is too rare for one, and where all are
    right or all wrong: drawing them again tells nothing then.
    """
    statistic, people = weighted_accuracy(said, truth, patients), len(set(patients))
    value = float(statistic(np.ones((people, 1)))[0])
    low, high = bootstrap_interval(value, statistic, people)
    return (low, high) if low < high else (float("nan"), float("nan"))


def lots_interval(said: Sequence[np.ndarray], truth: np.ndarray, patients: np.ndarray) -> tuple[float, float]:
    """The 95 % interval (percentiles) of the mean balanced accuracy of several lots' answers (N,) each: who was labelled is
    drawn again as well as who is asked. nan where a class is too rare for one, and where all are right or all wrong.
    """
    people = len(set(patients))
    each = [weighted_accuracy(one, truth, patients) for one in said]
    value_LR = np.concatenate([np.stack([of(chunk) for of in each]) for chunk in weights(people)], axis=1)
    lot_LR = np.random.default_rng(SEED).integers(0, len(said), value_LR.shape)
    mean_R = np.take_along_axis(value_LR, lot_LR, axis=0).mean(0)
    if np.isnan(mean_R).mean() > 0.01:
        return float("nan"), float("nan")
    low, high = np.nanquantile(mean_R, [0.025, 0.975])
    return (float(low), float(high)) if low < high else (float("nan"), float("nan"))
