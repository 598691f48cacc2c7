"""What a trunk becomes downstream: a head turns features into answers and scores them against labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from medssl.errors import UserError
from medssl.heads.classify import Classify
from medssl.heads.detect import Detect
from medssl.heads.findings import Findings
from medssl.heads.forecast import Forecast
from medssl.heads.present import Present
from medssl.heads.segment import Segment
from medssl.recipe import make, section_of
from medssl.trunks import Trunk
from medssl.views.history import Beside

Head = Classify | Findings | Forecast | Present | Segment | Detect

HEADS: dict[str, Callable[..., Head]] = {
    "classify": Classify,
    "findings": Findings,
    "forecast": Forecast,
    "present": Present,
    "segment": Segment,
    "detect": Detect,
}

__all__ = [
    "HEADS",
    "Classify",
    "Detect",
    "Findings",
    "Forecast",
    "Head",
    "Present",
    "Segment",
    "asked_beside",
    "build_head",
]


def build_head(section: Mapping[str, Any], trunk: Trunk) -> Head:
    """The head that a recipe's `head` section names."""
    settings = section_of(section, "head")
    name = settings.pop("name", None)
    if name not in HEADS:
        raise UserError(f"head.name: no head called {name!r}; there are: {', '.join(HEADS)}")
    return make(HEADS[name], settings, "head", trunk=trunk)


def asked_beside(head: Head) -> Beside:
    """What a head asks for beside a volume."""
    if isinstance(head, Classify):
        return Beside(head.covariates.names, None, head.fin.column, head.fin.groups)
    return Beside(head.covariates.names, head.series) if isinstance(head, Forecast) else Beside()
