"""From an archive to a manifest: every file ends in a volume, or in a row that says why not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.archive.finding import Found
from medssl.archive.headers import Header
from medssl.atomic import sweep, write_json
from medssl.errors import UserError
from medssl.lock import writing
from medssl.manifest.card import Card
from medssl.manifest.clinical import Clinical, read_clinical
from medssl.manifest.identity import known_by_study, quarantined, suspects, with_ids, with_patient
from medssl.manifest.inventory import Inventory, day_of, days_since_first, receipt
from medssl.manifest.journal import journal
from medssl.manifest.pseudonyms import is_shared, pseudonym, read_key
from medssl.manifest.reading import image_files, listing, mask_files, read_missing, read_unknown, share_of, stem, unread
from medssl.manifest.receipt import Receipt, versions
from medssl.manifest.rows import File, instance_row, label_rows, patient_rows, relative_name, volume_row
from medssl.manifest.splits import Person, official_splits, split_for
from medssl.manifest.tables import (
    FILES,
    INSTANCES,
    LABELS,
    PATIENTS,
    RECEIPT,
    SOURCES,
    VOLUMES,
    checksum,
    replacing_all,
    write_table,
)
from medssl.progress import Progress, silent
from medssl.units import HERE, Work

if TYPE_CHECKING:
    from medssl.archive.series import Stack

Rows = list[dict[str, Any]]


def index(
    archive: Path | str,
    cohort: Path | str,
    *,
    card: Card | None = None,
    key_file: Path | None = None,
    strict_table: bool = False,
    work: Work = HERE,
    progress: Progress = silent,
) -> Receipt:
    """What was found; `cohort` holds the manifest. The same archive, card and key give the same bytes, however often a
    run was stopped and whoever read the headers; only files that are new or changed since are read.

    Raises UserError for an archive without files, a table that cannot be read and, with `strict_table`, for rows of the
    table that are about nothing in the archive. On any error `cohort` holds what it held before.
    """
    archive, cohort, card = Path(archive), Path(cohort), card or Card(name="archive")
    _check_place(archive, cohort)
    table, key_path = read_clinical(card, archive), key_file or cohort / "phi" / "key"
    looked_at = _looked_at(archive, card, table, cohort)
    listed = listing(archive, looked_at.files)
    _check_key(key_path, cohort)  # a wrong one is better known before hours of reading than after
    with writing(cohort, "medssl index"):
        _private(cohort)
        parts = journal(cohort, archive, card)
        for place in cohort, cohort / "phi", parts.folder:
            sweep(place)
        known = read_missing(archive, listed, parts, work=work, progress=progress)
        if any(entry not in known for entry in listed):
            raise UserError(f"{cohort}: parts of the journal of headers cannot be read; run medssl index again")
        files = [known.pop(entry) for entry in listed] + [unread(*entry) for entry in looked_at.passed_over.items()]
        # Of millions of files nothing is held twice.
        del known, listed, looked_at
        return _write(cohort, key_path, _found(archive, card, table, files, strict_table))


def read_share(
    archive: Path | str,
    cohort: Path | str,
    share: tuple[int, int],
    *,
    card: Card | None = None,
    work: Work = HERE,
    progress: Progress = silent,
) -> int:
    """How many files are share (i, n) of the archive's: their headers are in the cohort's journal now.

    Each of n machines reads its share into the same `cohort` folder, at the same time or not; `index` then finds all
    headers read. A share that was stopped is started again. Raises UserError as `index` does.
    """
    archive, cohort, card = Path(archive), Path(cohort), card or Card(name="archive")
    _check_place(archive, cohort)
    looked_at = _looked_at(archive, card, read_clinical(card, archive), cohort)
    listed = share_of(listing(archive, looked_at.files), share)
    with writing(cohort, "medssl index", share=True):
        _private(cohort)
        parts = journal(cohort, archive, card)
        read_unknown(archive, listed, parts.known(archive), parts, work, progress)
    return len(listed)


def _looked_at(archive: Path, card: Card, table: Clinical, cohort: Path) -> Found:
    """The files that are read; with `only_listed` those that the table has a row for."""
    found = image_files(archive, card, cohort)
    if not card.only_listed:
        return found
    kept = [path for path in found.files if relative_name(path, archive) in table.rows]
    if not kept:
        raise UserError(f"{archive}: holds none of the files that the table of the card {card.name} lists; give the folder "
                        "that its names are relative to")  # fmt: skip
    return replace(found, files=kept)


def _found(archive: Path, card: Card, table: Clinical, files: list[File], strict_table: bool) -> Inventory:
    from medssl.archive.series import assemble  # brings numpy, which nobody needs who only asks for --help

    files = [with_patient(file, card, table, archive) for file in files]
    stacks = quarantined(assemble([file.header for file in files if file.header is not None]))
    doubted = suspects(stacks, card.most_studies)
    named = [(name, _doubted(stack, doubted)) for name, stack in with_ids(stacks, files)]
    told = {name: table.row_of_any(stack.headers, archive) for name, stack in named}
    table.see_files(relative_name(file.path, archive) for file in files)
    if strict_table and (unused := table.unused()):
        raise UserError(
            f"{archive / card.table}: row {table.places[unused[0]]} is about nothing in the archive "
            f"({len(unused)} such rows); remove it, or index without --strict-table"
        )
    masks = mask_files(archive, card)
    return Inventory(
        archive=archive, card=card, files=files, stacks=named, told=told, table=table, masks=masks, suspects=doubted
    )


def _doubted(stack: Stack, suspects: Mapping[str, str]) -> Stack:
    if stack.status == "ok" and stack.headers[0].patient_id in suspects:
        return replace(stack, status="warn", reason="PATIENT_ID_SUSPECT")
    return stack


def _check_place(archive: Path, cohort: Path) -> None:
    if cohort.exists() and not cohort.is_dir():
        raise UserError(f"{cohort}: is a file; give a folder for the cohort")
    if cohort.resolve() == archive.resolve():
        raise UserError(f"{cohort}: is the archive itself; give another folder for the cohort")


def _check_key(path: Path, cohort: Path) -> None:
    """Nothing; UserError for a key other than the one that the cohort was made with: every pseudonym would change."""
    made_with = _made_with(cohort)
    if path.exists() and made_with in ("", _fingerprint(read_key(path))):
        return
    if made_with:
        raise UserError(
            f"{path}: not the key that the pseudonyms in {cohort} were made with ({made_with}); give that one with "
            "--key-file, or another folder for the cohort"
        )


def _made_with(cohort: Path) -> str:
    """The fingerprint of a cohort's key; "" when there is no cohort, or none that can be read."""
    try:
        return str(json.loads((cohort / RECEIPT).read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _fingerprint(key: bytes) -> str:
    return pseudonym(key, "fingerprint", "key")[:8]


def _private(cohort: Path) -> None:
    """Nothing; the cohort has its folder for what identifies patients, closed to others."""
    (cohort / "phi").mkdir(exist_ok=True)
    (cohort / "phi").chmod(0o700)


def _write(cohort: Path, key_path: Path, found: Inventory) -> Receipt:
    key = read_key(key_path)
    volumes, labels, masks = _volumes(found, key)
    stacks = [(stack, found.told[name]) for name, stack in found.stacks]
    people = patient_rows(volumes, stacks, found.suspects, key, found.card)
    lonely = sorted(found.masks - set(masks.values()))
    told = receipt(found, key, (volumes, people, labels, lonely), shared=is_shared(key_path))
    facts = {"card": _digest(found.card), "key": _fingerprint(key), "versions": versions()}
    further = sorted({name for row in people for name in row} - set(PATIENTS))
    with replacing_all(cohort) as part:
        part.chmod(0o700)
        (part / "phi").mkdir()
        write_table(part / "instances.parquet", INSTANCES, _instances(found, key), ["instance_pid"])
        write_table(part / "volumes.parquet", VOLUMES, volumes, ["volume_id"])
        write_table(part / "patients.parquet", PATIENTS, people, ["patient_pid"], further=further)
        write_table(part / "labels.parquet", LABELS, labels, ["volume_id", "name"])
        write_table(part / "phi/sources.parquet", SOURCES, _sources(found, masks), ["volume_id", "order"])
        write_table(part / "phi/files.parquet", FILES, _paths(found, key, lonely), ["path"])
        tables = {path.relative_to(part).as_posix(): checksum(path) for path in sorted(part.rglob("*.parquet"))}
        for path in (part / "phi").iterdir():
            path.chmod(0o600)
        write_json(part / RECEIPT, {**asdict(told), **facts, "tables": tables})
    return told


def _left_out(stacks: list[Stack]) -> dict[Path, str]:
    """Why files were left out of which no frame is in a volume."""
    kept = {header.path for stack in stacks if stack.status != "excluded" for header in stack.headers}
    return {header.path: stack.reason for stack in stacks for header in stack.headers if header.path not in kept}


def _volumes(found: Inventory, key: bytes) -> tuple[Rows, Rows, dict[str, str]]:
    """The rows of the volumes, in the order of the stacks, those of their labels, and their label maps by volume id."""
    card, splits, days = found.card, _splits(found), days_since_first(found)
    volumes: Rows = []
    labels: Rows = []
    masks: dict[str, str] = {}
    for volume_id, stack in found.stacks:
        first, told = stack.headers[0], found.told[volume_id]
        masks[volume_id] = _mask(first, stack.role, told, found)
        split = splits[first.patient_id]
        row = volume_row(volume_id, stack, key, told, split, has_mask=bool(masks[volume_id]))
        volumes.append(row | {"days_since_first": days[volume_id]})
        if stack.status != "excluded":
            labels += label_rows(volume_id, told, found.table.labels, card)
    return volumes, labels, masks


def _instances(found: Inventory, key: bytes) -> Iterator[dict[str, Any]]:
    left_out = _left_out([stack for _, stack in found.stacks])
    for file in found.files:
        yield instance_row(file, key, left_out.get(file.path, ""), found.archive)


def _sources(found: Inventory, masks: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The files of each volume, in their order."""
    files = {file.path: file for file in found.files}
    place = str(found.archive.resolve())
    for volume_id, stack in found.stacks:
        pieces = [(header, *piece) for header in stack.headers for piece in _pieces(files[header.path])]
        for order, (header, path, crc32c) in enumerate(pieces):
            yield {
                "volume_id": volume_id, "order": order, "path": relative_name(path, found.archive),
                "crc32c": crc32c, "mask_path": masks[volume_id], "archive": place, "frames": list(header.frames),
            }  # fmt: skip


def _paths(found: Inventory, key: bytes, lonely: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Where each file is, and label maps that belong to no volume."""
    for row, file in zip(_instances(found, key), found.files, strict=True):
        known = {name: row[name] for name in ("instance_pid", "status", "reason")}
        yield {**known, "path": relative_name(file.path, found.archive)}
    for name in lonely:
        pid = pseudonym(key, "instance", name)
        yield {"instance_pid": pid, "path": name, "status": "excluded", "reason": "label map without an image"}


def _pieces(file: File) -> list[tuple[Path, int | None]]:
    """A file and those beside it that the image is in, each with its checksum."""
    return [(file.path, file.crc32c), *((file.path.with_name(name), crc32c) for name, _, _, crc32c in file.beside)]


def _splits(found: Inventory) -> dict[str, str]:
    """The split of each patient. Whoever may be several people, or the same as another, is trained on where anybody is."""
    heard: dict[str, list[tuple[Header, dict[str, str]]]] = {}
    for name, stack in found.stacks:
        heard.setdefault(stack.headers[0].patient_id, []).append((stack.headers[0], found.told[name]))
    official = official_splits((who, told.get("split", "")) for who, entries in heard.items() for _, told in entries)
    return {
        who: split_for(
            Person(
                patient_id=who,
                official=official.get(who, ""),
                sites=frozenset(told.get("site") or header.institution for header, told in entries),
                first_study=min(filter(None, (day_of(header, told) for header, told in entries)), default=""),
                trained_on=who in found.suspects or known_by_study(who),
            ),
            found.card,
        )
        for who, entries in heard.items()
    }


def _mask(header: Header, role: str, told: Mapping[str, str], found: Inventory) -> str:
    """The path of a volume's label map, "" when there is none."""
    card = found.card
    if card.mask_role and card.mask_role != (told.get("role") or role):
        return ""
    about = found.table.about(header, found.archive)
    parts = {**about, "stem": stem(header.path), "series_uid": header.series_uid or stem(header.path)}
    name = card.masks.format(**parts).removeprefix("./")
    return name if name in found.masks else ""


def _digest(card: Card) -> str:
    return hashlib.sha256(json.dumps(asdict(card), sort_keys=True).encode()).hexdigest()[:16]
