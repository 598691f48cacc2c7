"""Recipes: YAML in, typed calls out. The signature is the schema.

A section of a recipe is the keyword arguments of one constructor. Every scalar stays text until the signature types it,
so patient 012 is not 12, race NA is not missing and 1e-4 is a number. Defaults live in signatures only.
"""

from __future__ import annotations

import difflib
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

import yaml

from medssl.errors import UserError

T = TypeVar("T")
Section = dict[str, Any]


@dataclass(frozen=True)
class Within:
    """Numbers that a setting may have: `above` a number, `least` one, at `most` one."""

    above: float = -math.inf
    least: float = -math.inf
    most: float = math.inf

    def check(self, value: float, where: str) -> None:
        """Nothing; raises UserError for a number outside."""
        if not (self.above < value and self.least <= value <= self.most):
            told = {"above": self.above, "at least": self.least, "at most": self.most}
            law = " and ".join(f"{word} {limit:g}" for word, limit in told.items() if math.isfinite(limit))
            raise UserError(f"{where}: {value} must be {law}")


Positive = Annotated[float, Within(above=0)]
Weight = Annotated[float, Within(least=0)]
Share = Annotated[float, Within(least=0, most=1)]
Count = Annotated[int, Within(least=1)]
Whole = Annotated[int, Within(least=0)]
Axis = Annotated[int, Within(least=0, most=2)]
"""An axis of a volume."""

SECTIONS = (
    "name",
    "prepare",
    "data",
    "views",
    "trunk",
    "method",
    "pretrain",
    "probe",
    "head",
    "adapt",
    "learn",
    "finetune",
    "evaluate",
)
"""What a recipe may hold, in the order in which it is used."""


def read_yaml(path: Path | str) -> Section:
    """The mapping in a YAML file, every scalar as text. Raises UserError for a missing, broken or non-mapping file."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of a YAML file, e.g. pipelines/hippocampus.yaml")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # builds text only
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML ({' '.join(str(error).split())}); mend that line") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {type(content).__name__}, not 'key: value' lines; see pipelines/ for examples")
    return content


def read_recipe(path: Path | str, changes: typing.Sequence[str] = ()) -> Section:
    """The recipe in a file with `changes` ("section.key=value") applied. Raises UserError on an unknown section.

    `like: other.yaml` begins with that recipe, whose path is relative to this one's; what this one says goes before it.
    """
    recipe = _with_like(Path(path), ())
    for change in changes:
        _apply(recipe, change)
    for key in recipe:
        if key not in SECTIONS:
            raise UserError(f"{path}: no section called {key!r}{nearest(key, SECTIONS)}")
    return recipe


def _with_like(path: Path, above: tuple[Path, ...]) -> Section:
    """The recipe in a file on top of the one that it is like. `above` are those that led here."""
    if path.resolve() in above:
        raise UserError(f"{path}: like leads back to itself; name a recipe that is not like this one")
    recipe = read_yaml(path)
    like = recipe.pop("like", None)
    if like is None:
        return recipe
    if not isinstance(like, str):
        raise UserError(f"{path}: like: {like!r} is not the path of a recipe")
    below = _with_like(path.parent / like, (*above, path.resolve()))
    below.pop("name", None)
    return _over(below, recipe)


def _over(below: Section, above: Section) -> Section:
    """`below` with all that `above` says in its place, section by section; one that names another thing begins anew."""
    if "name" in above and "name" in below and above["name"] != below["name"]:
        return above
    both = dict(below)
    for key, value in above.items():
        old = both.get(key)
        both[key] = _over(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return both


def make(constructor: Callable[..., T], section: Mapping[str, Any], where: str, **given: Any) -> T:
    """What `constructor` builds from `section`; `given` are arguments that a recipe does not set.

    Every value is cast by the signature's annotation first. UserError names the section, the key, the value and the
    nearest valid name. The `**given` here is the one place that forwards keywords: it is how text becomes a call.
    """
    return constructor(**given, **typed(constructor, section, where, tuple(given)))


def section_of(value: Any, where: str) -> Section:
    """A copy of a section. Raises UserError where something else stands in its place."""
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: {value!r} is not a section; write it as {where}: {{key: value}}")
    return dict(value)


def typed(
    constructor: Callable[..., Any], section: Mapping[str, Any], where: str, given: typing.Sequence[str] = ()
) -> Section:
    """`section` with each value cast by the annotation of the parameter it names."""
    section = section_of(section, where)
    names, hints = signature(constructor)
    check_keys(section, [name for name in names if name not in given], where, constructor.__name__)
    values = {key: cast(value, hints[key], f"{where}.{key}") for key, value in section.items()}
    missing = [n for n, p in names.items() if p.default is p.empty and n not in values and n not in given]
    if missing:
        raise UserError(f"{where}: {constructor.__name__} needs {missing[0]!r}; add '{missing[0]}: ...' to the section")
    return values


def check_keys(section: Mapping[str, Any], names: typing.Sequence[str], where: str, of: str) -> None:
    """Nothing; raises UserError for a key that is not among the `names` of what it is `of`, and tells the nearest one."""
    for key in section:
        if key not in names:
            raise UserError(f"{where}.{key}: {of} has no such setting{nearest(key, names)}")


def signature(constructor: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """The parameters of a constructor by name, and their types."""
    names = dict(inspect.signature(constructor).parameters)
    source: Any = constructor.__init__ if isinstance(constructor, type) else constructor  # type: ignore[misc]
    return names, typing.get_type_hints(source, include_extras=True)


def cast(value: Any, kind: Any, where: str) -> Any:
    """`value` (text, or lists and mappings of text) as the annotated type. Raises UserError when it cannot be."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        number = cast(value, arguments[0], where)
        for law in arguments[1:]:
            law.check(number, where)
        return number
    if origin in (Union, types.UnionType):
        return _cast_optional(value, arguments, where)
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{where}: {value!r} is not one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        return _cast_tuple(value, arguments, where)
    if origin is dict or kind is dict:
        if not isinstance(value, Mapping):
            raise UserError(f"{where}: {value!r} is not a mapping; write {{key: value}}")
        return {key: cast(item, arguments[1], f"{where}.{key}") for key, item in value.items()}
    return _cast_scalar(value, kind, where)


