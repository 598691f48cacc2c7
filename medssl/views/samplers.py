"""Which rows a step sees, as a function of (seed, step) alone: resuming needs no state and workers cannot change it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medssl.errors import UserError


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


def balanced_rows(step: int, classes: Sequence[object], groups: Sequence[object], batch: int, seed: int) -> np.ndarray:
    """Row numbers (batch,) of a step in which every class (modality, site) comes equally often, however many rows it has.

    Of as many rows drawn as there are classes, one is of each, in random order; a class shows all its rows before it
    shows one again. With more than one group, a whole batch is of one group of one class, and classes take turns batch by
    batch.
    """
    members: dict[object, list[int]] = {}
    for row, name in enumerate(classes):
        members.setdefault(name, []).append(row)
    rows_by_class = [np.array(rows) for rows in members.values()]
    if len(set(groups)) > 1:
        turn, which = _turn(step, len(rows_by_class), seed)
        rows = rows_by_class[which]
        own = seed * 1_000_003 + which  # classes of the same make-up are not to be shuffled alike
        return rows[rows_of_step(turn, [groups[row] for row in rows], batch, own)]
    drawn = []
    for draw in range(step * batch, (step + 1) * batch):
        turn, which = _turn(draw, len(rows_by_class), seed)
        rows = rows_by_class[which]
        epoch, place = divmod(turn, len(rows))
        drawn.append(rows[np.random.default_rng([seed, 1, which, epoch]).permutation(len(rows))[place]])
    return np.array(drawn)


def _turn(draw: int, classes: int, seed: int) -> tuple[int, int]:
    """How often each class was drawn in all earlier rounds, and the class of this draw."""
    turn, place = divmod(draw, classes)
    return turn, int(np.random.default_rng([seed, 0, turn]).permutation(classes)[place])


def share_of(rows: int, rank: int, world: int) -> range:
    """The places of a batch of `rows` that process `rank` of `world` takes: its slice of them, and no other's.

    Raises UserError when the processes do not divide the batch.
    """
    if rows % world:
        raise UserError(
            f"batch: {rows} in all, but {world} processes cannot share them alike; give a multiple of {world}"
        )
    return range(rank * rows // world, (rank + 1) * rows // world)
