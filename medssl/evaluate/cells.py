"""Which cells of a table with known totals are not shown: the small ones, and others so that no small one can be computed.

The rule. A cell is small when fewer than `minimum` patients are in it, judged or left out, or judged. What the hidden
cells of a line hold together can always be computed, as the line's total less the cells shown; it is therefore treated as
a cell that is shown. Further cells are hidden, the smallest first, until in each line

- at least two are hidden,
- the head count of each small one could be anything from 1 to `minimum` - 1, whatever the totals and the reasons tell,
- together they hold positives and negatives, where the line has both: else the label of everybody hidden is known,

and no hidden cell follows from all totals taken together. Where there are several lines, or nothing is left to hide (then
nothing is shown at all, nor which cells are empty), all hidden cells have one and the same reason: several totals and the
knowledge of which cells are small would together give some away.

Cells that are `free` are not protected so: where they alone are hidden, no other is hidden for them. By default these are
the patients of whom an attribute is not recorded: that is a lack of the record and no trait of theirs, and else a few of
them would hide all women.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medssl.evaluate.predictions import NOT_KNOWN

COMPLEMENT = "hidden so that another group cannot be computed"

ONE = 1 - 1e-9
"""The share of a cell in the totals from which on it follows from them; shares are fractions, rounded in the 16th place."""


@dataclass(frozen=True)
class Cell:
    """Head counts of a group: patients judged or left out, patients judged, and judged rows of each label."""

    everybody: int
    patients: int
    positives: int = 0
    negatives: int = 0

    def small(self, minimum: int) -> bool:
        """Whether it has too few to be shown; a group of nobody hides nobody."""
        return 0 < self.everybody < minimum or 0 < self.patients < minimum


def few(minimum: int) -> str:
    """The reason why a small group is not shown."""
    return f"fewer than {minimum} patients"


def either(minimum: int) -> str:
    """The reason of all hidden cells alike, where to tell the small ones from the others would give some away."""
    return f"{few(minimum)}, or {COMPLEMENT}"


def hidden_cells(
    cells: Mapping[str, Cell],
    lines: Sequence[set[str]],
    minimum: int,
    forced: frozenset[str] = frozenset(),
    free: Collection[str] = NOT_KNOWN,
) -> dict[str, str]:
    """The cells that are not shown, each with the reason, where the sum of the cells of each line is known.

    `forced` are hidden whatever their size, so far as there is anybody in them; `free` need nobody to hide behind.
    """
    small = {name for name, cell in cells.items() if cell.small(minimum)}
    hidden = small | {name for name in forced if cells[name].everybody}
    if not hidden:
        return {}
    while weak := _weak(cells, lines, hidden, minimum, free):
        others = {name for line in weak for name in line if name not in hidden and cells[name].patients}
        if not others:
            return dict.fromkeys(sorted(cells), either(minimum))
        hidden.add(min(others, key=lambda name: (cells[name].patients, name not in NOT_KNOWN, name)))
    if len(lines) > 1:
        return dict.fromkeys(sorted(hidden), either(minimum))
    return {name: few(minimum) if name in small else COMPLEMENT for name in sorted(hidden)}


def _weak(
    cells: Mapping[str, Cell], lines: Sequence[set[str]], hidden: set[str], minimum: int, free: Collection[str]
) -> list[set[str]]:
    """The lines from which something hidden could be computed; of these those with more to hide, if there are any."""
    weak = [line for line in lines if line & hidden - set(free) and not _holds(cells, line, hidden, minimum)]
    if not weak and len(lines) > 1:
        exposed = _exposed(lines, sorted(hidden)) - set(free)
        weak = [line for line in lines if line & exposed]
    return [line for line in weak if any(cells[name].patients for name in line - hidden)] or weak


def _holds(cells: Mapping[str, Cell], line: set[str], hidden: set[str], minimum: int) -> bool:
    """Whether the total of a line leaves open what its hidden cells hold."""
    inside = [cells[name] for name in line & hidden]
    if not inside:
        return True
    if len(inside) < 2:
        return False
    small = [cell for cell in inside if cell.patients < minimum]
    others, pooled, most = len(inside) - len(small), sum(cell.patients for cell in inside), minimum - 1
    if small:
        if pooled - minimum * others - (len(small) - 1) < most:
            return False  # the others hold at least so many that a small one cannot be as large as small ones may be
        if not others and pooled - most * (len(small) - 1) > 1:
            return False  # the others hold at most so few that each must have more than one
    return all(
        any(getattr(cell, label) for cell in inside) or not any(getattr(cells[name], label) for name in line)
        for label in ("positives", "negatives")
    )


def _exposed(lines: Sequence[set[str]], hidden: Sequence[str]) -> set[str]:
    """The hidden cells that follow from the totals of all lines: no change of the other cells makes up for one of theirs."""
    totals = np.array([[name in line for name in hidden] for line in lines], float)
    shares = np.diag(np.linalg.pinv(totals) @ totals)
    return {name for name, share in zip(hidden, shares, strict=True) if share > ONE}