def _cast_optional(value: Any, arguments: tuple[Any, ...], where: str) -> Any:
    if value in ("", "null", "none", None):
        return None
    (kind,) = [a for a in arguments if a is not type(None)]
    return cast(value, kind, where)


def _cast_tuple(value: Any, arguments: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, typing.Sequence):
        raise UserError(f"{where}: {value!r} is not a list; write [a, b]")
    open_ended = len(arguments) == 2 and arguments[1] is Ellipsis
    if not open_ended and len(value) != len(arguments):
        raise UserError(f"{where}: {value!r} has {len(value)} entries, {len(arguments)} are needed")
    kinds = [arguments[0]] * len(value) if open_ended else list(arguments)
    return tuple(cast(item, kind, where) for item, kind in zip(value, kinds, strict=True))


def _cast_scalar(value: Any, kind: Any, where: str) -> Any:
    if kind is bool:
        if str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
        raise UserError(f"{where}: cannot read {value!r} as true or false")
    try:
        if kind is int:
            return int(str(value).replace("_", ""))
        if kind in (float, str, Path):
            return kind(value)
    except ValueError:
        raise UserError(f"{where}: cannot read {value!r} as {kind.__name__}") from None
    raise TypeError(f"{where}: a recipe cannot set a {kind}; the constructor wants splitting")


def _apply(recipe: Section, change: str) -> None:
    path, equals, text = change.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise UserError(f"--set {change}: write section.key=value, e.g. --set pretrain.steps=100")
    target = recipe
    for key in keys[:-1]:
        target = target.setdefault(key, {})
        if not isinstance(target, dict):
            raise UserError(f"--set {change}: {key!r} is a value, not a section")
    target[keys[-1]] = yaml.load(text, Loader=yaml.BaseLoader)  # builds text only


def nearest(name: str, names: typing.Iterable[str]) -> str:
    """The end of a sentence about a name that is not there: the nearest that is, or all of them."""
    known = sorted(names)
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; it has: {', '.join(known)}"
