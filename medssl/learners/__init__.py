"""Who teaches a network with a head: its labels alone, or also unlabelled scans, its own average, a second network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from medssl.errors import UserError
from medssl.heads import Classify, Findings, Forecast
from medssl.learners.co_teaching import CoTeaching
from medssl.learners.mean_teacher import MeanTeacher
from medssl.learners.mixed import Mixed, MixedSteps
from medssl.learners.pseudo_label import PseudoLabel
from medssl.learners.pseudo_supervisor import PseudoSupervisor
from medssl.learners.reweighed import Reweighed
from medssl.learners.supervised import Supervised
from medssl.recipe import make, section_of, signature

SUPERVISED = "supervised"


@runtime_checkable
class Telling(Protocol):
    """A learner that has something to tell of its run."""

    def tell(self, run: Path) -> None:
        """Nothing; a file in `run` tells it."""


Learner = Supervised | MeanTeacher | PseudoLabel | PseudoSupervisor | CoTeaching | Reweighed

LEARNERS: dict[str, Callable[..., Learner]] = {
    "mean_teacher": MeanTeacher,
    "pseudo_label": PseudoLabel,
    "pseudo_supervisor": PseudoSupervisor,
    "co_teaching": CoTeaching,
    "reweighed": Reweighed,
}

OF_FINDINGS = ("mean_teacher", "pseudo_label")
"""Those that do not ask for one answer a scan."""

__all__ = ["LEARNERS", "SUPERVISED", "Learner", "Mixed", "MixedSteps", "Supervised", "Telling", "build_learner"]


def build_learner(section: Mapping[str, Any], model: Supervised, facts: Mapping[str, Any]) -> Learner:
    """The learner that a recipe's `learn` section names, teaching `model`; without a name, labels alone.

    `facts` are what learners are told of a training, by the names of their parameters: each takes what it asks for, and
    calls what is a function.
    """
    settings = section_of(section, "learn")
    name = settings.pop("name", SUPERVISED)
    if name == SUPERVISED and not settings:
        return model
    if name not in LEARNERS:
        raise UserError(f"learn.name: no learner called {name!r}; there are: {', '.join((SUPERVISED, *LEARNERS))}")
    if isinstance(model.head, Findings) and name not in OF_FINDINGS:
        raise UserError(
            f"learn.name: {name} weighs each scan by one answer, but head.name is findings; take "
            f"{' or '.join(OF_FINDINGS)}, leave learn out, or train a head classify for each label"
        )
    if not isinstance(model.head, Classify | Findings | Forecast):
        raise UserError(
            f"learn.name: {name} teaches yes or no; with head.name other than classify, findings or forecast leave learn out"
        )
    asked = signature(LEARNERS[name])[0]
    given = {key: value() if callable(value) else value for key, value in facts.items() if key in asked}
    return make(LEARNERS[name], settings, "learn", model=model, **given)
