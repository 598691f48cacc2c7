"""Whose a file is, and what makes two volumes the same."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.archive.headers import Header
from medssl.manifest.card import Card, columns_of, groups_of
from medssl.manifest.clinical import Clinical
from medssl.manifest.reading import stem
from medssl.manifest.rows import File

if TYPE_CHECKING:
    from medssl.archive.series import Stack

NOBODY = {"", "0", "1", "ANON", "ANONYM", "ANONYMOUS", "ANONYMIZED", "ANONYMISED", "NONE", "PATIENT", "TEST", "UNKNOWN"}
"""What tools write into PatientID (in any case, zeros before it) when they remove it: shared by many people."""

STUDY = "study "
"""Begins the id of somebody who is only known as the patient of one study."""


def with_patient(file: File, card: Card, table: Clinical, archive: Path) -> File:
    """The file with its patient and modality filled in where its header leaves them open; left out where the card's
    `path` does not fit it.

    The patient is, in this order: the header's PatientID, unless it is a word for nobody; what the table says of the
    file, study or series; what the card's pattern finds in the file's name; for DICOM the study; the file's name.
    """
    header = file.header
    if header is None:
        return file
    if not table.covers(header, archive):
        return replace(file, header=None, reason="NOT_IN_CARD")
    columns = columns_of(card)
    nobody = is_nobody(header.patient_id) and not (table.key == "patient_id" and header.patient_id in table.rows)
    asked = (header.modality == "unknown" and "modality" in columns) or (nobody and "patient_id" in columns)
    told = table.row_of(header, archive) if asked else {}
    if header.modality == "unknown":
        header = replace(header, modality=told.get("modality") or card.modality)
    if nobody:
        header = replace(header, patient_id=_named(header, card, told.get("patient_id", "")))
    if "study" in groups_of(card) and not header.study_uid and (study := table.about(header, archive)["study"]):
        header = replace(header, study_uid=f"{header.patient_id}/{study}")  # "study1" is one of each patient
    return replace(file, header=header)


def is_nobody(patient_id: str) -> bool:
    """Whether an id is blank or one of the words for nobody."""
    return patient_id.upper() in NOBODY or patient_id.lstrip("0").upper() in NOBODY


def known_by_study(patient_id: str) -> bool:
    """Whether an id stands for the unknown patient of one study, who may also be the patient of another."""
    return patient_id.startswith(STUDY)


def _named(header: Header, card: Card, told: str) -> str:
    found = re.search(card.patient, stem(header.path)) if card.patient else None
    uid = header.study_uid or header.series_uid  # the slices of one series must not become many patients
    study = STUDY + uid if uid else ""
    return told or (found.group(1) if found else "") or study or stem(header.path)


def quarantined(stacks: Sequence[Stack]) -> list[Stack]:
    """The stacks; those of a study that two patients claim are left out: one of the ids is wrong, and a person who goes
    by two ids could be trained on and judged on.
    """
    claims: dict[str, set[str]] = {}
    for stack in stacks:
        for header in stack.headers:
            claims.setdefault(header.study_uid, set()).add(header.patient_id)
    doubtful = {study for study, people in claims.items() if study and len(people) > 1}
    return [
        replace(stack, status="excluded", reason="PATIENT_CONFLICT")
        if stack.status != "excluded" and stack.headers[0].study_uid in doubtful
        else stack
        for stack in stacks
    ]


def with_ids(stacks: Sequence[Stack], files: Sequence[File]) -> list[tuple[str, Stack]]:
    """Stacks with ids made from their content; a stack whose content was seen before is left out as a duplicate."""
    digests = {file.path: file.digest for file in files}
    seen: Counter[str] = Counter()
    named = []
    for stack in stacks:
        content = hashlib.sha256("|".join(sorted(_said(digests[h.path], h) for h in stack.headers)).encode()).digest()
        name = _letters(content)
        seen[name] += 1
        if seen[name] > 1:
            name = _letters(hashlib.sha256(content + seen[name].to_bytes(4, "big")).digest())
            stack = replace(stack, status="excluded", reason="DUP_INSTANCE")
        named.append((name, stack))
    return named


def _said(digest: str, header: Header) -> str:
    """The content of a file, or of those of its frames that a volume is made of."""
    part = 0 < len(header.frames) < header.n_frames
    return " ".join([digest, *map(str, header.frames)]) if part else digest


def _letters(digest: bytes) -> str:
    return base64.b32encode(digest).decode().lower()[:26]
