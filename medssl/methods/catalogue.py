"""What methods there are, told by their own code and recipes; `medssl methods` prints it, docs/methods.md is its print.

Nothing is listed by hand: papers are those that docstrings cite, settings those of the recipes, and what a method needs and
runs on is what is seen when it takes a step on tiny views.
"""

# V views, L small views, B scans, C channels, *S space
from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

import medssl.methods
import medssl.trunks
import medssl.views
from medssl.errors import UserError
from medssl.methods import TERMS, build_method
from medssl.methods.method import Bank, Method
from medssl.methods.queue import Queue
from medssl.recipe import Section, read_recipe
from medssl.trunks import build_trunk
from medssl.views import Batch, Views
from medssl.views.partners import Kind

FAMILIES = {
    "contrastive": "views of one thing agree; negatives, a spread or shared prototypes keep different things apart",
    "distilled": "a network predicts what its own average says",
    "masked": "what is hidden is told from what is seen",
    "predictive": "a question about the view, of which the machine knows the answer",
    "hybrid": "terms of several families together",
}
"""The leaves of the taxonomy, each with what its methods have in common."""

TRIED: dict[str, Section] = {
    "resenc": {"name": "resenc", "widths": ["4", "8"]},
    "resenc sparse": {"name": "resenc", "widths": ["4", "8"], "hide": "sparse"},
    "vit": {"name": "vit", "width": "8", "depth": "1", "heads": "1"},
    "vit token": {"name": "vit", "width": "8", "depth": "1", "heads": "1", "hide": "token"},
    "cswin": {"name": "cswin", "widths": ["6", "12"], "depths": ["1", "1"]},
}
"""Small trunks of every kind. Those of transformers have cells of 4 voxels a side."""

PARTNERED: dict[Kind, str] = {
    "none": "",
    "visit": ", every second of another visit",
    "follow_up": ", every second of another day",
    "eye": ", every second of the other eye",
}
"""What the views of a recipe need beside the scan, by its `views.partner`."""

SIZES = {"2D": (16, 16), "3D": (8, 8, 8)}
SCANS = 4

CITED = re.compile(
    r"((?:van den )?[A-Z][\w-]+(?: et al\.| and [A-Z][\w-]+)?), ((?:[A-Z]\w* )?\d{4}), arXiv:(\d{4}\.\d{4,5})"
)
"""Author, venue and year, arXiv's number."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A recipe or a term: its name, what it is, where that is from, of what it is made, what it needs and compares, and on
    which trunks it ran in two and in three dimensions.
    """

    name: str
    what: str
    family: str
    papers: tuple[str, ...]
    terms: tuple[str, ...]
    needs: tuple[str, ...]
    relations: tuple[str, ...]
    known: tuple[str, ...]
    runs: Mapping[str, tuple[str, ...]]


def recipes_in(folder: Path) -> list[Entry]:
    """The recipes in a folder that name a method, by name. Raises UserError for a folder without any."""
    paths = sorted(path for path in folder.glob("*.yaml"))
    found = [_of_recipe(path, recipe) for path in paths if _terms_of((recipe := read_recipe(path)).get("method", {}))]
    if not found:
        raise UserError(f"{folder}: no recipe with a method there; give the folder of some, e.g. pipelines/methods")
    return found


def terms() -> list[Entry]:
    """The terms that a method can be made of, each alone with its defaults."""
    return [_of_term(name) for name in TERMS]


def _of_term(name: str) -> Entry:
    of = TERMS[name]
    words = inspect.getdoc(inspect.getmodule(of)) or ""
    section = {name: {}, "teacher_half_life": "0.1"} if getattr(of, "taught", "") else {name: {}}
    return _entry(name, words.split("\n")[0], _papers(words), {"method": section})


