"""From an archive to a manifest: every file ends in a volume, or in a row that says why not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.archive.headers import Header
from medssl.atomic import sweep, write_json
from medssl.errors import UserError
from medssl.lock import writing
from medssl.manifest.card import Card
from medssl.manifest.clinical import Clinical, read_clinical
from medssl.manifest.identity import known_by_study, quarantined, with_ids, with_patient
from medssl.manifest.journal import journal
from medssl.manifest.pseudonyms import is_shared, pseudonym, read_key
from medssl.manifest.reading import image_files, listing, mask_files, read_missing, share_of, stem
from medssl.manifest.receipt import Receipt, described, unmatched, versions
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

DOMAINS = {"file": "instance", "patient_id": "patient", "study_uid": "study", "series_uid": "series"}
"""The kind of pseudonym that stands for a row of a table with this key."""

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
    listed = listing(archive, _looked_at(archive, card, table, cohort))
    if key_path.exists():
        read_key(key_path)  # a wrong one is better known before hours of reading than after
    with writing(cohort, "medssl index"):
        _private(cohort)
        for place in cohort, cohort / "phi", journal(cohort, card).folder:
            sweep(place)
        known = read_missing(archive, listed, journal(cohort, card), work=work, progress=progress)
        if any(entry not in known for entry in listed):
            raise UserError(f"{cohort}: parts of the journal of headers cannot be read; run medssl index again")
        found = _found(archive, card, table, [known[entry] for entry in listed], strict_table)
        return _write(cohort, key_path, found)


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
    paths = _looked_at(archive, card, read_clinical(card, archive), cohort)
    listed = share_of(listing(archive, paths), share)
    with writing(cohort, "medssl index", share=True):
        _private(cohort)
        read_missing(archive, listed, journal(cohort, card), work=work, progress=progress)
    return len(listed)


def _looked_at(archive: Path, card: Card, table: Clinical, cohort: Path) -> list[Path]:
    """The files that are read; with `only_listed` those that the table has a row for."""
    paths = image_files(archive, card, cohort)
    if not card.only_listed:
        return paths
    kept = [path for path in paths if relative_name(path, archive) in table.rows]
    if not kept:
        raise UserError(f"{archive}: holds none of the files that the table of the card {card.name} lists; give the folder "
                        "that its names are relative to")  # fmt: skip
    return kept


def _found(archive: Path, card: Card, table: Clinical, files: list[File], strict_table: bool) -> _Found:
    from medssl.archive.series import assemble  # brings numpy, which nobody needs who only asks for --help

    files = [with_patient(file, card, table, archive) for file in files]
    stacks = quarantined(assemble([file.header for file in files if file.header is not None]))
    named = with_ids(stacks, files)
    told = {name: table.row_of_any(stack.headers, archive) for name, stack in named}
    table.see_files(relative_name(file.path, archive) for file in files)
    if strict_table and (unused := table.unused()):
        raise UserError(
            f"{archive / card.table}: row {table.places[unused[0]]} is about nothing in the archive "
            f"({len(unused)} such rows); remove it, or index without --strict-table"
        )
    masks = mask_files(archive, card)
    return _Found(archive=archive, card=card, files=files, stacks=named, told=told, table=table, masks=masks)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """All that was read: files, stacks by id, what the clinical table says of each, and the label maps there are."""

    archive: Path
    card: Card
    files: list[File]
    stacks: list[tuple[str, Stack]]
    told: dict[str, dict[str, str]]
    table: Clinical
    masks: set[str]


def _check_place(archive: Path, cohort: Path) -> None:
    if cohort.exists() and not cohort.is_dir():
        raise UserError(f"{cohort}: is a file; give a folder for the cohort")
    if cohort.resolve() == archive.resolve():
        raise UserError(f"{cohort}: is the archive itself; give another folder for the cohort")


def _private(cohort: Path) -> None:
    """Nothing; the cohort has its folder for what identifies patients, closed to others."""
    (cohort / "phi").mkdir(exist_ok=True)
    (cohort / "phi").chmod(0o700)


def _write(cohort: Path, key_path: Path, found: _Found) -> Receipt:
    key = read_key(key_path)
    volumes, labels, sources = _volumes(found, key)
    stacks = [(stack, found.told[name]) for name, stack in found.stacks]
    people = patient_rows(volumes, stacks, key, found.card)
    left_out = _left_out([stack for _, stack in found.stacks])
    instances = [instance_row(file, key, left_out.get(file.path, ""), found.archive) for file in found.files]
    lonely = sorted(found.masks - {str(row["mask_path"]) for row in sources})
    paths = [_path_row(row, file, found.archive) for row, file in zip(instances, found.files, strict=True)]
    paths += [_lonely_row(name, key) for name in lonely]
    receipt = _receipt(found, key, is_shared(key_path), (volumes, people, labels, lonely))
    facts = {"card": _digest(found.card), "key": pseudonym(key, "fingerprint", "key")[:8], "versions": versions()}
    content: list[tuple[str, dict[str, str], Rows]] = [
        ("instances", INSTANCES, _sorted(instances, "instance_pid")),
        ("volumes", VOLUMES, _sorted(volumes, "volume_id")),
        ("patients", PATIENTS, people),
        ("labels", LABELS, _sorted(labels, "volume_id", "name")),
        ("phi/sources", SOURCES, _sorted(sources, "volume_id", "order")),
        ("phi/files", FILES, _sorted(paths, "path")),
    ]
    with replacing_all(cohort) as part:
        part.chmod(0o700)
        (part / "phi").mkdir()
        for name, columns, rows in content:
            write_table(part / f"{name}.parquet", columns, rows)
        for path in (part / "phi").iterdir():
            path.chmod(0o600)
        tables = {f"{name}.parquet": checksum(part / f"{name}.parquet") for name, *_ in content}
        write_json(part / RECEIPT, {**asdict(receipt), **facts, "tables": tables})
    return receipt


def _left_out(stacks: list[Stack]) -> dict[Path, str]:
    """Why files were left out of which no frame is in a volume."""
    kept = {header.path for stack in stacks if stack.status != "excluded" for header in stack.headers}
    return {header.path: stack.reason for stack in stacks for header in stack.headers if header.path not in kept}


def _volumes(found: _Found, key: bytes) -> tuple[Rows, Rows, Rows]:
    """The rows of the volumes, in the order of the stacks, of their labels and of their source files."""
    card, splits = found.card, _splits(found)
    volumes: Rows = []
    labels: Rows = []
    sources: Rows = []
    place = str(found.archive.resolve())
    checksums = {file.path: file.crc32c for file in found.files}
    for volume_id, stack in found.stacks:
        first, told = stack.headers[0], found.told[volume_id]
        mask = _mask(first, stack.role, told, found)
        volumes.append(volume_row(volume_id, stack, key, told, splits[first.patient_id], has_mask=bool(mask)))
        if stack.status != "excluded":
            labels += label_rows(volume_id, told, found.table.labels, card)
        for order, header in enumerate(stack.headers):
            sources.append(
                {"volume_id": volume_id, "order": order, "path": relative_name(header.path, found.archive),
                 "crc32c": checksums[header.path], "mask_path": mask, "archive": place,
                 "frames": list(header.frames)}
            )  # fmt: skip
    return volumes, labels, sources


def _splits(found: _Found) -> dict[str, str]:
    """The split of each patient. Somebody alone, or known by one study only, is trained on where anybody is."""
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
                first_study=min(filter(None, (_day(header, told) for header, told in entries)), default=""),
                trained_on=len(heard) == 1 or known_by_study(who),
            ),
            found.card,
        )
        for who, entries in heard.items()
    }


def _day(header: Header, told: Mapping[str, str]) -> str:
    """The day of a study as YYYYMMDD, "" for anything else. It never leaves this process."""
    day = (told.get("study_date") or header.study_date).replace("-", "")[:8]
    return day if len(day) == 8 and day.isdigit() else ""


def _mask(header: Header, role: str, told: Mapping[str, str], found: _Found) -> str:
    """The path of a volume's label map, "" when there is none."""
    card = found.card
    if card.mask_role and card.mask_role != (told.get("role") or role):
        return ""
    about = found.table.about(header, found.archive)
    parts = {**about, "stem": stem(header.path), "series_uid": header.series_uid or stem(header.path)}
    name = card.masks.format(**parts).removeprefix("./")
    return name if name in found.masks else ""


