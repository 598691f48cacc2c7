"""Every key that a recipe may have, told by the constructors that read it; `medssl keys` prints them, docs/recipes.md is its
print.
"""

from __future__ import annotations

import inspect
import math
import re
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from medssl.adaptations import ADAPTATIONS
from medssl.errors import UserError
from medssl.heads import HEADS
from medssl.learners import LEARNERS
from medssl.methods import TERMS, Method
from medssl.methods.pairs import Pairs
from medssl.probe.online import Looking
from medssl.recipe import Count, Within, nearest, signature
from medssl.store import Preparation
from medssl.train import Training
from medssl.trunks import TRUNKS
from medssl.views import Crops, Intensity
from medssl.views.draw import Views
from medssl.views.masks import Masking
from medssl.views.select import Selection

GIVEN = {
    "views, further": ("crops", "small", "small_count", "intensity", "alter"),
    "trunk": ("size",),
    "method": ("trunk", "terms", "masking"),
    "method.contrast": ("pairs",),
    "head": ("trunk",),
    "learn": ("model", "steps", "shape", "told", "other", "policy", "patients"),
}
"""Parameters that are no keys of a section: the program gives them, or they are sections themselves."""

PLAIN = {int: "whole number", float: "number", str: "text", bool: "true or false"}

HEAD = """\
# The keys of a recipe

Printed by `medssl keys --markdown`. A recipe is YAML with the sections below, in the order in which they are used; `like:
other.yaml` begins with another recipe, `--set views.turn=15` changes one key. A key that is not here is refused, and the
nearest one is named. In trunk, head, adapt and learn, `name:` is what stands between brackets here.
"""


class Key(NamedTuple):
    """A key's name, what may stand there, and what does when nothing is said; "" where something has to be."""

    name: str
    kind: str
    default: str


class Part(NamedTuple):
    """A section of a recipe, or one choice of it: what its docstring says, and its keys."""

    name: str
    words: str
    keys: tuple[Key, ...]


def parts() -> list[Part]:
    """All sections of a recipe, in the order in which they are used."""
    makers: dict[str, Callable[..., Any]] = {
        "prepare": Preparation, "data": Selection, "views": Crops, "views, further": Views, "views.small": Crops,
        "views.intensity": Intensity,
    }  # fmt: skip
    makers |= {f"trunk ({name})": maker for name, maker in TRUNKS.items()}
    makers |= {"method": Method, "method.mask": Masking}
    makers |= {f"method.{name}": maker for name, maker in TERMS.items()}
    makers |= {"method.contrast.pairs": Pairs, "pretrain": Training, "probe": Looking}
    for section, choices in (("head", HEADS), ("adapt", ADAPTATIONS), ("learn", LEARNERS)):
        makers |= {f"{section} ({name})": maker for name, maker in choices.items()}
    return [_part(name, maker) for name, maker in makers.items()] + [_part("finetune", Training)]


def _part(name: str, maker: Callable[..., Any]) -> Part:
    """A section that a constructor reads."""
    names, hints = signature(maker)
    given = {*GIVEN.get(name.split(" (")[0], ()), *(GIVEN["method"] if name.startswith("method.") else ())}
    keys = [Key(key, _kind(hints[key]), _default(one.default)) for key, one in names.items() if key not in given]
    words = inspect.getdoc(maker) or ""
    if name == "views.small":
        keys.append(Key("count", _kind(Count), "4"))
        words = "Small views that lie within the others, in turn; keys as of `views`, and how many there are."
    if name == "finetune":
        words = "As `pretrain`."
    return Part(name, words, tuple(keys))


def chosen(name: str) -> list[Part]:
    """The sections of that name, those within it, and the choices of it; "" all. Raises UserError where there is none."""
    every = parts()
    found = [one for one in every if not name or re.split(r"[ .,]", one.name)[0] == name or one.name == name]
    if not found:
        names = sorted({re.split(r"[ ,]", one.name)[0] for one in every})
        raise UserError(f"{name}: no section of a recipe{nearest(name, names)}")
    return found


def page(every: Sequence[Part]) -> str:
    """The sections as Markdown."""
    lines = [HEAD]
    for one in every:
        lines += [f"## {one.name}", "", one.words, ""]
        if one.keys:
            lines += ["| key | what | default |", "|---|---|---|"]
            lines += [
                f"| `{key.name}` | {key.kind} | {f'`{key.default}`' if key.default else ''} |" for key in one.keys
            ]
            lines.append("")
    return "\n".join(lines)


def _kind(hint: Any) -> str:
    """What may stand where a type is hinted, in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return f"{_kind(inner[0])}{''.join(_bounds(one) for one in inner[1:] if isinstance(one, Within))}"
    if origin is Literal:
        return " or ".join(f"`{one}`" for one in inner)
    if origin is tuple and inner[-1] is Ellipsis:
        return f"list of {_kind(inner[0])}"
    if origin is tuple:
        return f"{len(inner)} x {_kind(inner[0])}"
    if origin is dict:
        return "mapping"
    return PLAIN.get(hint, "text")


def _bounds(within: Within) -> str:
    told = (("from", within.least), ("above", within.above), ("to", within.most))
    return "".join(f" {word} {number:g}" for word, number in told if math.isfinite(number))


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_default, value))}]"
    return str(value) or '""'
