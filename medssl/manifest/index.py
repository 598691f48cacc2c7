"""From an archive to a manifest: every file ends in a volume, or in a row that says why not."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

from medssl.archive.headers import Header, find_files, read_header
from medssl.archive.reasons import REASONS, Refusal
from medssl.archive.series import Stack, assemble
from medssl.atomic import write_json
from medssl.errors import UserError
from medssl.manifest.card import Card
from medssl.manifest.clinical import Clinical, read_clinical
from medssl.manifest.pseudonyms import pseudonym, read_key
from medssl.manifest.rows import File, instance_row, label_rows, patient_rows, volume_row
from medssl.manifest.splits import split_of
from medssl.manifest.tables import INSTANCES, LABELS, PATIENTS, SOURCES, VOLUMES, write_table
from medssl.progress import Progress, silent

BLOCK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What an archive holds: counts, why things were left out, and what the reader should know."""

    files: int
    volumes: int
    patients: int
    by_modality: dict[str, int]
    files_left_out: dict[str, int]
    series_left_out: dict[str, int]
    masks: int
    labels: dict[str, int]
    splits: dict[str, int]
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {name}" for name, count in self.by_modality.items())
        lines = [f"{self.volumes} volumes ({kinds or 'none'}) of {self.patients} patients in {self.files} files"]
        for what, reasons in ("files", self.files_left_out), ("series", self.series_left_out):
            lines += [f"  left out: {count} {what}, {code}. {REASONS[code]}" for code, count in reasons.items()]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def index(
    archive: Path | str,
    cohort: Path | str,
    *,
    card: Card | None = None,
    key_file: Path | None = None,
    workers: int = 1,
    strict_table: bool = False,
    progress: Progress = silent,
) -> Receipt:
    """What was found; `cohort` holds the manifest. The same archive, card and key give the same bytes.

    Raises UserError for an archive without files, a table that cannot be read and, with `strict_table`, for rows of the
    table that are about nothing in the archive.
    """
    archive, cohort, card = Path(archive), Path(cohort), card or Card(name="archive")
    paths = _files(archive, card)
    table = read_clinical(card, archive)
    files = list(progress(_read_all(paths, workers), "reading headers", len(paths)))
    files = [_with_patient(file, card, table, archive) for file in files]
    stacks = _unique(assemble([file.header for file in files if file.header is not None]), files)
    told = {name: table.row_of(stack.headers[0], archive) for name, stack in stacks}
    unused = table.unused_rows()
    if strict_table and unused:
        raise UserError(
            f"{archive / card.table}: row {unused[0]} is about nothing in the archive ({len(unused)} such rows)"
        )
    found = _Found(archive=archive, files=files, stacks=stacks, told=told, table=table)
    return _write(cohort, card, read_key(key_file or cohort / "phi" / "key"), found)


def _files(archive: Path, card: Card) -> list[Path]:
    """The archive's files without its label maps and its table, which are not images of their own."""
    masks = card.masks.partition("{")[0]
    found = []
    for path in find_files(archive, card.files):
        name = path.relative_to(archive).as_posix()
        if name != card.table and not (masks and name.startswith(masks)):
            found.append(path)
    if not found:
        what = f"no file matches {card.files!r}" if card.files else "an empty folder"
        raise UserError(f"{archive}: {what}; give the folder that holds the images")
    return found


def _read_all(paths: Sequence[Path], workers: int) -> Iterator[File]:
    if workers == 1:
        yield from map(read_file, paths)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(read_file, paths, chunksize=32)


def read_file(path: Path) -> File:
    """A file's header, or the reason why it is left out, with its checksums. No error of one file stops the others."""
    import google_crc32c

    crc, digest, size = 0, hashlib.blake2b(digest_size=16), 0
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                crc, size = google_crc32c.extend(crc, block), size + len(block)
                digest.update(block)
        header, reason = read_header(path), ""
    except Refusal as refusal:
        header, reason = None, refusal.code
    except (OSError, ValueError, MemoryError, RecursionError):
        header, reason = None, "UNREADABLE"
    return File(path=path, size=size, crc32c=crc, digest=digest.hexdigest(), header=header, reason=reason)


def _with_patient(file: File, card: Card, table: Clinical, archive: Path) -> File:
    """The file with its patient and modality filled in where its header leaves them open."""
    header = file.header
    if header is None:
        return file
    if header.modality == "unknown":
        header = replace(header, modality=card.modality)
    if not header.patient_id:
        named = re.search(card.patient, _stem(header.path)) if card.patient else None
        told = table.row_of(header, archive).get("patient_id", "") if table.key == "file" else ""
        header = replace(header, patient_id=told or (named.group(1) if named else _stem(header.path)))
    return replace(file, header=header)


def _stem(path: Path) -> str:
    return re.sub(r"(\.nii)?\.\w+$", "", path.name)


def _unique(stacks: list[Stack], files: list[File]) -> list[tuple[str, Stack]]:
    """Stacks with ids made from their content; a stack whose content was seen before is left out as a duplicate."""
    digests = {file.path: file.digest for file in files}
    seen: Counter[str] = Counter()
    named = []
    for stack in stacks:
        content = hashlib.sha256("|".join(sorted(digests[h.path] for h in stack.headers)).encode()).digest()
        name = base64.b32encode(content).decode().lower()[:26]
        seen[name] += 1
        if seen[name] > 1:
            again = hashlib.sha256(content + seen[name].to_bytes(4, "big")).digest()
            name = base64.b32encode(again).decode().lower()[:26]
            stack = replace(stack, status="excluded", reason="DUP_INSTANCE")
        named.append((name, stack))
    return named


