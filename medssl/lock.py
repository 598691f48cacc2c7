"""A folder that one run writes at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medssl.errors import UserError


@contextmanager
def writing(folder: Path, command: str, *, share: bool = False) -> Iterator[None]:
    """While it lasts, no other process writes to `folder`; those that do a share of the work may, beside each other.

    Raises UserError, naming the `command`, when another run is at it. The system takes the lock from a killed process.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{folder}: is a file; give the path of a folder") from None
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if share else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder}: another {command} is writing to it; wait for it or give another folder"
            ) from None
        except OSError as error:
            raise UserError(
                f"{folder}: its disk has no file locks ({error.strerror}), so two runs could write at once; give a folder "
                "on another disk, or mount it with locks"
            ) from None
        yield
