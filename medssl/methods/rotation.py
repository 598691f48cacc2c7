"""Rotation prediction: by how many quarter turns was a view turned?

Gidaris et al., ICLR 2018, arXiv:1803.07728; of volumes Taleb et al., NeurIPS 2020, arXiv:2006.03829, by ten turns.
Differs: a view is turned once a step, by a turn drawn at random, where the paper shows all four at once; of volumes all
24 turns of a cube are asked about, or the four about the slice axis. Leave views.flips out and views.turn below 45: a
view that is mirrored twice is a turned one.
"""

from __future__ import annotations

from itertools import permutations, product
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from medssl.errors import UserError
from medssl.methods.projector import projector
from medssl.processes import own, rows_in_all
from medssl.recipe import Weight
from medssl.trunks import Trunk
from medssl.views import Views

if TYPE_CHECKING:
    from medssl.methods.method import Bank

UNTOLD = 45
"""Degrees of a turn from which a quarter turn may be nearer than none."""

Turn = tuple[tuple[int, ...], tuple[int, ...]]
"""The order in which axes are taken, and the axes that are then mirrored."""


class Rotation(nn.Module):
    """Cross-entropy of the turn of each view, all views alone.

    "plane" turns about the slice axis; "cube", of volumes, about all. Slices that are thicker than voxels are wide tell
    how a cube lies without any anatomy.
    Known: ln 4 (plane) or ln 24 (cube) when nothing is learned.
    """

    dense, views, taught = False, 1, ""
    masked, small = False, False
    family, compares = "predictive", "a view with the turn it was given"

    def __init__(self, trunk: Trunk, *, weight: Weight = 1.0, about: Literal["plane", "cube"] = "plane") -> None:
        super().__init__()
        if about == "cube" and trunk.dims == 2:
            raise UserError("method.rotation.about: cube, but views.size is of two axes; use plane")
        self.weight, self.turns = weight, turns_of(trunk.dims, about)
        self.judge = projector(trunk.dim, len(self.turns))

    def check(self, views: Views, slices: int) -> None:
        """Nothing; raises UserError for views that are turned or mirrored before they are asked about."""
        if views.crops.turn >= UNTOLD:
            raise UserError(
                f"views.turn: {views.crops.turn:g}, but rotation asks for quarter turns, which {UNTOLD} degrees "
                "and more hide; set it to less, e.g. 10"
            )
        if len(views.crops.flips) > 1:
            raise UserError(
                f"views.flips: {list(views.crops.flips)}, but a view mirrored twice is a turned one, which "
                "rotation asks about; leave one axis at most"
            )

    def forward(self, bank: Bank) -> torch.Tensor:
        """The weighted loss of one step."""
        return self.weight * functional.cross_entropy(*self.asked(bank))

    def asked(self, bank: Bank) -> tuple[torch.Tensor, torch.Tensor]:
        """The answer for each view, as logits (R, turns), and the number of its turn (R,)."""
        told = own(torch.randint(len(self.turns), (rows_in_all(bank.rows),)), bank.scans)
        x = torch.stack([turned(x, self.turns[number]) for x, number in zip(bank.x_RCS, told.tolist(), strict=True)])
        return self.judge(bank.method.trunk(x).pooled).float(), told.to(x.device)


def turns_of(dims: int, about: Literal["plane", "cube"]) -> list[Turn]:
    """All rotations of a square or a cube onto itself, or ("plane") those that leave its third axis; none is the first."""
    found = []
    for order, mirror in product(permutations(range(dims)), product((1, -1), repeat=dims)):
        matrix = np.eye(dims)[list(order)] * np.array(mirror)[:, None]
        keeps_slices = dims == 2 or matrix[2, 2] == 1
        if np.linalg.det(matrix) > 0 and (about == "cube" or keeps_slices):
            found.append((order, tuple(axis for axis in range(dims) if mirror[axis] < 0)))
    return found


def turned(x: torch.Tensor, turn: Turn) -> torch.Tensor:
    """A view (C, *S) after a turn. Raises UserError where that changes its shape."""
    order, mirror = turn
    y = x.permute(0, *(axis + 1 for axis in order)).flip([axis + 1 for axis in mirror])
    if y.shape != x.shape:
        raise UserError(f"views.size: {tuple(x.shape[1:])}, but method.rotation exchanges its axes; make them equal")
    return y