def _receipt(found: _Found, key: bytes, shared: bool, rows: tuple[Rows, Rows, Rows, list[str]]) -> Receipt:
    volumes, people, labels, lonely = rows
    kept = [row for row in volumes if row["status"] != "excluded"]
    table, card = found.table, found.card
    unused = table.unused()
    due = [row for row in _sorted(kept, "volume_id") if card.masks and card.mask_role in ("", row["role"])]
    bare = [row["volume_id"] for row in due if not row["has_mask"]]
    known = {name for name, s in found.stacks if any(table.has_row(header, found.archive) for header in s.headers)}
    untold = [row["volume_id"] for row in _sorted(kept, "volume_id") if card.table and row["volume_id"] not in known]
    sites = {found.told[name].get("site") or s.headers[0].institution for name, s in found.stacks}
    absent = len(set(card.held_out_sites) - sites)
    strangers = {s.headers[0].patient_id for _, s in found.stacks if known_by_study(s.headers[0].patient_id)}
    notes = [
        (len(people) == 1 and kept, "one patient only: all volumes are in one split, nothing is left to judge on"),
        (unused, f"{len(unused)} rows of the table are about nothing in the archive "
                 f"(first: row {table.places[unused[0]] if unused else 0})"),
        (table.without_key, f"{len(table.without_key)} rows of the table have a blank {table.key}"),
        (untold, f"{len(untold)} volumes have no row in the table"),
        (lonely, f"{len(lonely)} label maps belong to no volume"),
        (bare, f"{len(bare)} volumes have no label map"),
        (absent, f"{absent} of the card's held_out_sites have no patient; compare their spelling with the table's"),
        (strangers, f"{len(strangers)} studies name no patient; each is kept as a patient of its own, in training only"),
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


def _path_row(instance: dict[str, Any], file: File, archive: Path) -> dict[str, Any]:
    path = relative_name(file.path, archive)
    return {**{name: instance[name] for name in ("instance_pid", "status", "reason")}, "path": path}


def _lonely_row(name: str, key: bytes) -> dict[str, Any]:
    pid = pseudonym(key, "instance", name)
    return {"instance_pid": pid, "path": name, "status": "excluded", "reason": "label map without an image"}


def _sorted(rows: Sequence[dict[str, Any]], *names: str) -> Rows:
    return sorted(rows, key=lambda row: tuple(row[name] for name in names))


def _digest(card: Card) -> str:
    return hashlib.sha256(json.dumps(asdict(card), sort_keys=True).encode()).hexdigest()[:16]
