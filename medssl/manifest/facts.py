"""What stands beside an image: the numbers inside an NPZ, or a small file of "key: value" lines."""

from __future__ import annotations

import zipfile
from pathlib import Path

from medssl.errors import UserError

LONGEST = 1 << 16
"""Bytes of a file of facts that are read, and of a member of an NPZ that counts as a fact rather than an image."""


def read_facts(path: Path) -> dict[str, str]:
    """Facts by name, as text. Raises UserError, without the file's name, for a file that is missing or cannot be read."""
    if path.is_symlink() or not path.is_file():
        raise UserError(f"no {path.name!r} beside an image; check `facts` in the card")
    return npz_facts(path) if path.suffix == ".npz" else _lines(path)


def npz_facts(path: Path) -> dict[str, str]:
    """The scalars of an NPZ by name, and the items of short vectors by name.0, name.1, ...; images are left alone."""
    import numpy as np

    facts = {}
    try:
        with zipfile.ZipFile(path) as members:
            small = [m.filename.removesuffix(".npy") for m in members.infolist() if m.file_size <= LONGEST]
        with np.load(path, allow_pickle=False) as arrays:
            for name in small:
                value = arrays[name]
                if value.size == 1:
                    facts[name] = str(value.reshape(-1)[0])
                elif value.ndim == 1:
                    facts |= {f"{name}.{number}": str(item) for number, item in enumerate(value)}
    except Exception as error:  # a broken or forged file breaks a parser in any way
        raise UserError(
            f"the facts of an NPZ cannot be read ({type(error).__name__}); write it without objects"
        ) from None
    return facts


def _lines(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = file.read(LONGEST).splitlines()
    parts = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, colon, value in parts if colon and name.strip()}
