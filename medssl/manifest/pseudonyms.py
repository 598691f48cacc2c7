"""Pseudonyms: keyed, so that nobody without the key can find out whose they are by trying all numbers."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from pathlib import Path

from medssl.errors import UserError

KEY_BYTES = 32
LENGTH = 26
"""Base32 letters kept: 130 bits, enough for billions of patients without a collision."""


def read_key(path: Path) -> bytes:
    """The secret in a file; a new random one, readable by its owner alone, when there is no file."""
    if not path.exists():
        _make_key(path)
    key = path.read_bytes()
    if len(key) < KEY_BYTES:
        raise UserError(f"{path}: a key of {len(key)} bytes; give a file of at least {KEY_BYTES} random bytes")
    return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)  # a full disk must not leave a short key that blocks the next run
        raise


def is_shared(path: Path) -> bool:
    """Whether others than the owner may read a key."""
    return bool(path.stat().st_mode & 0o077)


def pseudonym(key: bytes, domain: str, value: str) -> str:
    """A stable name for `value` (26 lower-case letters and digits); "" for "". Domains keep ids of two kinds apart."""
    if not value:
        return ""
    digest = hmac.new(key, f"{domain}|{value}".encode(), hashlib.sha256).digest()
    return base64.b32encode(digest).decode().lower()[:LENGTH]