@dataclass(frozen=True, kw_only=True)
class _Found:
    """All that was read: files, named stacks, and what the clinical table says of each."""

    archive: Path
    files: list[File]
    stacks: list[tuple[str, Stack]]
    told: dict[str, dict[str, str]]
    table: Clinical


def _write(cohort: Path, card: Card, key: bytes, found: _Found) -> Receipt:
    archive, files, stacks, table = found.archive, found.files, found.stacks, found.table
    patients = {stack.headers[0].patient_id for _, stack in stacks}
    alone = len(patients) == 1
    splits = {p: "train" if alone else split_of(p, card.split_seed, card.splits) for p in patients}
    volumes, labels, sources = [], [], []
    for volume_id, stack in stacks:
        told = found.told[volume_id]
        mask = _mask(stack.headers[0], card, archive)
        row = volume_row(volume_id, stack, key, told, splits[stack.headers[0].patient_id], has_mask=bool(mask))
        volumes.append(row)
        if stack.status != "excluded":
            labels += label_rows(volume_id, told, table.labels, card.table)
        for order, header in enumerate(stack.headers):
            path = header.path.relative_to(archive).as_posix()
            sources.append({"volume_id": volume_id, "order": order, "path": path, "mask_path": mask,
                            "archive": str(archive.resolve())})  # fmt: skip
    reasons = {
        header.path: stack.reason for _, stack in stacks if stack.status == "excluded" for header in stack.headers
    }
    people = patient_rows(volumes, [(stack, found.told[name]) for name, stack in stacks], key, card)
    volumes.sort(key=lambda row: str(row["volume_id"]))
    sources.sort(key=lambda row: (str(row["volume_id"]), row["order"]))
    (cohort / "phi").mkdir(parents=True, exist_ok=True, mode=0o700)
    receipt = _receipt(card, files, volumes, people, labels, _notes(card, archive, alone, table, sources))
    write_table(cohort / "phi" / "sources.parquet", SOURCES, sources)
    instances = [instance_row(file, key, reasons.get(file.path, ""), archive) for file in files]
    write_table(cohort / "instances.parquet", INSTANCES, sorted(instances, key=lambda row: str(row["instance_pid"])))
    write_table(cohort / "patients.parquet", PATIENTS, people)
    write_table(cohort / "labels.parquet", LABELS, sorted(labels, key=lambda r: (str(r["volume_id"]), str(r["name"]))))
    write_table(cohort / "volumes.parquet", VOLUMES, volumes)
    card_digest = hashlib.sha256(json.dumps(asdict(card), sort_keys=True).encode()).hexdigest()[:16]
    key_print = pseudonym(key, "fingerprint", "key")[:8]
    write_json(cohort / "receipt.json", {**asdict(receipt), "card": card_digest, "key": key_print})
    return receipt


def _mask(header: Header, card: Card, archive: Path) -> str:
    """The path of a volume's label map, "" when there is none."""
    if not card.masks:
        return ""
    name = card.masks.format(
        stem=_stem(header.path), name=header.path.name, series_uid=header.series_uid or _stem(header.path)
    )
    return name if (archive / name).is_file() else ""


def _notes(card: Card, archive: Path, alone: bool, table: Clinical, sources: list[dict[str, object]]) -> list[str]:
    notes = []
    if alone:
        notes.append("one patient only: all volumes are in the training split, nothing is left to judge on")
    if unused := table.unused_rows():
        notes.append(f"{len(unused)} rows of the table are about nothing in the archive (first: row {unused[0]})")
    folder = card.masks.partition("{")[0]
    if folder:
        there = {path.relative_to(archive).as_posix() for path in (archive / folder).glob("**/*") if path.is_file()}
        if lonely := len(there - {str(source["mask_path"]) for source in sources}):
            notes.append(f"{lonely} label maps belong to no volume")
    return notes


def _receipt(
    card: Card,
    files: list[File],
    volumes: list[dict[str, object]],
    people: list[dict[str, object]],
    labels: list[dict[str, object]],
    notes: list[str],
) -> Receipt:
    def counts(values: Iterator[object]) -> dict[str, int]:
        return {str(value): count for value, count in sorted(Counter(values).items(), key=lambda item: str(item[0]))}

    kept = [row for row in volumes if row["status"] != "excluded"]
    if card.masks and (bare := sum(not row["has_mask"] for row in kept)):
        notes = [*notes, f"{bare} volumes have no label map"]
    return Receipt(
        files=len(files), volumes=len(kept), patients=len(people),
        by_modality=counts(row["modality"] for row in kept),
        files_left_out=counts(file.reason for file in files if file.reason),
        series_left_out=counts(row["reason"] for row in volumes if row["status"] == "excluded"),
        masks=sum(bool(row["has_mask"]) for row in kept), labels=counts(row["name"] for row in labels),
        splits=counts(row["split"] for row in kept), notes=notes,
    )  # fmt: skip
