"""All that was read of an archive, and the receipt: what is in it, and what whoever indexed it should know."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.archive.headers import Header
from medssl.manifest.card import Card
from medssl.manifest.clinical import Clinical
from medssl.manifest.identity import known_by_study
from medssl.manifest.pseudonyms import pseudonym
from medssl.manifest.receipt import Receipt, described, unmatched
from medssl.manifest.rows import File

if TYPE_CHECKING:
    from medssl.archive.series import Stack

DOMAINS = {"file": "instance", "patient_id": "patient", "study_uid": "study", "series_uid": "series"}
"""The kind of pseudonym that stands for a row of a table with this key."""

DAY = re.compile(r"(\d{4})[-./]?(\d\d)[-./]?(\d\d)(?:[ T].*)?")
"""A day as DICOM (YYYYMMDD) and ISO 8601 write it, with a time after it or not."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """Files, stacks by volume id, what the clinical table tells of each, the label maps there are, and the patients' ids
    that may be of several people, with the reason.
    """

    archive: Path
    card: Card
    files: list[File]
    stacks: list[tuple[str, Stack]]
    told: dict[str, dict[str, str]]
    table: Clinical
    masks: set[str]
    suspects: dict[str, str]


def day_of(header: Header, told: Mapping[str, str]) -> str:
    """The day of a study as YYYYMMDD, "" when none can be read. It never leaves this process."""
    found = DAY.fullmatch((told.get("study_date") or header.study_date).strip())
    try:
        return date(*map(int, found.groups())).strftime("%Y%m%d") if found else ""
    except ValueError:
        return ""


def days_since_first(found: Inventory) -> dict[str, float]:
    """Days from a patient's first study in the archive to that of each volume; nan without a readable date.

    It tells visits apart and in which order they were, and no date.
    """
    days: dict[str, dict[str, date]] = {}
    for name, stack in found.stacks:
        if day := day_of(stack.headers[0], found.told[name]):
            known = date(int(day[:4]), int(day[4:6]), int(day[6:]))
            days.setdefault(stack.headers[0].patient_id, {})[name] = known
    first = {who: min(theirs.values()) for who, theirs in days.items()}
    since = {name: float((day - first[who]).days) for who, theirs in days.items() for name, day in theirs.items()}
    return {name: since.get(name, math.nan) for name, _ in found.stacks}


def receipt(found: Inventory, key: bytes, rows: tuple[Rows, Rows, Rows, list[str]], *, shared: bool) -> Receipt:
    """Counts and notes. `rows` are those of the volumes, the patients and the labels, and the label maps of no volume;
    `shared` is whether others may read the key.
    """
    volumes, people, labels, lonely = rows
    kept = sorted((row for row in volumes if row["status"] != "excluded"), key=lambda row: row["volume_id"])
    table, card = found.table, found.card
    unused = table.unused()
    due = [row for row in kept if card.masks and card.mask_role in ("", row["role"])]
    bare = [row["volume_id"] for row in due if not row["has_mask"]]
    known = {name for name, s in found.stacks if any(table.has_row(header, found.archive) for header in s.headers)}
    untold = [row["volume_id"] for row in kept if card.table and row["volume_id"] not in known]
    notes = [
        (len(people) == 1 and kept, f"one patient only: all volumes are in the split {''.join({r['split'] for r in kept})}"),
        *_of_patients(found),
        (unused, f"{len(unused)} rows of the table are about nothing in the archive "
                 f"(first: row {table.places[unused[0]] if unused else 0})"),
        (table.without_key, f"{len(table.without_key)} rows of the table have a blank {table.key}"),
        (untold, f"{len(untold)} volumes have no row in the table"),
        (lonely, f"{len(lonely)} label maps belong to no volume"),
        (bare, f"{len(bare)} volumes have no label map"),
        *((count, f"{count} {what}") for what, count in sorted(table.heard.items())),
        (shared, "others may read the key of the pseudonyms; chmod 600 it"),
    ]  # fmt: skip
    return Receipt(
        **described(volumes, people, labels, [file.reason for file in found.files]),
        table_rows_without_image=unmatched(pseudonym(key, DOMAINS.get(table.key, table.key), name) for name in unused),
        volumes_without_table_row=unmatched(untold),
        label_maps_without_image=unmatched(pseudonym(key, "instance", name) for name in lonely),
        volumes_without_label_map=unmatched(bare),
        notes=tuple(note for holds, note in notes if holds),
    )


def _of_patients(found: Inventory) -> list[tuple[Any, str]]:
    """What is odd about whose the volumes are: whether it holds, and how it is told."""
    card = found.card
    kept = {
        stack.headers[0].path: (name, stack.headers[0]) for name, stack in found.stacks if stack.status != "excluded"
    }
    owners = {header.patient_id for _, header in kept.values()}
    strangers = sum(known_by_study(who) for who in owners)
    guessed = [kept[file.path][1].patient_id for file in found.files if file.guessed and file.path in kept]
    twice = len(guessed) - len(set(guessed))
    sites = {found.told[name].get("site") or stack.headers[0].institution for name, stack in found.stacks}
    absent = len(set(card.held_out_sites) - sites)
    dateless = {header.patient_id for name, header in kept.values() if not day_of(header, found.told[name])}
    return [
        (strangers, f"{strangers} studies name no patient; each is kept as a patient of its own, in training only"),
        (guessed, f"{len(guessed)} volumes name no patient; the name of the file counts as one. If several are of one "
                  "person, tell it by a card's `path` or `patient`: else that person is trained on and judged on"),
        (twice, f"{twice} of these have the name of another, in another folder, and count as the same patient"),
        (found.suspects, f"{len(found.suspects)} patients' ids seem to be of several people each (`suspect` in "
                         "patients.parquet); they are in training only"),
        (card.test_from and dateless, f"{len(dateless)} patients have a study without a readable date, which test_from "
                                      "does not see"),
        (absent, f"{absent} of the card's held_out_sites have no patient; compare their spelling with the table's"),
    ]  # fmt: skip
