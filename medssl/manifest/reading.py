"""Reading the files of an archive: which ones are images, and their headers, in one process or several."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medssl.archive.finding import Found, find_files
from medssl.archive.headers import read_header
from medssl.archive.reasons import Refusal
from medssl.errors import UserError
from medssl.manifest.card import Card
from medssl.manifest.journal import TRIED_AGAIN, Journal, Listed
from medssl.manifest.rows import Beside, File
from medssl.manifest.sheets import sheet_files
from medssl.progress import Progress
from medssl.units import Work, map_units

BLOCK = 1 << 22
"""Bytes read at a time for the checksums."""

UNIT = 256
"""Most files that a process is given at a time: seconds of work, so that handing it over costs nothing."""

SECONDS_EACH = 0.5
"""What each file adds to the time limit of its unit: slow, but not hanging."""

FAILING = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES, errno.EPERM, errno.ENOTCONN, errno.EMFILE, errno.ENFILE,
}  # fmt: skip
"""Errors of a disk, a network or a permission, not of a file: it is read again the next time."""


def image_files(archive: Path, card: Card, cohort: Path) -> Found:
    """The archive's files without label maps, the clinical table and the cohort itself. Raises UserError for none."""
    there = find_files(archive, card.files)
    masks, own = _mask_names(card), _name_in(archive, cohort)
    names = [card.table, *card.joins, *card.split_lists.values()]
    tables = {_name_in(archive, path) for name in names if name for path in sheet_files(name, archive)}

    def is_meant(path: Path) -> bool:
        name = path.relative_to(archive).as_posix()
        return name not in tables and not masks.fullmatch(name) and not (own and name.startswith(f"{own}/"))

    found = Found(
        [path for path in there.files if is_meant(path)],
        {path: code for path, code in there.passed_over.items() if is_meant(path)},
    )
    if not found.files:
        what = f"no file matches {card.files!r}" if card.files else "an empty folder"
        if found.passed_over:
            what = f"holds only links or folders that cannot be listed ({len(found.passed_over)})"
        elif there.files:
            what = "holds a table or label maps but no images"
        raise UserError(f"{archive}: {what}; give the folder that holds the images")
    return found


def _name_in(archive: Path, path: Path) -> str:
    """The name of a path relative to the archive, however the two are written; "" for one elsewhere."""
    whole, root = path.resolve(), archive.resolve()
    return whole.relative_to(root).as_posix() if whole.is_relative_to(root) else ""


def mask_files(archive: Path, card: Card) -> set[str]:
    """Names, relative to the archive, of all label maps that the card's pattern can mean."""
    if not card.masks:
        return set()
    names = (path.relative_to(archive).as_posix() for path in find_files(archive).files)
    return {name for name in names if _mask_names(card).fullmatch(name)}


def _mask_names(card: Card) -> re.Pattern[str]:
    parts = re.split(r"(\{[^{}]*\})", card.masks)
    any_of = {"{folder}": ".*"}
    whole = "".join(any_of.get(part, "[^/]+") if part.startswith("{") else re.escape(part) for part in parts)
    return re.compile(whole if card.masks else r"(?!)")


def stem(path: Path) -> str:
    """The name of a file without its ending; .nii.gz is one ending."""
    return re.sub(r"(\.nii)?\.\w+$", "", path.name)


def read_file(path: Path, *, checksums: bool = True) -> File:
    """A file's header, or the reason why it is left out, with its checksums. No error of one file stops the others.

    Without `checksums` no more of a DICOM file is read than its header; its instance UID then stands for its content.
    """
    header, reason, size = None, "", 0
    beside: tuple[Beside, ...] = ()
    try:
        size = path.stat().st_size
        if not _is_text(path):
            raise Refusal("FILE_NAME", "file")
        with warnings.catch_warnings():
            # Libraries quote paths and values of broken files, which may name a patient.
            warnings.simplefilter("ignore")
            header = read_header(path)
    except Refusal as refusal:
        reason = refusal.code
    except MemoryError:
        reason = "OUT_OF_MEMORY"
    except Exception as error:  # a broken file breaks a parser in any way
        reason = "IO_ERROR" if isinstance(error, OSError) and error.errno in FAILING else "UNREADABLE"
    if header and header.sop_uid and not checksums:
        digest = hashlib.blake2b(header.sop_uid.encode(), digest_size=16).hexdigest()
        return File(path=path, size=size, crc32c=None, digest=digest, header=header, reason="")
    try:
        parts = [path.with_name(name) for name in header.parts] if header else []
        (crc32c, *theirs), digest = _checksums([path, *parts])
        beside = tuple(_beside(part, crc) for part, crc in zip(parts, theirs, strict=True))
    except OSError as error:
        code = "IO_ERROR" if error.errno in FAILING else "UNREADABLE"
        return replace(unread(path, reason or code), size=size)
    return File(path=path, size=size, crc32c=crc32c, digest=digest, header=header, reason=reason, beside=beside)


