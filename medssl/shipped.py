"""Recipes and data cards that come with medssl: in a checkout beside the package, in a wheel within it."""

from __future__ import annotations

from pathlib import Path

from medssl.errors import UserError

ROOTS = Path(__file__).parent, Path(__file__).parent.parent
"""The package has links to the folders beside it, which a wheel is built with; a copy of a checkout may have lost them."""


def shipped(path: str) -> Path:
    """The file or folder of that path, e.g. pipelines/methods, wherever one is. Raises UserError without it."""
    for root in ROOTS:
        if (root / path).exists():
            return root / path
    raise UserError(f"{path}: did not come with medssl in {ROOTS[0]}; install medssl again, from a checkout or a wheel")
