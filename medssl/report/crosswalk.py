"""Which part of a report supports evidence for which item of the guidelines and rules that ask for subgroup evidence.

Item numbers are as we know them: check them against the primary text before quoting one. No part makes anything compliant.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple


class Item(NamedTuple):
    """What a document asks, in our words, and the parts of the page that bear on it, by the ends of their addresses."""

    document: str
    item: str
    asks: str
    parts: tuple[str, ...]


PARTS = {
    "screen": "first screen",
    "cannot": "what cannot be concluded",
    "flow": "from the table to what was judged",
    "operating": "at the threshold",
    "cohort": "who was judged",
    "gaps": "differences between groups",
    "estimates": "all estimates",
    "provenance": "where this comes from",
}
"""Part -> what it is called. A section of the report is a part by its own name."""

TRIPOD, CLAIM, STARD = "TRIPOD+AI (2024)", "CLAIM (2024 update)", "STARD-AI (2025)"
FDA, ACT = "FDA draft guidance, AI-enabled device software functions (January 2025)", "EU AI Act (2024/1689)"

ITEMS = (
    Item(TRIPOD, "3c", "known inequalities in health between groups", ()),
    Item(TRIPOD, "11", "how missing data were handled", ("missing", "flow", "cohort")),
    Item(TRIPOD, "12", "how performance is measured, and how it differs between sites", ("estimates", "shift")),
    Item(TRIPOD, "14", "what was done about fairness, and why", ("gaps", "disparity", "casemix")),
    Item(TRIPOD, "15", "the threshold and where it comes from", ("operating",)),
    Item(TRIPOD, "20", "flow and characteristics of participants, by group", ("flow", "cohort")),
    Item(TRIPOD, "23", "performance with intervals, also of key groups", ("screen", "estimates", "calibration", "shift")),
    Item(TRIPOD, "25, 26", "interpretation with regard to fairness, and limits", ("cannot", "gaps")),
    Item(CLAIM, "33", "flow of participants or images", ("flow",)),
    Item(CLAIM, "34", "demographic and clinical characteristics in each partition", ("cohort", "provenance")),
    Item(CLAIM, "35, 36", "performance on test data, accuracy with its precision", ("screen", "estimates")),
    Item(CLAIM, "37", "analysis of failures", ("operating", "lesions", "volume")),
    Item(STARD, "dataset", "where the data come from, who is in them, how they were divided", ("cohort", "provenance")),
    Item(STARD, "accuracy", "estimates with intervals, missing results", ("estimates", "flow", "missing")),
    Item(STARD, "bias and fairness", "algorithmic bias, and accuracy by group", ("screen", "gaps", "disparity", "cannot")),
    Item(FDA, "performance", "performance in groups and at sites, with intervals", ("screen", "estimates", "shift")),
    Item(FDA, "data", "how test data represent those intended", ("cohort", "flow")),
    Item(FDA, "model card", "a summary for users", ("screen", "cannot")),
    Item(ACT, "Art. 10(2)(f), (g), 10(3)", "examination for biases; representativeness", ("cohort", "missing", "gaps")),
    Item(ACT, "Art. 13(3)(b)", "performance for groups of persons, for instructions", ("screen", "operating", "cannot")),
    Item(ACT, "Art. 15", "levels of accuracy, and how they are measured", ("estimates", "provenance")),
    Item(ACT, "Annex IV(3)", "accuracy for specific persons or groups; foreseeable limits", ("screen", "gaps", "cannot")),
)  # fmt: skip

CHECK = (
    "Item numbers and wording were not compared with the published texts: check against the primary text. A part supports "
    "evidence for an item; it does not show that anything complies with it."
)


def crosswalk(there: Collection[str]) -> list[tuple[Item, list[str]]]:
    """Each item with those of its parts that a report has; an item without any stands there with none."""
    return [(item, [part for part in item.parts if part in there]) for item in ITEMS]
