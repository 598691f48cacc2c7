"""Where to look: a box in millimetres, turned and scaled, as one matrix from view voxels to volume voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from medssl.errors import UserError
from medssl.views.bend import bent, draw_bend, grid_of

STRAIGHT = torch.empty(0, dtype=torch.float64)
"""No bend."""

SAME_PLACE = 1e-9
"""Shares of a volume below which two places along it are one: what is whole but for rounding is whole."""

Numbers = TypeVar("Numbers", np.ndarray, torch.Tensor)


@dataclass(frozen=True, kw_only=True)
class Crops:
    """The law by which a view's place is drawn.

    `size` is the view's grid: two numbers make 2D views, three make 3D ones. `mm` is the box it covers (empty: one view
    voxel is one volume voxel). `turn` is the largest rotation in degrees about each axis, `zoom` the largest relative
    change of scale, `shift` the largest move of a box that is larger than the volume, as a fraction of the box.
    `flips` lists axes that may be mirrored: none by default, because most anatomy has a left and a right. Further views
    share at least `overlap` of each side with the first (before turns and zooms; 0: each lies anywhere, 1: at its place).
    With `centre`, views lie in the middle of the volume, flat ones in that of any slice. With `parts`, the volume is cut
    into so many along the axis `along`; view v lies in part v mod `parts`, views v and v + `parts` on the same slice. With
    `apart_mm`, the views are slabs of one place in the plane, one after the other along `along`, their middles so far
    apart (less where the volume is too short). `bend_mm` is the most by which a view is bent (see bend.py).
    A view is turned, zoomed and bent each with probability `p` by itself.
    A turned view sticks out of the volume with its corners where it is near the border, and what is outside has one value:
    a view tells where it is without any anatomy. With `inside`, corners stay inside, too, wherever they fit; views are
    then drawn from less of the border.
    """

    size: tuple[int, ...]
    mm: tuple[float, ...] = ()
    turn: float = 10.0
    zoom: float = 0.1
    shift: float = 0.05
    flips: tuple[int, ...] = ()
    overlap: float = 0.0
    parts: int = 0
    along: int = 2
    apart_mm: float = 0.0
    bend_mm: float = 0.0
    p: float = 1.0
    inside: bool = False
    centre: bool = False

    def __post_init__(self) -> None:
        if len(self.size) not in (2, 3) or min(self.size) < 1:
            raise UserError(f"views.size: {self.size} is not two (2D) or three (3D) positive numbers of voxels")
        if self.mm and len(self.mm) != len(self.size):
            raise UserError(f"views.mm: {self.mm} has {len(self.mm)} entries, views.size has {len(self.size)}")
        if any(axis not in range(len(self.size)) for axis in self.flips):
            raise UserError(f"views.flips: {self.flips} names an axis that a {len(self.size)}D view lacks; use 0..")
        if not 0 <= self.p <= 1:
            raise UserError(f"views.p: {self.p} is not a probability from 0 to 1")
        if self.mm and min(self.mm) <= 0:
            raise UserError(f"views.mm: {self.mm} is not a box of positive millimetres")
        if not 0 <= self.zoom < 1:
            raise UserError(f"views.zoom: {self.zoom} is no relative change of scale from 0 to below 1")
        if not 0 <= self.overlap <= 1:
            raise UserError(f"views.overlap: {self.overlap} is not a share from 0 to 1")
        for name in ("turn", "shift", "parts", "apart_mm", "bend_mm"):
            if getattr(self, name) < 0:
                raise UserError(f"views.{name}: {getattr(self, name)} is negative; give 0 (off) or more")
        if self.apart_mm and (self.parts or self.overlap):
            raise UserError("views.apart_mm: slabs have their places by it; leave out views.parts and views.overlap")
        if self.along not in (0, 1, 2):
            raise UserError(f"views.along: {self.along} is no axis of a volume; use 0, 1 or 2")
        if self.parts and self.grid[self.along] > 1:
            raise UserError(
                f"views.parts: {self.parts}, but views are {self.grid[self.along]} voxels wide along views.along, and would "
                "stick out of their parts; set views.parts to 0, or views.size to two axes"
            )

    @property
    def grid(self) -> tuple[int, int, int]:
        """The view's grid with a third axis of length one in 2D."""
        return grid_of(self.size)

    def centred(self, shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
        """Matrix (4, 4) from view voxel to volume voxel for the unaltered view of the volume's middle."""
        return _about(self._on_slice((np.array(shape) - 1) / 2, shape), np.eye(3), self._step(affine), self.grid)

    def draw_views(
        self, shape: tuple[int, int, int], affine: np.ndarray, rngs: Sequence[np.random.Generator]
    ) -> list[np.ndarray]:
        """A random matrix for each of `rngs`, related as `overlap`, `parts` and `apart_mm` say."""
        if self.apart_mm:
            return self._slabs(shape, affine, rngs)
        places: list[np.ndarray] = []
        slices = _slices(shape[self.along], self.parts, rngs)
        for rng, number in zip(rngs, slices, strict=True):
            reach = (1 - self.overlap) * np.array(self.grid) * self._step(affine)
            near = (self.middle(places[0]), reach) if places and self.overlap else None
            places.append(self.draw(shape, affine, rng, near=near))
            if number is not None:
                places[-1][self.along, 3] += number - self.middle(places[-1])[self.along]
        return places

    def _slabs(
        self, shape: tuple[int, int, int], affine: np.ndarray, rngs: Sequence[np.random.Generator]
    ) -> list[np.ndarray]:
        """The first view lies anywhere, the others in its line; then all move along it to where they are to be."""
        places: list[np.ndarray] = []
        in_line = np.where(np.arange(3) == self.along, np.inf, 0)
        for rng in rngs:
            near = (self.middle(places[0]), in_line) if places else None
            places.append(self.draw(shape, affine, rng, near=near))
        half = max(self._reach(place[:3, :3], self._step(affine))[self.along] for place in places)
        last = shape[self.along] - 1
        gap = self.apart_mm / np.linalg.norm(affine[:3, self.along])
        gap = min(gap, max(last - 2 * half, 0) / max(len(places) - 1, 1))
        room = max(last - 2 * half, 0) - gap * (len(places) - 1)
        begin = min(half, last / 2) + rngs[0].uniform(0, 1) * max(room, 0)
        for number, place in enumerate(places):
            middle = begin + number * gap
            if self.grid[self.along] == 1:
                middle = np.floor(middle + 0.5)  # a slice of its own, not a mean of two
            place[self.along, 3] += middle - self.middle(place)[self.along]
        return places

    def draw_inside(
        self, shape: tuple[int, int, int], affine: np.ndarray, rng: np.random.Generator, whole: Crops, place: np.ndarray
    ) -> np.ndarray:
        """A random matrix for a view within that of `whole` at `place` (before turns and zooms)."""
        room = (np.array(whole.grid) * whole._step(affine) - np.array(self.grid) * self._step(affine)) / 2
        return self.draw(shape, affine, rng, near=(whole.middle(place), np.maximum(room, 0)))

    def middle(self, place: np.ndarray, bend: torch.Tensor = STRAIGHT) -> np.ndarray:
        """The volume voxel in the middle of a view."""
        middle = torch.tensor([[*(np.array(self.grid) - 1) / 2, 1]], dtype=torch.float64)
        return (place @ bent(bend, middle, self.grid)[0].numpy())[:3]

    def draw_bend(self, place: np.ndarray, affine: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """Control points of a random bend of a view (see bend.py); empty when there is none."""
        if not self.bend_mm:
            return STRAIGHT
        most = self.bend_mm if self._happens(rng) else 0.0
        return draw_bend(most, np.linalg.norm((affine @ place)[:3, :3], axis=0), self.grid, rng)

    def draw(
        self,
        shape: tuple[int, int, int],
        affine: np.ndarray,
        rng: np.random.Generator,
        *,
        near: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> np.ndarray:
        """A random matrix (4, 4) from view voxel to volume voxel, the box inside the volume wherever it fits.

        `near` is a volume voxel, and how far from it along each axis the middle of the view may be.
        """
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        step = self._step(affine)
        if self._happens(rng):
            step = step * (1 + rng.uniform(-self.zoom, self.zoom))
        where = rng.uniform(-1, 1, 3)
        turn = np.eye(3)
        if self._happens(rng):
            turn = _rotation(np.deg2rad(rng.uniform(-self.turn, self.turn, 3)), len(self.size))
        mirror = np.ones(3)
        for axis in self.flips:
            mirror[axis] = rng.choice([-1.0, 1.0])
        linear = np.diag(1 / spacing) @ turn @ np.diag(spacing) @ np.diag(mirror)
        half = self._reach(linear @ np.diag(step), step)
        middle = (np.array(shape) - 1) / 2
        room = middle - half
        slack = np.where(room > 0, room, self.shift * 2 * half * (np.array(shape) > 1))
        if self.centre:
            slack[: len(self.size)] = 0
        low, high = middle - slack, middle + slack
        if near is not None:
            low, high = np.clip(near[0] - near[1], low, high), np.clip(near[0] + near[1], low, high)
        centre = (low + high) / 2 + where * (high - low) / 2
        if near is None and np.array_equal(step, np.ones(3)) and np.array_equal(turn, np.eye(3)):
            centre = np.round(centre - half) + half  # the volume's own voxels: nothing is blurred, and it costs a tenth
        return _about(self._on_slice(centre, shape), linear, step, self.grid)

    def _on_slice(self, centre: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """The middle of a view; of a flat one on a slice of the volume, which between two would be a mean of both."""
        if len(self.size) == 2:
            centre[2] = np.clip(np.floor(centre[2] + 0.5), 0, shape[2] - 1)
        return centre

    def _happens(self, rng: np.random.Generator) -> bool:
        return self.p == 1 or rng.random() < self.p

    def _reach(self, linear: np.ndarray, step: np.ndarray) -> np.ndarray:
        """How far, in volume voxels, a view reaches from its middle along each axis: with its corners, or unturned."""
        half = (np.array(self.grid) - 1) / 2
        return np.abs(linear) @ half if self.inside else half * step

    def _step(self, affine: np.ndarray) -> np.ndarray:
        """Volume voxels between neighbouring view voxels, along each axis."""
        if not self.mm:
            return np.ones(3)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        dims = len(self.size)
        step = np.ones(3)
        step[:dims] = np.array(self.mm) / np.array(self.size) / spacing[:dims]
        return step


def part_of(place: Numbers, parts: int) -> Numbers:
    """The number, from 0, of the one of `parts` equal parts in which each place is; places are from 0 to 1 along an axis.

    A place on a border is in the part above it.
    """
    return (place * parts + SAME_PLACE) // 1


def _slices(count: int, parts: int, rngs: Sequence[np.random.Generator]) -> list[int | None]:
    """The slice that each view lies on, None for any. Every one of `count` slices is in exactly one part: its middle's."""
    if not parts:
        return [None] * len(rngs)
    if parts > count:
        raise UserError(f"views.parts: {parts}, but a volume has {count} slices along views.along; use fewer")
    edges = np.searchsorted(part_of((np.arange(count) + 0.5) / count, parts), np.arange(parts + 1))
    drawn = [int(rng.integers(edges[part], edges[part + 1])) for part, rng in enumerate(rngs[:parts])]
    return [drawn[view % parts] for view in range(len(rngs))]


def _about(centre: np.ndarray, linear: np.ndarray, step: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = linear @ np.diag(step)
    matrix[:3, 3] = centre - matrix[:3, :3] @ ((np.array(grid) - 1) / 2)
    return matrix


def _rotation(angles: np.ndarray, dims: int) -> np.ndarray:
    """Rotation by `angles` (radians) about the three axes; in 2D only about the third."""
    matrix = np.eye(3)
    for axis in range(3) if dims == 3 else (2,):
        a, b = [(1, 2), (2, 0), (0, 1)][axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angles[axis])
        turn[a, b], turn[b, a] = -np.sin(angles[axis]), np.sin(angles[axis])
        matrix = turn @ matrix
    return matrix
