"""The composition: views -> mask -> trunk -> terms. Each forward a term asks for is run once a step and shared."""

# V views, B scans, C channels, *S space; R = V * B rows
from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol, cast, runtime_checkable

import torch
from torch import nn

from medssl.errors import UserError
from medssl.methods.rebuild import Rebuild
from medssl.methods.teacher import Average
from medssl.methods.weights import LearnedWeights
from medssl.processes import fetched, gathered, own, rows_in_all
from medssl.recipe import Weight
from medssl.trunks import Features, Trunk
from medssl.trunks.decoder import Decoder
from medssl.views import Batch, Views
from medssl.views.masks import Masking, spread, strangers

RANDOM = Masking()

NO_TEACHER = "method.teacher_half_life: 0, but a term asks for a teacher; set it, e.g. to 0.02"

BLIND = "this trunk makes nothing of hidden cells, of which a term asks; set it to token"


class Bank:
    """One step's views and what the trunk makes of them, each forward run at most once.

    Rows are views-first: row v * B + b is view v of scan b. They are those of this process; `gathered` gives a term that
    compares rows those of all.
    """

    def __init__(self, method: Method, batch: Batch) -> None:
        self.batch, self.method = batch, method
        self.x_RCS = batch.x.flatten(0, 1)
        self.rows, self.scans = len(self.x_RCS), batch.x.shape[1]
        self.mask = method.masking.draw(self.x_RCS, method.trunk.cell, self.scans)
        self._features: dict[tuple[bool, bool], Features] = {}
        self._dense: dict[bool, torch.Tensor] = {}
        self._small: Features | None = None

    def features(self, *, masked: bool = False, teacher: bool = False) -> Features:
        """The trunk's features of all rows; the teacher's carry no gradient and see whole views."""
        key = (masked, teacher)
        if key not in self._features:
            if teacher:
                self._features[key] = self.method.teach(self.x_RCS)
            elif masked and self.method.masking.fill == "another":
                self._features[key] = self.method.trunk(self._replaced())
            else:
                self._features[key] = self.method.trunk(self.x_RCS, self.mask if masked else None)
        return self._features[key]

    def _replaced(self) -> torch.Tensor:
        """All rows with the same view of another patient's scan wherever they are hidden."""
        hidden = spread(self.mask, tuple(self.x_RCS.shape[2:]))
        others = own(strangers(self.gathered(self.batch.patient)), self.scans)
        return torch.where(hidden, fetched(self.batch.x, others).flatten(0, 1), self.x_RCS)

    def gathered(self, x: torch.Tensor) -> torch.Tensor:
        """The rows of all processes, in the order of one that has the whole batch, given this one's (n * B, ...)."""
        return gathered(x, self.scans)

    @property
    def all_scans(self) -> int:
        """How many scans all processes have."""
        return rows_in_all(self.scans)

    def every_pooled(self) -> torch.Tensor:
        """The trunk's pooled features of all rows and, after them, of the small views (R + L * B, dim)."""
        if not self.batch.small.numel():
            return self.features().pooled
        if self._small is None:
            self._small = self.method.trunk(self.batch.small.flatten(0, 1))
        return torch.cat([self.features().pooled, self._small.pooled])

    def hidden(self, features: Features) -> torch.Tensor:
        """The coarsest level's features of hidden cells, row after row (R * hidden, width).

        Raises UserError for a trunk that makes nothing of hidden cells.
        """
        if not self.method.trunk.fills and self.method.masking.fill == "token":
            raise UserError(f"trunk.hide: {BLIND}")
        return features.pyramid[-1].flatten(2).transpose(1, 2)[self.mask.flatten(1)]

    def averaged(self, term: Term) -> nn.Module:
        """The teacher's twin of the part that a term calls `taught`."""
        return self.method.averaged(term)

    def asked(self) -> tuple[str, ...]:
        """Which of "mask", "teacher", "decoder" and "small" the terms have asked for until now."""
        masked, taught = (any(key[n] for key in self._features) for n in range(2))
        every = {"mask": masked, "teacher": taught, "decoder": self._dense, "small": self._small}
        return tuple(name for name, there in every.items() if there)

    def dense(self, *, masked: bool = False) -> torch.Tensor:
        """The decoder's vector for each voxel of all rows (R, width, *S)."""
        if masked not in self._dense:
            if self.method.decoder is None:
                raise ValueError("a term asks for dense features but declares dense = False; set it to True")
            self._dense[masked] = self.method.decoder(self.features(masked=masked), self.x_RCS.shape[2:])
        return self._dense[masked]