def _of_recipe(path: Path, recipe: Section) -> Entry:
    header = " ".join(line[1:].strip() for line in path.read_text(encoding="utf-8").split("\n") if line[:1] == "#")
    what = header.split(" medssl ")[0]
    cited = {paper.rsplit(":", 1)[1]: paper for doc in _docstrings() for paper in _papers(doc)}
    papers = [cited.get(number, f"arXiv:{number}") for number in re.findall(r"arXiv:(\d{4}\.\d{4,5})", what)]
    if not papers:
        modules = [inspect.getmodule(TERMS[name]) for name in _terms_of(recipe["method"])]
        papers = [paper for module in modules for paper in _papers(inspect.getdoc(module) or "")[:1]]
    plain = re.sub(r" ?\(arXiv:[\d.]+(?:, )?", " (", what).replace(" ()", "").replace(" ).", ".")
    return _entry(path.stem, plain, tuple(dict.fromkeys(papers)), recipe)


def _entry(name: str, what: str, papers: tuple[str, ...], recipe: Section) -> Entry:
    made = _terms_of(recipe["method"])
    runs: dict[str, tuple[str, ...]] = {}
    seen: list[tuple[Method, tuple[str, ...]]] = []
    for trunk in TRIED:
        for dims in SIZES:
            if (step := _tried(recipe, trunk, SIZES[dims])) is not None:
                seen.append(step)
                runs[trunk] = (*runs.get(trunk, ()), dims)
    if not seen:
        raise UserError(f"{name}: this method runs on no trunk in two or three dimensions; run it to see why")
    method, asked = seen[0]
    of_each = [cast(Any, method.terms[one]) for one in made]
    families = sorted({term.family for term in of_each})
    return Entry(
        name=name, what=what.strip(), family=families[0] if len(families) == 1 else "hybrid", papers=papers, terms=made,
        needs=_needs(method, asked, recipe), relations=tuple(dict.fromkeys(term.compares for term in of_each)),
        known=tuple(_known(type(term)) for term in of_each), runs=runs,
    )  # fmt: skip


def _tried(recipe: Section, trunk: str, size: tuple[int, ...]) -> tuple[Method, tuple[str, ...]] | None:
    """The method of a recipe after a step on tiny views, and what its terms asked for; None where it refuses them."""
    cells: dict[str, Section] = {"vit": {"patch": ["4"] * len(size)}, "cswin": {"strides": [["2"] * len(size)] * 2}}
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        try:
            method = build_method(recipe["method"], build_trunk(TRIED[trunk] | cells.get(trunk.split()[0], {}), size))
            views = recipe.get("views", {})
            bank = Bank(
                method, tiny_batch(size, max(int(views.get("count", Views.count)), method.views), "small" in views)
            )
            loss = sum(term(bank) for term in method.terms.values())
        except UserError:
            return None
    return (method, bank.asked()) if torch.as_tensor(loss).isfinite() else None


