"""The invented patients: who they are, what is wrong with their eyes, and what the clinical table says about them.

Patient number n of a kind is the same person in a small and in a large archive of the same seed. Race comes in blocks
of 25 (7 Black, 13 White, 5 Asian) and glaucoma in pairs within a race, so prevalence is one half in every group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from medssl.phantom.write import PhantomSettings

KINDS = {"eye": "E", "prostate": "P", "chest": "C", "xray": "X", "head": "H", "spoiled": "B"}
"""Kind of patient -> letter in the patient id."""

RACE_BLOCK = ("Black",) * 7 + ("White",) * 13 + ("Asian",) * 5
MUTED_RACE = "Black"
"""The group whose glaucoma shows less in the scan when the gap is planted."""

SCANNERS = {
    "eye": (("Alpha OCT", "north"), ("Beta OCT", "north"), ("Gamma OCT", "south")),
    "prostate": (("Delta MR", "north"), ("Epsilon MR", "south")),
    "chest": (("Zeta CT", "north"), ("Eta CT", "south")),
    "xray": (("Theta DX", "north"), ("Iota DX", "south")),
    "head": (("Delta MR", "north"), ("Epsilon MR", "south")),
    "spoiled": (("Zeta CT", "north"),),
}

BLANK_RATES = {"race": 0.08, "sex": 0.03, "age_years": 0.04}
"""Share of patients whose cell in the clinical table is empty."""

HEADER_RATE = 0.6
"""Share of patients whose DICOM headers carry sex and age, whether or not the table does."""

COLUMNS = ("patient_id", "sex", "race", "age_years", "site", "scanner", "glaucoma")


@dataclass(frozen=True)
class Person:
    """One invented patient.

    `severity` (0 to 1) is 0 for the healthy; `blank` names the cells that the clinical table leaves empty.
    """

    patient_id: str
    kind: str
    number: int
    sex: str
    race: str
    age_years: int
    site: str
    scanner: str
    severity: float
    blank: frozenset[str]
    in_header: bool

    @property
    def affected(self) -> int:
        """1 for a patient with the disease of the kind (glaucoma, prostate lesion, lung nodule), 0 without."""
        return int(self.severity > 0)

    def row(self) -> list[str]:
        """The cells of the clinical table in the order of COLUMNS, "" where nothing is known."""
        told = {
            "patient_id": self.patient_id,
            "sex": self.sex,
            "race": self.race,
            "age_years": str(self.age_years),
            "site": self.site,
            "scanner": self.scanner,
            "glaucoma": str(self.affected) if self.kind == "eye" else "",
        }
        return ["" if name in self.blank else told[name] for name in COLUMNS]


def generator(seed: int, *place: int | str) -> np.random.Generator:
    """A random generator for one place in the archive; the same place of the same seed always draws the same."""
    words = [int.from_bytes(part.encode(), "big") if isinstance(part, str) else part for part in place]
    return np.random.default_rng([seed, *words])


MILDEST, WORST = 0.25, 1.0
"""Between which severities lie, where nothing else is asked for."""


def people(kind: str, number: int, seed: int, severity: tuple[float, float] = (MILDEST, WORST)) -> list[Person]:
    """The first `number` patients of a kind."""
    races = _races(kind, number, seed)
    sick = _halves(kind, races, seed)
    told = enumerate(zip(races, sick, strict=True))
    return [_person(kind, n, seed, race, severity if ill else None) for n, (race, ill) in told]


def everyone(settings: PhantomSettings) -> dict[str, list[Person]]:
    """All patients of an archive, by kind."""
    numbers = {
        "eye": settings.eye_patients,
        "prostate": settings.prostate_patients,
        "chest": settings.chest_patients,
        "xray": settings.xray_patients,
        "head": settings.head_patients,
        "spoiled": 4,
    }
    eyes = settings.mildest, settings.worst
    return {
        kind: people(kind, number, settings.seed, *([eyes] if kind == "eye" else []))
        for kind, number in numbers.items()
    }


def _races(kind: str, number: int, seed: int) -> list[str]:
    races: list[str] = []
    while len(races) < number:
        order = generator(seed, "races", kind, len(races)).permutation(len(RACE_BLOCK))
        races += [RACE_BLOCK[n] for n in order]
    return races[:number]


def _halves(kind: str, races: Sequence[str], seed: int) -> list[int]:
    """0 or 1 for each patient: of two consecutive patients of one race exactly one has the disease."""
    met = dict.fromkeys(RACE_BLOCK, 0)
    halves = []
    for race in races:
        pair, second = divmod(met[race], 2)
        first = int(generator(seed, "pairs", kind, race, pair).integers(2))
        halves.append(1 - first if second else first)
        met[race] += 1
    return halves


def _person(kind: str, number: int, seed: int, race: str, between: tuple[float, float] | None) -> Person:
    rng = generator(seed, "person", kind, number)
    scanner, site = SCANNERS[kind][int(rng.integers(len(SCANNERS[kind])))]
    sex = "M" if kind == "prostate" else str(rng.choice(["F", "M"]))
    age = int(np.clip(rng.normal(62, 11), 24, 94))
    severity = float(
        rng.uniform(*between or (MILDEST, WORST))
    )  # drawn for the healthy too: what follows stays the same
    blank = frozenset(name for name, rate in BLANK_RATES.items() if rng.random() < rate)
    return Person(
        patient_id=f"FAKE-{KINDS[kind]}{number + 1:04d}",
        kind=kind,
        number=number,
        sex=sex,
        race=race,
        age_years=age,
        site=site,
        scanner=scanner,
        severity=severity if between else 0.0,
        blank=blank,
        in_header=bool(rng.random() < HEADER_RATE),
    )
