"""The `medssl` command: each room's work from a shell, with progress, clear errors and exit codes a scheduler can act on.

Exit codes: 0 done; 2 something given is wrong (the message says what and how to mend it); 3 done, but nothing usable
came out, more was left out than --max-left-out allows, or a report does not hold against its table; 4 somebody is on both
sides of a split; 5 damaged data; 6 a requirement of evaluate is not met; 7 under --strict, one is neither met nor missed, or
scanners are not known of whom probe --max-leak asks; 8 a trunk tells the scanner better than probe --max-leak allows; 74 the
disk is full or failing; 130 interrupted. Rooms are imported by the command that enters them, so that `--help` answers at
once.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence

import typer

from medssl.cli import answering, judging, learning, reading, weights, whole
from medssl.cli.options import BAD_INPUT, DAMAGED, DISK, INTERRUPTED, app
from medssl.errors import UserError

__all__ = ["app", "main"]

ROOMS = whole, reading, learning, answering, weights, judging
"""What holds the commands; importing it is what makes them known."""

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}


def main(arguments: Sequence[str] | None = None) -> None:
    """Nothing; leaves the process with the exit code that this module's first lines explain."""
    try:
        app(args=arguments)
    except SystemExit as left:
        if left.code == INTERRUPTED:
            typer.echo("medssl: interrupted; run the same command again to go on", err=True)
        raise
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        _leave(f"{error.filename or 'disk'}: {error.strerror}; free some space and run the same command again", DISK)
    except Exception as error:
        _leave(str(error), _code_of(error))


def _code_of(error: Exception) -> int:
    """The exit code of a mistake that we have words for; any other error is raised again, with its traceback."""
    # Only here: the rooms' imports would cost every --help half a second.
    from medssl.archive.reasons import Refusal
    from medssl.store.layout import Damaged

    if isinstance(error, UserError | Refusal):
        return BAD_INPUT
    if isinstance(error, Damaged):
        return DAMAGED
    raise error


def _leave(message: str, code: int) -> None:
    typer.echo(f"medssl: {message}", err=True)
    sys.exit(code)
