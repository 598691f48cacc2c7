"""Reading the files of an archive: which ones are images, and their headers, in one process or several."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from medssl.archive.headers import find_files, read_header
from medssl.archive.reasons import Refusal
from medssl.errors import UserError
from medssl.manifest.card import Card
from medssl.manifest.rows import File

BLOCK = 1 << 22
"""Bytes read at a time for the checksums."""

CHUNK = 32
"""Files that a process is given at a time."""


def image_files(archive: Path, card: Card, cohort: Path) -> list[Path]:
    """The archive's files without label maps, the clinical table and the cohort itself. Raises UserError for none."""
    there = find_files(archive, card.files)
    inside = cohort.resolve().is_relative_to(archive.resolve())
    own = cohort.resolve().relative_to(archive.resolve()).as_posix() + "/" if inside else None
    masks = _mask_names(card)
    found = []
    for path in there:
        name = path.relative_to(archive).as_posix()
        if name != card.table and not masks.fullmatch(name) and not (own and name.startswith(own)):
            found.append(path)
    if not found:
        what = f"no file matches {card.files!r}" if card.files else "an empty folder"
        if there:
            what = "holds a table or label maps but no images"
        raise UserError(f"{archive}: {what}; give the folder that holds the images")
    return found


def mask_files(archive: Path, card: Card) -> set[str]:
    """Names, relative to the archive, of all label maps that the card's pattern can mean."""
    if not card.masks:
        return set()
    names = (path.relative_to(archive).as_posix() for path in find_files(archive))
    return {name for name in names if _mask_names(card).fullmatch(name)}


def _mask_names(card: Card) -> re.Pattern[str]:
    parts = re.split(r"\{[^{}]*\}", card.masks)
    return re.compile("[^/]+".join(map(re.escape, parts)) if card.masks else r"(?!)")


def stem(path: Path) -> str:
    """The name of a file without its ending; .nii.gz is one ending."""
    return re.sub(r"(\.nii)?\.\w+$", "", path.name)


def read_file(path: Path) -> File:
    """A file's header, or the reason why it is left out, with its checksums. No error of one file stops the others."""
    import google_crc32c

    crc, digest, size = 0, hashlib.blake2b(digest_size=16), 0
    header, reason = None, ""
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                crc, size = google_crc32c.extend(crc, block), size + len(block)
                digest.update(block)
        with warnings.catch_warnings():
            # Libraries quote paths and values of broken files, which may name a patient.
            warnings.simplefilter("ignore")
            header = read_header(path)
    except Refusal as refusal:
        reason = refusal.code
    except Exception:  # a broken file breaks a parser in any way
        reason = "UNREADABLE"
    return File(path=path, size=size, crc32c=crc, digest=digest.hexdigest(), header=header, reason=reason)


Reader = Callable[[Path], File]


def read_all(paths: Sequence[Path], workers: int, read: Reader = read_file) -> Iterator[File]:
    """What `read` says of each file, in order. With several workers a file that kills its process is left out alone."""
    if workers == 1:
        yield from map(read, paths)
        return
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    done = 0
    while done < len(chunks):
        rest = chunks[done:]
        try:
            with ProcessPoolExecutor(min(workers, len(rest)), mp_context=get_context("spawn")) as pool:
                for files in pool.map(_read_chunk, rest, [read] * len(rest)):
                    yield from files
                    done += 1
        except BrokenProcessPool:  # one process died and all waiting chunks with it: the first goes file by file
            yield from (_read_alone(path, read) for path in chunks[done])
            done += 1


def _read_chunk(paths: Sequence[Path], read: Reader) -> list[File]:
    return [read(path) for path in paths]


def _read_alone(path: Path, read: Reader) -> File:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(read, path).result()
        except BrokenProcessPool:
            return File(path=path, size=path.stat().st_size, crc32c=0, digest="", header=None, reason="UNREADABLE")