def tiny_batch(size: tuple[int, ...], views: int, small: bool = True) -> Batch:
    """Views of noise of four scans of as many patients, one place in mm for all and each a day after the one before it, and
    small views if asked for.
    """
    who = torch.arange(SCANS)
    x = torch.randn(views, SCANS, 1, *size)
    to_mm = torch.eye(4, dtype=torch.float64).expand(views, SCANS, 4, 4)
    corner: tuple[Any, ...] = (slice(1), ..., *(slice(n // 2) for n in size))
    return Batch(
        x, to_mm, who, torch.zeros_like(who), torch.empty(0), to_share=to_mm / max(size),
        where=torch.linspace(0, 1, views * SCANS * 3, dtype=torch.float64).view(SCANS, views, 3).transpose(0, 1),
        small=x[corner] if small else torch.empty(0),
        days=torch.arange(views, dtype=torch.float64)[:, None].expand(views, SCANS),
    )  # fmt: skip


def _needs(method: Method, asked: Sequence[str], recipe: Section) -> tuple[str, ...]:
    masking, small = method.masking, recipe.get("views", {}).get("small", {})
    extent = "" if masking.kind == "random" else f" by {masking.kind}s"
    fill = ", another scan in its place" if masking.fill == "another" else ""
    told = {
        "views": f"{method.views} view{'s' * (method.views > 1)}{PARTNERED[recipe.get('views', {}).get('partner', 'none')]}",
        "mask": f"mask ({masking.ratio:.0%}{extent}{fill})",
        "teacher": "teacher",
        "decoder": "decoder",
        "small": f"{small.get('count', 'no')} small views",
    }
    queues = [len(part.vectors) for part in method.modules() if isinstance(part, Queue) and len(part.vectors)]
    return tuple(told[name] for name in ("views", *asked)) + tuple(f"queue of {length}" for length in queues)


def _terms_of(section: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in section if name in TERMS)


def _known(of: type[nn.Module]) -> str:
    """What a term's docstring says that its loss is known to be."""
    found = re.search(r"Known: (.+?)\.?$", " ".join((inspect.getdoc(of) or "").split()))
    return found[1] if found else ""


def _papers(text: str) -> tuple[str, ...]:
    """The papers that a text cites by author, venue and arXiv's number."""
    found = CITED.findall(" ".join(text.split()))
    return tuple(f"{author}, {venue}, arXiv:{number}" for author, venue, number in found)


def _docstrings() -> Iterator[str]:
    """The docstrings of what pretraining is made of: its modules, their classes and their functions."""
    for room in (medssl.methods, medssl.trunks, medssl.views):
        for info in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
            module = importlib.import_module(info.name)
            yield inspect.getdoc(module) or ""
            for thing in vars(module).values():
                if getattr(thing, "__module__", "") == info.name:
                    yield inspect.getdoc(thing) or ""


def page(recipes: Sequence[Entry]) -> str:
    """The catalogue as Markdown."""
    lines = [
        "# Methods",
        "",
        "Printed by `medssl methods --markdown`; a test compares. Papers are those that docstrings cite; what a method",
        "needs and runs on was seen in a step on tiny views. A new one is one file, one line, one recipe, one test:",
        "[adding_a_method.md](adding_a_method.md).",
        "",
        "## Families",
        "",
        "| family | what its methods have in common | recipes |",
        "|---|---|---|",
        *(
            _row([name, what, ", ".join(f"`{one.name}`" for one in recipes if one.family == name)])
            for name, what in FAMILIES.items()
        ),
        "",
        "## Recipes",
        "",
        "Each is `pipelines/methods/NAME.yaml`. What they share is in `pipelines/methods/scans.yaml`.",
        "",
        "| recipe | what it is | family | terms | needs | compares | runs on | paper |",
        "|---|---|---|---|---|---|---|---|",
        *(
            _row([f"`{one.name}`", one.what, one.family, " + ".join(f"`{term}`" for term in one.terms),
                  ", ".join(one.needs), " + ".join(one.relations), _runs(one), "; ".join(one.papers)])
            for one in recipes
        ),
        "",
        "## Terms",
        "",
        "A method is one or more of these, each an entry of a recipe's `method` section; their losses are added up by",
        "`weight`. Known values are what the loss comes to where that can be written down; tests hold it to them.",
        "",
        "| term | what it is | family | needs | compares | known values | runs on | papers |",
        "|---|---|---|---|---|---|---|---|",
        *(
            _row([f"`{one.name}`", one.what.split(": ", 1)[-1].rstrip("."), one.family, ", ".join(one.needs),
                  *one.relations, *one.known, _runs(one), "; ".join(one.papers)])
            for one in terms()
        ),
        "",
        f"Trunks tried: {', '.join(TRIED)}.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _runs(one: Entry) -> str:
    everywhere = all(one.runs.get(trunk) == tuple(SIZES) for trunk in TRIED)
    return (
        "all, 2D and 3D" if everywhere else "; ".join(f"{trunk} {' '.join(dims)}" for trunk, dims in one.runs.items())
    )


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
