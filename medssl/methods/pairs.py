"""Relations between rows, to be combined: `same("patient") & ~same("scanner") | near_mm(10)`.

A relation says of each row of one set and each of another whether it holds. Two of them make a contrast: whose views
attract (positive), and who is neither that nor a negative (ignore). SimCLR, MoCo, SupCon, contrasts by patient, by
position and by pseudo-class (G-SimCLR, arXiv:2009.12007), and transitive invariance (Wang et al., ICCV 2017,
arXiv:1708.02901) differ in nothing else.
"""

# R rows of one set, K of another (often the same)
from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from medssl.errors import UserError
from medssl.processes import gathered, place
from medssl.views import Batch
from medssl.views.bend import bent, grid_of

KNOWN = ("scan", "patient", "scanner")
"""Facts that every batch has; any other is a column or a label of the store."""

Words = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What relations are told of rows: whole numbers by name (R,), negative where unknown; the mm of the views' middles
    (R, 3), and their features (R, E).
    """

    facts: Mapping[str, torch.Tensor]
    mm: torch.Tensor = field(default_factory=lambda: torch.empty(0, 3))
    features: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0))


@dataclass(frozen=True)
class Relation:
    """Whether each of R rows is related to each of K: called with two Rows, it returns a boolean matrix (R, K)."""

    of: Callable[[Rows, Rows], torch.Tensor]

    def __call__(self, a: Rows, b: Rows) -> torch.Tensor:
        """The matrix."""
        return self.of(a, b)

    def __and__(self, other: Relation) -> Relation:
        return Relation(lambda a, b: self(a, b) & other(a, b))

    def __or__(self, other: Relation) -> Relation:
        return Relation(lambda a, b: self(a, b) | other(a, b))

    def __invert__(self) -> Relation:
        return Relation(lambda a, b: ~self(a, b))


def same(name: str) -> Relation:
    """The rows that share a fact, such as "patient" or "scanner". What is unknown is the same as nothing, but for scanners:
    all unknown ones are one.
    """

    def of(a: Rows, b: Rows) -> torch.Tensor:
        mine, theirs = (rows.facts[name][None] for rows in (a, b))
        equal = mine.mT == theirs
        return equal if name == "scanner" else equal & (theirs >= 0)

    return Relation(of)


def near_mm(radius: float) -> Relation:
    """The rows whose middles are less than `radius` mm apart in RAS+. Scans must share a frame for it to mean anything:
    join it with same scan, or with same patient where visits are registered.
    """

    def of(a: Rows, b: Rows) -> torch.Tensor:
        # One difference an axis: the shortcut by squares loses digits far from the origin.
        return (a.mm[:, None] - b.mm[None]).square().sum(2) < radius**2

    return Relation(of)


def knn(count: int) -> Relation:
    """The rows of which one is among the `count` others whose features are most similar (cosine) to the other's."""

    def of(a: Rows, b: Rows) -> torch.Tensor:
        x, y = (functional.normalize(rows.features.detach().float(), dim=1) for rows in (a, b))
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 makes neighbours of what is merely near
            near = x @ y.T
        if a is b:
            near = near.clone().fill_diagonal_(-2.0)
        return _highest(near, count) | _highest(near.T, count).T

    return Relation(of)


def _highest(near: torch.Tensor, count: int) -> torch.Tensor:
    best = near.topk(min(count, near.shape[1]), dim=1).indices
    return torch.zeros_like(near, dtype=torch.bool).scatter(1, best, True) & (near > -2.0)


