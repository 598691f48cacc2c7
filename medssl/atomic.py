"""Writing files so that a killed process or a full disk leaves either the old content or the new, never a part."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; it takes `path`'s place when the block ends well and is removed when it does not.

    The bytes are flushed to the disk before the rename, so the new name never points at an empty file after a crash.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Nothing; what killed runs left half-written directly in `folder` is gone. For whoever alone writes there."""
    for part in folder.glob(".*.part"):
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Nothing; `path` holds `text` (UTF-8) or, on any error, what it held before."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, content: object) -> None:
    """Nothing; `path` holds `content` as indented JSON. NaN is refused: write None and a reason."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
