"""What a trunk learns from unlabelled scans: terms over views, masks, a trunk and a relation, added up by weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medssl.errors import UserError
from medssl.methods.byol import BYOL
from medssl.methods.contrast import Contrast
from medssl.methods.dino import DINO
from medssl.methods.ibot import IBOT
from medssl.methods.local import LocalContrast
from medssl.methods.method import Method, Term, named
from medssl.methods.order import Order
from medssl.methods.pairs import Pairs
from medssl.methods.position import PositionContrast
from medssl.methods.rebuild import Rebuild
from medssl.methods.regions import RegionContrast
from medssl.methods.rotation import Rotation
from medssl.methods.swav import SwAV
from medssl.methods.vicreg import VICReg
from medssl.methods.which import Which
from medssl.recipe import make, nearest, read_recipe, section_of, signature
from medssl.shipped import shipped
from medssl.trunks import Trunk
from medssl.views.masks import Masking

TERMS: dict[str, Callable[..., Term]] = {
    "rebuild": Rebuild,
    "contrast": Contrast,
    "local": LocalContrast,
    "regions": RegionContrast,
    "position": PositionContrast,
    "order": Order,
    "vicreg": VICReg,
    "byol": BYOL,
    "dino": DINO,
    "ibot": IBOT,
    "swav": SwAV,
    "rotation": Rotation,
    "which": Which,
}

GIVEN = ("trunk", "terms", "masking")
"""What a method is made with and a recipe does not set by these names."""

__all__ = ["TERMS", "Method", "Term", "build_method"]


def build_method(section: Mapping[str, Any], trunk: Trunk) -> Method:
    """The method that a recipe's `method` section describes: one term for each entry that is a section itself."""
    section = section_of(section, "method")
    settings = [name for name in signature(Method)[0] if name not in GIVEN]
    for name in section:
        if name not in (known := [*TERMS, "mask", *settings]):
            raise UserError(f"method.{name}: no term called {name!r}{_meant(name, known)}")
    masking = make(Masking, section.get("mask", {}), "method.mask")
    terms = {name: _term(name, section[name], trunk) for name in section if name in TERMS}
    if not terms:
        raise UserError(f"method: names no term; add one of {', '.join(TERMS)}, e.g. rebuild: {{weight: 1}}")
    if "mask" in section and not any(term.masked for term in terms.values()):
        raise UserError(
            f"method.mask: {named(terms)} not work on masked views; leave it out, or add a term that does, e.g. rebuild, or "
            "contrast: {masked: true}"
        )
    own = {name: section[name] for name in settings if name in section}
    return make(Method, own, "method", trunk=trunk, terms=terms, masking=masking)


def _term(name: str, section: Any, trunk: Trunk) -> Term:
    section, given = section_of(section, f"method.{name}"), dict[str, Any](trunk=trunk)
    if name == "contrast" and "pairs" in section:
        given["pairs"] = make(Pairs, section.pop("pairs"), f"method.{name}.pairs")
    return make(TERMS[name], section, f"method.{name}", **given)


def _meant(name: str, names: Sequence[str]) -> str:
    """The end of a sentence about a term that is not there: what a method of that name is made of, or the nearest name."""
    path = f"pipelines/methods/{name.lower()}.yaml"
    try:
        terms = [term for term in read_recipe(shipped(path))["method"] if term in TERMS]
    except UserError:
        terms = []
    return f"; did you mean {' and '.join(terms)}, of which {path} is made?" if terms else nearest(name, names)
