"""Finding the files of an archive. Nothing is passed over in silence: what cannot be looked into is told with a reason."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from medssl.errors import UserError

__all__ = ["Found", "find_files"]


@dataclass(frozen=True)
class Found:
    """The files below a folder, sorted, and what was passed over there with the code of REASONS: links, folders that
    cannot be listed, and what is neither a file nor a folder.
    """

    files: list[Path] = field(default_factory=list)
    passed_over: dict[Path, str] = field(default_factory=dict)


def find_files(root: Path | str, pattern: str = "") -> Found:
    """Every file below `root`, or those that match a glob; links and folders are told whether they match or not.

    Links are not followed: they may lead out of the archive, or in circles. Raises UserError for a `root` that is no
    folder or cannot be listed.
    """
    root = Path(root)
    if not root.exists():
        raise UserError(f"{root}: no such folder; give the folder that holds the images")
    if not root.is_dir():
        raise UserError(f"{root}: is a file; give the folder that holds the images")
    if ".." in Path(pattern).parts:
        raise UserError(f"{pattern}: leaves the folder; write a pattern of what is below it")
    found, waiting = Found(), [root]
    while waiting:
        waiting += _look_into(waiting.pop(), found)
    if code := found.passed_over.get(root):
        raise UserError(f"{root}: cannot be listed ({code}); see its permissions and the disk")
    if pattern:
        wanted = set(root.glob(pattern))
        found.files[:] = [path for path in found.files if path in wanted]
    found.files.sort()
    return found


def _look_into(folder: Path, found: Found) -> list[Path]:
    """The folders in a folder; its files and all else are in `found`."""
    folders = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = folder / entry.name
                if entry.is_symlink():
                    found.passed_over[path] = "LINK_NOT_FOLLOWED"
                elif entry.is_dir():
                    folders.append(path)
                elif entry.is_file():
                    found.files.append(path)
                else:
                    found.passed_over[path] = "NOT_AN_ARCHIVE_FILE"
    except FileNotFoundError:  # removed meanwhile
        return []
    except OSError:
        found.passed_over[folder] = "FOLDER_UNREADABLE"
    return folders