class Term(Protocol):
    """A part of a method: heads, a target, a loss. Called with a Bank, it returns one weighted loss."""

    dense: bool
    """Whether it wants the decoder."""
    views: int
    """How many views of a scan it needs at least."""
    taught: str
    """The name of its part that the teacher has an average of; "" when it needs none."""
    masked: bool
    """Whether it works on masked views."""
    small: bool
    """Whether it learns from small views as well."""
    family: str
    """The leaf of the taxonomy that it belongs to (see catalogue.py)."""
    compares: str
    """What is compared with what, in words."""

    def __call__(self, bank: Bank) -> torch.Tensor: ...


@runtime_checkable
class Particular(Protocol):
    """A term that does not learn from all views."""

    def check(self, views: Views, slices: int) -> None:
        """Nothing; raises UserError for views that it learns nothing from."""


def named(terms: Iterable[str]) -> str:
    """The subject of a sentence about what all terms do not do."""
    names = list(terms)
    return f"{' and '.join(names)} {'do' if len(names) > 1 else 'does'}"


class Method(nn.Module):
    """Named, weighted losses of a batch; they are only added up by the loop.

    `masking` is what is hidden wherever a term works on masked views. `teacher_half_life` (fraction of the run, 0 = no
    teacher) keeps averaged twins of the trunk, and of the part that a term calls `taught`, for terms that ask for them.
    With `weighing` "learned", each term's share in the sum is learned as well, on top of its `weight` (see weights.py).
    """

    def __init__(
        self,
        trunk: Trunk,
        terms: dict[str, Term],
        *,
        masking: Masking = RANDOM,
        teacher_half_life: Weight = 0.0,
        weighing: Literal["fixed", "learned"] = "fixed",
    ) -> None:
        super().__init__()
        if teacher_half_life and not any(term.taught for term in terms.values()):
            raise UserError(
                f"method.teacher_half_life: {teacher_half_life:g}, but {named(terms)} not ask for a teacher; leave it out, "
                "or add a term that does, e.g. byol, or contrast: {teacher: true}"
            )
        self.trunk, self.masking = trunk, masking
        self.terms = nn.ModuleDict(terms)  # type: ignore[arg-type]
        self.decoder = Decoder(trunk) if any(term.dense for term in terms.values()) else None
        self.teacher = Average(cast(nn.Module, trunk), teacher_half_life) if teacher_half_life else None
        self.averages = nn.ModuleDict({
            name: Average(getattr(term, term.taught), teacher_half_life)
            for name, term in terms.items()
            if term.taught and teacher_half_life
        })  # fmt: skip
        self.weights = LearnedWeights(terms) if weighing == "learned" else None
        self.views = max(term.views for term in terms.values())
        pairs = [p for term in terms.values() if (p := getattr(term, "pairs", None))]
        self.columns = tuple(sorted({column for one in pairs for column in one.columns()}))
        self.tables = tuple(sorted({one.labels for one in pairs if one.labels}))

    def check(self, views: Views, slices: int) -> None:
        """Nothing; raises UserError where a term could learn nothing from such views of volumes of so many slices."""
        if self.views > views.count:
            raise UserError(f"views.count: {views.count}, but method compares {self.views} views; set views.count")
        if views.small and not any(term.small for term in self.terms.values()):
            raise UserError(
                f"views.small: {named(self.terms)} not learn from small views; leave it out, or take dino or swav"
            )
        for term in self.terms.values():
            if isinstance(term, Particular):
                term.check(views, slices)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """One loss for each term, by its name."""
        if len(batch.x) < self.views:
            raise UserError(f"views.count: {len(batch.x)}, but a term of this method compares {self.views} views")
        bank = Bank(self, batch)
        losses = {name: term(bank) for name, term in self.terms.items()}
        return losses if self.weights is None else self.weights(losses)

    def teach(self, x_RCS: torch.Tensor) -> Features:
        """The teacher's features of whole views."""
        if self.teacher is None:
            raise UserError(NO_TEACHER)
        return self.teacher(x_RCS)

    def averaged(self, term: Term) -> nn.Module:
        """The teacher's twin of the part that a term calls `taught`."""
        for name, mine in self.terms.items():
            if mine is term and name in self.averages:
                return self.averages[name]
        raise UserError(NO_TEACHER)

    def after_step(self, steps: int) -> None:
        """Nothing; the teacher has moved towards the trunk, in a run of `steps` steps."""
        if self.teacher is not None:
            self.teacher.follow(cast(nn.Module, self.trunk), steps)
        for name, average in self.averages.items():
            term = self.terms[name]
            cast(Average, average).follow(getattr(term, str(term.taught)), steps)

    @torch.no_grad()
    def picture(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Views (R, *S) to look at: what went in, what was hidden, and what each term draws of it."""
        bank = Bank(self, batch)
        images = {"view": bank.x_RCS[:, 0].float()}
        for term in self.terms.values():
            if isinstance(term, Rebuild):
                images |= term.draw(bank)
        return images
