"""A training whose batches ask nothing: every step costs its time, the weights do not move, and no number looks wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from medssl.errors import UserError

FIRST = 10
"""Steps at the beginning that are judged together: one batch without a question is nothing to stop for."""

REMEDY = (
    "there is nothing to tell apart in a batch. Where places are compared, views of a scan have to lie in several; where "
    "scans are, a batch has to hold several patients: raise pretrain.batch, or set pretrain.by_scanner (and "
    "same_scanner of contrast) to false where hardly any scanner has two"
)


class Idle:
    """Judges the first steps of a run. `terms` are the losses of which each by itself has to be something."""

    def __init__(self, terms: Iterable[str] = ()) -> None:
        self.most = dict.fromkeys(terms, 0.0)
        self.norm = 0.0

    def check(self, step: int, norm: float, losses: Mapping[str, float]) -> None:
        """Nothing; one more step is known. Raises UserError after the `FIRST` when all of them were for nothing."""
        if step >= FIRST:
            return
        self.norm = max(self.norm, norm)
        for name in self.most:
            self.most[name] = max(self.most[name], abs(losses[name]))
        if step < FIRST - 1:
            return
        if not self.norm:
            raise UserError(
                f"step {step}: the gradient was 0 in all of the first {FIRST} steps, so nothing is learned; {REMEDY}"
            )
        if empty := [name for name, most in self.most.items() if not most]:
            raise UserError(
                f"step {step}: the loss of {', '.join(empty)} was 0 in all of the first {FIRST} steps; {REMEDY}"
            )
