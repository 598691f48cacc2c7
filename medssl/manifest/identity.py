"""Whose a file is, and what makes two volumes the same."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.archive.headers import IN_COLOUR, Header
from medssl.manifest.card import Card, columns_of, groups_of
from medssl.manifest.clinical import Clinical
from medssl.manifest.reading import stem
from medssl.manifest.rows import File

if TYPE_CHECKING:
    from medssl.archive.series import Stack

NOBODY = {"", "0", "1", "ANON", "ANONYM", "ANONYMOUS", "ANONYMIZED", "ANONYMISED", "NONE", "PATIENT", "TEST", "UNKNOWN"}
"""What tools write into PatientID (in any case, zeros before it) when they remove it: shared by many people."""

STUDY = "\0study "
"""Begins the id of somebody who is only known as the patient of one study; no header and no table holds such an id."""

BIRTH_YEARS = 2.0
"""How far the years of birth may be apart that ages at studies tell of one person: ages are whole years."""


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
    if header.colour and header.modality not in IN_COLOUR:
        return replace(file, header=None, reason="COLOR_IMAGE")
    if nobody:
        named = _named(header, card, told.get("patient_id", ""))
        file = replace(file, guessed=not named)
        header = replace(header, patient_id=named or stem(header.path))
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
    return told or (found.group(1) if found else "") or study


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
        _out(stack, "PATIENT_CONFLICT")
        if stack.status != "excluded" and stack.headers[0].study_uid in doubtful
        else stack
        for stack in stacks
    ]


def with_ids(stacks: Sequence[Stack], files: Sequence[File]) -> list[tuple[str, Stack]]:
    """Stacks with ids made from their content. Of several with the same content one is kept, rather one that says whose
    it is than one whose name was guessed from; where they say that it is of several patients, none is: the next copy
    would decide whose it is.
    """
    known = {file.path: file for file in files}
    same: dict[bytes, list[Stack]] = {}
    for stack in stacks:
        digests = sorted(_said(known[header.path].digest, header) for header in stack.headers)
        same.setdefault(hashlib.sha256("|".join(digests).encode()).digest(), []).append(stack)
    names = {}
    for content, copies in same.items():
        told = [stack for stack in copies if not known[stack.headers[0].path].guessed]
        claims = {stack.headers[0].patient_id for stack in told if stack.status != "excluded"}
        first = (told or copies)[0]
        for number, stack in enumerate([first, *(stack for stack in copies if stack is not first)], start=1):
            digest = content if number == 1 else hashlib.sha256(content + number.to_bytes(4, "big")).digest()
            reason = "PATIENT_CONFLICT" if len(claims) > 1 else "DUP_INSTANCE" if number > 1 else ""
            names[id(stack)] = _letters(digest), _out(stack, reason) if reason else stack
    return [names[id(stack)] for stack in stacks]


def _out(stack: Stack, reason: str) -> Stack:
    return replace(stack, status="excluded", reason=reason)


def suspects(stacks: Iterable[Stack], most_studies: int) -> dict[str, str]:
    """The patients' ids that seem to be of several people, and why: too many studies, two sexes, two years of birth.

    Numbers such as "1" or a ward's name are given to whoever comes. Somebody known by one study only is not among them.
    """
    heard: dict[str, list[Header]] = {}
    for stack in stacks:
        heard.setdefault(stack.headers[0].patient_id, []).append(stack.headers[0])
    found = {}
    for who, headers in heard.items():
        born = [int(h.study_date[:4]) - h.age_years for h in headers if _tells_birth(h)]
        odd = {
            f"more than {most_studies} studies": len({h.study_uid for h in headers} - {""}) > most_studies,
            "two sexes": {"M", "F"} <= {h.sex for h in headers},
            "two years of birth": bool(born) and max(born) - min(born) > BIRTH_YEARS,
        }
        if any(odd.values()) and not known_by_study(who):
            found[who] = "; ".join(why for why, holds in odd.items() if holds)
    return found


def _tells_birth(header: Header) -> bool:
    return not math.isnan(header.age_years) and re.fullmatch(r"\d{4}.*", header.study_date) is not None


def _said(digest: str, header: Header) -> str:
    """The content of a file, or of those of its frames that a volume is made of."""
    part = 0 < len(header.frames) < header.n_frames
    return " ".join([digest, *map(str, header.frames)]) if part else digest


def _letters(digest: bytes) -> str:
    return base64.b32encode(digest).decode().lower()[:26]
