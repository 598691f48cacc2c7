"""A loss that has risen for good: a training that goes on, with finite numbers, after what it had learned is gone.

The rule, on the rows of log.csv, `WINDOW` at a time. What is normal is told by the lowest of the running medians, and by
how the rows under it scatter. The level is that median and a share of the way from it back to the median at the beginning
(1: as bad as untrained), but never less than `CLEAR` scatters above it. The training has diverged when `MOST` of the last
rows are above that level. The rule knows no unit: it says the same of a loss that is shifted or scaled, and of negative
ones.

It is off by default. A loss may rise by design: a queue of negatives that fills, a teacher that sharpens, weights of terms
that are learned; and a run that was stopped wrongly has lost its time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from medssl import checkpoint
from medssl.errors import UserError
from medssl.runs import read_log

WINDOW = 50
"""Rows of log.csv that are judged together."""

MOST = 0.9
"""Share of them that have to be above the level: a few outliers, or a spike that heals, are none of its business."""

CLEAR = 4.0
"""Scatters (half of what lies between the 16th and the 84th percentile) by which the level is above the lowest median."""

LATELY = 5
"""Rows whose median says whether the weights are good now."""

GOOD = "good.safetensors"
"""The last checkpoint after which the loss was still below the level."""


class Rise:
    """Judges the losses of one run in their order, beginning with those in its log. `share` 0: it says nothing."""

    def __init__(self, share: float, run: Path) -> None:
        self.share, self.run = share, run
        self.losses: list[float] = []
        self.first = self.lowest = self.scatter = float("inf")
        for row in read_log(run / "log.csv") if share else []:
            self._add({name: float(value) for name, value in row.items()})

    def check(self, row: Mapping[str, float]) -> None:
        """Nothing; one more row of the log is known. Raises UserError when the training has diverged."""
        if not self.share:
            return
        self._add(row)
        last = self.losses[-WINDOW:]
        above = sum(loss > self.level for loss in last)
        if len(self.losses) >= 2 * WINDOW and above >= MOST * WINDOW:
            kept = f"; {GOOD} holds the weights from before" if (self.run / GOOD).exists() else ""
            raise UserError(
                f"step {row['step']}: the loss has risen for good: it began at {self.first:.4g} and had come down to "
                f"{self.lowest:.4g}, but {above} of the last {WINDOW} rows of log.csv are above {self.level:.4g}; lower lr "
                f"or raise warmup and train anew, or raise may_rise where it is to rise{kept}"
            )

    @property
    def level(self) -> float:
        """Above this the loss is not to stay; infinite before there is a window."""
        if len(self.losses) < WINDOW:
            return float("inf")
        return self.lowest + max(self.share * (self.first - self.lowest), CLEAR * self.scatter)

    def keep(self, path: Path) -> None:
        """Nothing; if the loss is still fine, the checkpoint that is there, from before its latest rows, is kept as good."""
        if self.share and path.exists() and np.median(self.losses[-LATELY:] or [0.0]) <= self.level:
            checkpoint.keep(path, self.run / GOOD)

    def _add(self, row: Mapping[str, float]) -> None:
        terms = [value for name, value in row.items() if name not in ("step", "lr", "gradient_norm")]
        # As many digits as the log has: a resumed run is to come to the same verdict.
        self.losses.append(sum(float(f"{value:.6g}") for value in terms))
        if len(self.losses) < WINDOW:
            return
        low, median, high = np.percentile(self.losses[-WINDOW:], [16, 50, 84])
        if len(self.losses) == WINDOW:
            self.first = float(median)
        self.lowest, self.scatter = min((self.lowest, self.scatter), (float(median), float(high - low) / 2))
