"""Co-teaching for wrong labels: of two networks each shows the other the scans that it finds easy.

Han et al., NeurIPS 2018, arXiv:1804.06872: networks learn what is regular before they learn wrong labels by heart, so scans
with small losses are likely labelled right, and two networks differ in what they get wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from medssl.atomic import replacing
from medssl.errors import UserError
from medssl.learners.supervised import Supervised
from medssl.recipe import Share
from medssl.views import Batch


class CoTeaching(nn.Module):
    """Each network's loss over the scans of a batch whose loss is lowest for the other. `wrong` is the share of labels that
    are thought wrong: as many are left out. In the first `wait` of the run nobody is, then more and more during the next
    `rise` of it. The first network answers.

    Differs by the wait: where a network that knows nothing yet leaves scans out, what it guesses is what the other one
    learns, and both end with a guess (see benchmarks/wrong_labels.py).

    How often each of `patients` was shown, and left out for the first network, is kept: who is left out may be a group.
    """

    wants: tuple[str, ...]
    wants, answers, alone = (), "", True
    done: torch.Tensor
    shown: torch.Tensor
    left_out: torch.Tensor

    def __init__(
        self,
        model: Supervised,
        other: Supervised,
        *,
        steps: int,
        shape: tuple[int, ...],
        patients: Sequence[str],
        wrong: Share = 0.2,
        wait: Share = 0.3,
        rise: Share = 0.1,
    ) -> None:
        super().__init__()
        self.trunk, self.head, self.added, self.whole = model.trunk, model.head, model.added, (model,)
        if wrong and int(wrong * shape[0]) < 1:
            raise UserError(
                f"learn.wrong: {wrong:g} of a batch of {shape[0]} is no scan; raise finetune.batch to {math.ceil(1 / wrong)}"
            )
        self.other = other
        self.wrong, self.wait, self.rise, self.steps, self.patients = wrong, wait, rise, steps, patients
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))
        for name in ("shown", "left_out"):
            self.register_buffer(name, torch.zeros(len(patients), dtype=torch.int64))

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Each network's loss."""
        target = batch.target
        mine, theirs = (
            functional.binary_cross_entropy_with_logits(
                one.answer(batch.x[0], batch.told).float(), target, reduction="none"
            )
            for one in (self.whole[0], self.other)
        )
        count = len(target) - self.too_many(len(target))
        for_me, for_them = (each.detach().argsort(stable=True)[:count] for each in (theirs, mine))
        if self.training:
            every = torch.bincount(batch.patient, minlength=len(self.patients))
            kept = torch.bincount(batch.patient[for_me], minlength=len(self.patients))
            self.shown += every.to(self.shown.device)
            self.left_out += (every - kept).to(self.left_out.device)
        return {"task": mine[for_me].mean(), "other": theirs[for_them].mean()}

    def too_many(self, scans: int) -> int:
        """How many of so many scans are left out now."""
        late, rise = int(self.done) - self.wait * self.steps, self.rise * self.steps
        share = min(max(late / rise, 0.0), 1.0) if rise else float(late >= 0)
        return min(int(self.wrong * share * scans), scans - 1)

    def after_step(self, steps: int) -> None:
        """Nothing; one more step is done."""
        self.done += 1

    def rate_of(self, name: str) -> float:
        """As the networks'."""
        return self.whole[0].rate_of(name.removeprefix("other."))

    def picture(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The views."""
        return self.whole[0].picture(batch)

    def tell(self, run: Path) -> None:
        """Nothing; left_out.csv in `run` has a row for each patient: how often shown and how often left out."""
        table = pd.DataFrame({"patient_pid": self.patients, "shown": self.shown.cpu(), "left_out": self.left_out.cpu()})
        with replacing(run / "left_out.csv") as part:
            table.to_csv(part, index=False)
