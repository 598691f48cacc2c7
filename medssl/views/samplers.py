"""Which rows a step sees, as a function of (seed, step) alone: resuming needs no state and workers cannot change it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def rows_of_step(step: int, groups: Sequence[object], batch: int, seed: int) -> np.ndarray:
    """Row numbers (batch,) of a step. All rows of a batch share one group; every row appears once or more an epoch.

    `groups` names each row's group (the scanner, or one value for all). Batches of one scanner let a contrast take
    its negatives from the same scanner, so that the scanner itself is useless for telling scans apart. A group that
    does not fill its last batch repeats some of its rows.
    """
    members: dict[object, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    lengths = [-(-len(rows) // batch) for rows in members.values()]
    epoch, place = divmod(step, sum(lengths))
    rng = np.random.default_rng([seed, epoch])
    batches: list[np.ndarray] = []
    for rows, length in zip(members.values(), lengths, strict=True):
        order = np.concatenate([rng.permutation(rows) for _ in range(-(-length * batch // len(rows)))])
        batches.extend(order[: length * batch].reshape(length, batch))
    return batches[rng.permutation(len(batches))[place]]
