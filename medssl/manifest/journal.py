"""What is already known of an archive's files, so that no file is read twice, however often a run is stopped.

Each unit of work is one immutable Parquet part, written whole or not at all. A file is known when a part holds it with
the size and the time of change that it has now; what parts there are, and who wrote them, makes no difference to
anything that is made from them. Parts hold what headers say of patients: they belong in the cohort's phi/ folder.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import google_crc32c

from medssl.archive.headers import NAN, Header
from medssl.atomic import replacing
from medssl.manifest.card import Card
from medssl.manifest.rows import Beside, File

Listed = tuple[str, int, int]
"""A file's name relative to the archive, its size in bytes and its time of change in nanoseconds."""

FACTS = tuple(item.name for item in fields(Header) if item.name != "path")
"""What a header tells, but for where its file is."""

OWN = {"sop_uid", "position", "content_time"}
"""Facts that differ from slice to slice."""

TRIED_AGAIN = {"CRASHED", "IO_ERROR", "OUT_OF_MEMORY", "TIMEOUT", "XML_PICTURE_MISSING"}
"""Reasons that may be gone in the next run: with other limits, on a disk that is well again, when all has arrived."""


@dataclass(frozen=True)
class Journal:
    """The parts in a folder; `checksums` tells whether every byte of the files is read, or no more than is needed.

    Parquet does not notice every flipped bit: the name of a part ends in the CRC-32C of its bytes.
    """

    folder: Path
    checksums: bool

    def known(self, archive: Path) -> dict[Listed, File]:
        """All that the parts hold and that holds still. A damaged part is as good as none."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        found: dict[Listed, File] = {}
        same: dict[Any, Any] = {}
        for path in sorted(self.folder.glob("*.parquet")):
            try:
                content = path.read_bytes()
            except OSError:
                continue
            if not path.stem.endswith(f"-{google_crc32c.value(content):08x}"):
                continue
            for listed, file in _rows(archive, pq.read_table(pa.BufferReader(content)).to_pylist(), same):
                if listed not in found or file.reason not in TRIED_AGAIN:
                    found[listed] = file
        return found

    def write(self, listed: Sequence[Listed], files: Iterable[File]) -> None:
        """Nothing; the folder has a part with what was read of the listed files."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [_row(*entry) for entry in zip(listed, files, strict=True)]
        name = hashlib.sha256(repr(sorted(listed)).encode()).hexdigest()[:26]
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        content = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), content, compression="zstd")
        whole = content.getvalue().to_pybytes()
        with replacing(self.folder / f"{name}-{google_crc32c.value(whole):08x}.parquet") as part:
            part.write_bytes(whole)
            part.chmod(0o600)


def journal(cohort: Path, archive: Path, card: Card) -> Journal:
    """The journal of a cohort about an archive. What other code read, or read by another rule, is not in it: it may say
    other things. Archives are told apart by their places, for names and sizes repeat from one export to the next.
    """
    place = hashlib.sha256(os.fsencode(archive.resolve())).hexdigest()[:12]
    folder = cohort / "phi" / "headers" / f"{_code()}-{card.identify_by}-{place}"
    return Journal(folder, card.identify_by == "content")


@functools.cache
def _code() -> str:
    """A digest of everything that decides what is read of a file."""
    from medssl import archive, volume
    from medssl.manifest.receipt import versions

    sources = [*Path(archive.__file__).parent.glob("*.py"), Path(volume.__file__), Path(__file__)]
    content = json.dumps(versions(), sort_keys=True).encode()
    content += b"".join(path.read_bytes() for path in sorted(sources))
    return hashlib.sha256(content).hexdigest()[:12]


def _schema() -> Any:
    import pyarrow as pa

    numbers, text = pa.int64(), pa.string()
    return pa.schema(
        {"name": pa.binary(), "size": numbers, "mtime_ns": numbers, "crc32c": numbers, "digest": text, "reason": text,
         "header": text, "beside": text}
    )  # fmt: skip


def _row(listed: Listed, file: File) -> dict[str, Any]:
    name, size, mtime_ns = listed
    told = {key: getattr(file.header, key) for key in FACTS} if file.header else None
    return {
        "name": os.fsencode(name), "size": size, "mtime_ns": mtime_ns, "crc32c": file.crc32c, "digest": file.digest,
        "reason": file.reason, "header": json.dumps(told) if told else None,
        "beside": json.dumps(file.beside) if file.beside else None,
    }  # fmt: skip


def _rows(archive: Path, rows: list[dict[str, Any]], same: dict[Any, Any]) -> Iterator[tuple[Listed, File]]:
    """Files as they were listed. What the slices of a series have in common is held once: `same` collects it."""
    for row in rows:
        name = os.fsdecode(row["name"])
        beside = _tuples(json.loads(row["beside"] or "[]"))
        if all(_is_there(archive / name, part) for part in beside):
            yield (name, row["size"], row["mtime_ns"]), _file(archive / name, row, beside, same)


def _is_there(path: Path, part: Beside) -> bool:
    """Whether a file beside the one at `path` is what it was when they were read."""
    name, size, mtime_ns, _ = part
    try:
        told = path.with_name(name).stat()
    except OSError:
        return False
    return (told.st_size, told.st_mtime_ns) == (size, mtime_ns)


def _file(path: Path, row: dict[str, Any], beside: tuple[Beside, ...], same: dict[Any, Any]) -> File:
    header = None
    if row["header"] is not None:
        told = {key: _tuples(value) for key, value in json.loads(row["header"], parse_constant=_constant).items()}
        header = Header(path=path, **{key: _shared(key, value, same) for key, value in told.items()})
    told = {name: row[name] for name in ("size", "crc32c", "digest", "reason")}
    return File(path=path, header=header, beside=beside, **told)


def _shared(key: str, value: Any, same: dict[Any, Any]) -> Any:
    """The value that is held for all that are written alike: -0.0 is not 0.0."""
    if key in OWN or not isinstance(value, str | tuple):
        return value
    return same.setdefault(value if isinstance(value, str) else repr(value), value)


def _constant(_: str) -> float:
    """The one nan: numbers in a header are finite or not told."""
    return NAN


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