def unread(path: Path, code: str) -> File:
    """What is left out without being opened, with the reason."""
    return File(path=path, size=0, crc32c=None, digest="", header=None, reason=code)


def _beside(path: Path, crc32c: int) -> Beside:
    told = path.stat()
    return path.name, told.st_size, told.st_mtime_ns, crc32c


def _is_text(path: Path) -> bool:
    """Whether the bytes of a file's name are text, so that tables can hold it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _checksums(paths: Sequence[Path]) -> tuple[list[int], str]:
    """The CRC-32C of each file, and a digest of them all."""
    import google_crc32c

    found, digest = [], hashlib.blake2b(digest_size=16)
    for path in paths:
        crc = 0
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                crc = google_crc32c.extend(crc, block)
                digest.update(block)
        found.append(crc)
    return found, digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A unit of work: files that one process reads, and the journal that it writes them to."""

    archive: Path
    listed: tuple[Listed, ...]
    journal: Journal


@dataclass(frozen=True)
class Ended:
    """A unit of work that was ended from outside, and why."""

    reading: Reading
    code: str


def listing(archive: Path, paths: Sequence[Path]) -> list[Listed]:
    """Each file with its size and time of change, in order; -1 for both when it is no longer there."""
    found = []
    for path in paths:
        try:
            told = path.stat()
            size, mtime_ns = told.st_size, told.st_mtime_ns
        except OSError:
            size, mtime_ns = -1, -1
        found.append((path.relative_to(archive).as_posix(), size, mtime_ns))
    return found


def share_of(listed: Sequence[Listed], share: tuple[int, int]) -> list[Listed]:
    """The files that machine i of n has to read, by their names alone. (1, 1): all of them."""
    number, among = share
    return [entry for entry in listed if zlib.crc32(os.fsencode(entry[0])) % among == number - 1]


def read_missing(
    archive: Path, listed: Sequence[Listed], parts: Journal, *, work: Work, progress: Progress
) -> dict[Listed, File]:
    """What the journal says once all listed files are in it; those that are not there yet are read."""
    known = parts.known(archive)
    return parts.known(archive) if read_unknown(archive, listed, known, parts, work, progress) else known


def read_unknown(
    archive: Path, listed: Sequence[Listed], known: dict[Listed, File], parts: Journal, work: Work, progress: Progress
) -> int:
    """How many of the listed files were read into the journal: those that are not known, or may be read better now.

    A file that ends its process, hangs or needs too much memory is found by halving the unit that it is in.
    """
    missing = [entry for entry in listed if entry not in known or known[entry].reason in TRIED_AGAIN]
    size = max(1, min(UNIT, len(missing) // (4 * max(1, work.workers))))
    units = [
        Reading(archive=archive, listed=tuple(missing[start : start + size]), journal=parts)
        for start in range(0, len(missing), size)
    ]
    there = len(listed) - len(missing)
    for _ in progress(_read(units, work), "reading headers", len(listed), there):
        pass
    return len(missing)


def _read(units: list[Reading], work: Work) -> Iterator[None]:
    """Nothing, once for each file that is in the journal now."""

    def seconds(unit: Reading) -> float:
        return work.seconds + SECONDS_EACH * len(unit.listed)

    while units:
        again: list[Reading] = []
        for told in map_units(read_unit, units, work, failed=Ended, seconds=seconds):
            if isinstance(told, int):
                yield from (None for _ in range(told))
            elif len(told.reading.listed) > 1:
                middle = len(told.reading.listed) // 2
                halves = told.reading.listed[:middle], told.reading.listed[middle:]
                again += [replace(told.reading, listed=half) for half in halves]
            else:
                _give_up(told)
                yield None
        units = again


def read_unit(unit: Reading) -> int | Ended:
    """How many files were read: the journal has a part with them."""
    files = [read_file(unit.archive / name, checksums=unit.journal.checksums) for name, _, _ in unit.listed]
    unit.journal.write(unit.listed, files)
    return len(files)


def _give_up(ended: Ended) -> None:
    """Nothing; the journal has a part that says why its one file could not be read."""
    (listed,) = ended.reading.listed
    path, size = ended.reading.archive / listed[0], max(0, listed[1])
    ended.reading.journal.write([listed], [replace(unread(path, ended.code), size=size)])