def closure(relation: Relation) -> Relation:
    """The rows that are linked by any number of links of `relation`, either way round: A ~ B and B ~ C make A ~ C."""

    def of(a: Rows, b: Rows) -> torch.Tensor:
        sets = (a,) if a is b else (a, b)
        linked = torch.cat([torch.cat([relation(one, other) for other in sets], 1) for one in sets])
        linked = linked | linked.T | torch.eye(len(linked), dtype=torch.bool, device=linked.device)
        for _ in range((len(linked) - 1).bit_length()):  # paths twice as long each time
            linked = (linked.float() @ linked.float()) > 0
        first = len(relation(a, b))
        return linked[:first] if a is b else linked[:first, first:]

    return Relation(of)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Who attracts whom, and who is ignored: lists of alternatives, each a list of words that must all hold.

    A word is `same FACT`, `near_mm RADIUS` or `knn COUNT`, or one of these after `not`. FACT is scan, patient, scanner, or
    a column or label of the store (site, modality), whose unknown values are the same as none, or a label of the table
    `labels`: a CSV file of volume_id and label:NAME columns, such as the clusters that `medssl probe --clusters` writes.
    With `transitive`, what is positive to a positive is so as well. A row is neither to itself; a positive is not ignored.
    """

    positive: Words = (("same scan",),)
    ignore: Words = (("same patient",), ("not same scanner",))
    transitive: bool = False
    labels: str = ""

    def __post_init__(self) -> None:
        self.relations()

    def __str__(self) -> str:
        """Who attracts whom and who is ignored, in words."""

        def told(words: Words) -> str:
            return " or ".join(" and ".join(every) for every in words) or "nobody"

        linked = " (transitive)" if self.transitive else ""
        return f"{told(self.positive)}{linked} attracts; {told(self.ignore)} is ignored"

    def arguments(self, kind: str) -> tuple[str, ...]:
        """What the words of a kind ("same", "near_mm", "knn") name; none when there is no such word."""
        words = [word.split() for side in (self.positive, self.ignore) for every in side for word in every]
        return tuple(sorted({word[-1] for word in words if word[-2] == kind}))

    def columns(self) -> tuple[str, ...]:
        """The facts that are columns or labels of the store."""
        return tuple(name for name in self.arguments("same") if name not in KNOWN)

    def relations(self) -> tuple[Relation, Relation]:
        """(positive, ignore), before a row's relation to itself is taken off."""
        positive, ignore = _any(self.positive, "pairs.positive"), _any(self.ignore, "pairs.ignore")
        return (closure(positive) if self.transitive else positive), ignore

    def between(self, a: Rows, b: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """(positive, ignore), boolean (R, K) and never both."""
        positive, ignore = (relation(a, b) for relation in self.relations())
        if a is not b:
            return positive, ignore & ~positive
        itself = torch.eye(len(positive), dtype=torch.bool, device=positive.device)
        return positive & ~itself, (ignore & ~positive) | itself


def rows_of(batch: Batch, features: torch.Tensor | None = None) -> Rows:
    """What is known of the rows of a batch, views first: row v * B + b is view v of scan b."""
    views, scans, _, *size = batch.x.shape
    facts = {
        "scan": torch.arange(scans, device=batch.patient.device) + place()[0] * scans,
        "patient": batch.patient,
        "scanner": batch.scanner,
    }
    to_mm, grid = batch.to_mm.flatten(0, 1).double(), grid_of(tuple(size))
    middle = torch.tensor([[*((n - 1) / 2 for n in grid), 1.0]], dtype=torch.float64, device=to_mm.device)
    bends = batch.bend.flatten(0, 1).double() if batch.bend.numel() else [batch.bend] * len(to_mm)
    with torch.autocast(to_mm.device.type, enabled=False):  # bfloat16 has no millimetres to spare
        mm = torch.cat([bent(bend, middle, grid) @ matrix.T for bend, matrix in zip(bends, to_mm, strict=True)])[:, :3]
    return Rows(
        facts={name: values.repeat(views) for name, values in {**facts, **batch.facts}.items()},
        mm=mm.to(batch.patient.device),
        features=torch.empty(0, 0) if features is None else features,
    )


def gathered_rows(rows: Rows, scans: int) -> Rows:
    """The rows of all processes, given those of this one's `scans`."""
    return Rows(
        facts={name: gathered(values, scans) for name, values in rows.facts.items()},
        mm=gathered(rows.mm, scans),
        features=gathered(rows.features, scans) if rows.features.numel() else rows.features,
    )


def _any(alternatives: Words, where: str) -> Relation:
    relation = Relation(lambda a, b: torch.zeros(_count(a), _count(b), dtype=torch.bool, device=a.facts["scan"].device))
    for words in alternatives:
        if not words:
            raise UserError(f"{where}: an empty alternative holds for all; write e.g. [[same scan]]")
        every = _word(words[0], where)
        for word in words[1:]:
            every = every & _word(word, where)
        relation = relation | every
    return relation


def _count(rows: Rows) -> int:
    return len(rows.facts["scan"])


def _word(word: str, where: str) -> Relation:
    negated, *rest = parts if (parts := word.split())[:1] == ["not"] else ["", *parts]
    makers: dict[str, Callable[[str], Relation]] = {
        "same": same, "near_mm": lambda radius: near_mm(float(radius)), "knn": lambda count: knn(int(count)),
    }  # fmt: skip
    if len(rest) != 2 or rest[0] not in makers:
        near = difflib.get_close_matches(rest[0] if rest else "", makers, 1)
        raise UserError(
            f"{where}: {word!r} is no relation; write same FACT, near_mm RADIUS or knn COUNT, or one after "
            f"not{f'; did you mean {near[0]!r}?' if near else ''}"
        )
    try:
        relation = makers[rest[0]](rest[1])
    except ValueError:
        raise UserError(f"{where}: {word!r}: {rest[1]!r} is no number") from None
    return ~relation if negated else relation
