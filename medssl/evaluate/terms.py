"""What its user declares of a table before it is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from medssl.errors import UserError
from medssl.evaluate.threshold import Threshold

OLDEST_BAND = 90
"""Ages from here on are one band: who is older is too easily recognised (HIPAA, 45 CFR 164.514)."""

MISSING_SCORES = ("", "exclude", "as_negative")


@dataclass(frozen=True)
class Terms:
    """Whatever a table does not say by itself. Raises UserError where something declared makes no sense.

    missing_scores     "": a blank score is not judged and counted, nan and inf are errors; "exclude": these are not judged
                       either; "as_negative": whoever has no score counts as not flagged (the lowest score)
    probabilities      scores lie between 0 and 1 and mean chances; False: they only rank, and may be any number
    label_map          a label as it stands in the table -> "1", "0" or "blank" (uncertain: not judged)
    rows_are_patients  a table without patient_id: every row is another patient
    mapping            attribute -> value -> group; values that are not listed become "unmapped"
    age_bands          first ages of the second, third, ... band that a column `age` is cut into
    trained_on         patients that the model has learned from, of whom none may be judged
    thresholds         task, or the table's name -> the threshold fixed elsewhere; "" for a table with one task
    explore            the threshold is chosen on the rows that are judged: the report says that it is no evaluation
    protect_unknown    nobody can compute how many are few and not recorded either: for their sake another group is hidden
    show_ids           messages may name samples and patients
    """

    missing_scores: str = ""
    probabilities: bool = True
    label_map: Mapping[str, str] = field(default_factory=dict)
    rows_are_patients: bool = False
    mapping: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    age_bands: Sequence[int] = (18, 40, 65, 90)
    trained_on: frozenset[str] = frozenset()
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    explore: bool = False
    protect_unknown: bool = False
    show_ids: bool = False

    def __post_init__(self) -> None:
        if self.missing_scores not in MISSING_SCORES:
            raise UserError(f"missing scores {self.missing_scores!r}: give exclude or as_negative, or nothing")
        if wrong := [value for value in self.label_map.values() if value not in ("0", "1", "blank")]:
            raise UserError(f"label map: {wrong[0]!r} is no label; give 0, 1, or blank for what is not judged")
        bands = list(self.age_bands)
        if not bands or bands != sorted(set(bands)) or bands[0] < 1 or bands[-1] > OLDEST_BAND:
            told = ",".join(map(str, bands))
            raise UserError(f"age bands {told}: E133 give rising first ages from 1 to {OLDEST_BAND}, e.g. 18,40,65,90")
        if self.explore and self.thresholds:
            raise UserError(
                "--explore chooses a threshold on the judged rows, and --threshold gives one; leave one out"
            )

        wide = [one.value for one in self.thresholds.values() if one.value is not None and not 0 <= one.value <= 1]
        if self.probabilities and wide:
            raise UserError(
                f"--threshold {wide[0]:g}: E141 is not between 0 and 1, as scores are; give a probability, or say "
                "--score-kind rank where scores only rank"
            )

    def told(self) -> dict[str, Any]:
        """What was declared, as it can be written; of the patients learned from how many, and nobody's name."""
        found = {name: value for name, value in asdict(self).items() if value != getattr(DECLARED_NOTHING, name)}
        return found | ({"trained_on": len(self.trained_on)} if self.trained_on else {})


def declared(told: Mapping[str, Any]) -> Terms:
    """The terms of which `Terms.told` told. Raises UserError where patients learned from were named: a report does not keep
    them.
    """
    if "trained_on" in told:
        raise UserError(
            f"the report was made with --trained-on and does not keep its {told['trained_on']} patients; make it again with "
            "medssl evaluate"
        )
    thresholds = {name: Threshold(**one) for name, one in told.get("thresholds", {}).items()}
    return Terms(**{**told, "thresholds": thresholds})


DECLARED_NOTHING = Terms()
