"""What a trunk learns from unlabelled scans: terms over views, masks, a trunk and a relation, added up by weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from medssl.errors import UserError
from medssl.methods.byol import BYOL
from medssl.methods.contrast import Contrast
from medssl.methods.dino import DINO
from medssl.methods.ibot import IBOT
from medssl.methods.local import LocalContrast
from medssl.methods.method import Method, Term
from medssl.methods.order import Order
from medssl.methods.pairs import Pairs
from medssl.methods.position import PositionContrast
from medssl.methods.rebuild import Rebuild
from medssl.methods.regions import RegionContrast
from medssl.methods.rotation import Rotation
from medssl.methods.swav import SwAV
from medssl.methods.vicreg import VICReg
from medssl.methods.which import Which
from medssl.recipe import make, section_of
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

__all__ = ["TERMS", "Method", "Term", "build_method"]


def build_method(section: Mapping[str, Any], trunk: Trunk) -> Method:
    """The method that a recipe's `method` section describes: one term for each entry that is a section itself."""
    section = section_of(section, "method")
    own = {key: value for key, value in section.items() if not isinstance(value, Mapping)}
    masking = make(Masking, section.get("mask", {}), "method.mask")
    terms = {}
    for name, settings in section.items():
        if not isinstance(settings, Mapping) or name == "mask":
            continue
        if name not in TERMS:
            raise UserError(f"method.{name}: no term called {name!r}; there are: {', '.join(TERMS)}")
        given: dict[str, Any] = {"trunk": trunk}
        if name == "contrast" and "pairs" in settings:
            given["pairs"] = make(Pairs, settings["pairs"], f"method.{name}.pairs")
            settings = {key: value for key, value in settings.items() if key != "pairs"}
        terms[name] = make(TERMS[name], settings, f"method.{name}", **given)
    if not terms:
        raise UserError(f"method: names no term; add one of {', '.join(TERMS)}, e.g. rebuild: {{weight: 1}}")
    return make(Method, own, "method", trunk=trunk, terms=terms, masking=masking)
