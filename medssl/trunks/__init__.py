"""Encoders: the part of a network that is pretrained, kept and handed on. 2D and 3D from the same code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from medssl.errors import UserError
from medssl.recipe import make, section_of
from medssl.trunks.cswin import CSWin
from medssl.trunks.features import Features, Trunk
from medssl.trunks.resenc import ResEnc
from medssl.trunks.vit import ViT

TRUNKS: dict[str, Callable[..., Trunk]] = {"resenc": ResEnc, "vit": ViT, "cswin": CSWin}

__all__ = ["TRUNKS", "CSWin", "Features", "ResEnc", "Trunk", "ViT", "build_trunk"]


def build_trunk(section: Mapping[str, Any], size: tuple[int, ...]) -> Trunk:
    """The trunk that a recipe's `trunk` section names, for views of `size` voxels."""
    settings = section_of(section, "trunk")
    name = settings.pop("name", "resenc")
    if name not in TRUNKS:
        raise UserError(f"trunk.name: no trunk called {name!r}; there are: {', '.join(TRUNKS)}")
    trunk = make(TRUNKS[name], settings, "trunk", size=size)
    for axis, (voxels, cell) in enumerate(zip(size, trunk.cell, strict=True)):
        if voxels % cell:
            raise UserError(f"views.size: axis {axis} has {voxels} voxels, not a multiple of the trunk's {cell}")
    return trunk
