"""A cohort is replaced whole or not at all."""

import errno
from pathlib import Path

import pyarrow.parquet
import pytest

from medssl.manifest import index
from medssl.manifest.pseudonyms import read_key
from medssl.manifest.tables import PART

DISK_FULL = OSError(errno.ENOSPC, "No space left on device")


def content(folder):
    """All but the journal and the lock: headers once read stay read, whatever happens to the tables."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith((".lock", "phi/headers/"))}


def fail_at(monkeypatch, call):
    """Lets pyarrow write part of the table at its `call`-th call and then run out of disk."""
    write, calls = pyarrow.parquet.write_table, []

    def full(table, path, **settings):
        calls.append(path)
        write(table, path, **settings)
        if len(calls) == call:
            if isinstance(path, Path):  # parts of the journal are made in memory first
                path.write_bytes(path.read_bytes()[:20])
            raise DISK_FULL

    monkeypatch.setattr("pyarrow.parquet.write_table", full)


@pytest.mark.parametrize("call", range(1, 8))
def test_a_full_disk_leaves_the_old_cohort_whole(scan, tmp_path, monkeypatch, call):
    scan(tmp_path / "a" / "one.nii.gz", 1)
    index(tmp_path / "a", tmp_path / "c")
    before = content(tmp_path / "c")
    scan(tmp_path / "a" / "two.nii.gz", 2)
    fail_at(monkeypatch, call)
    with pytest.raises(OSError, match="No space left"):
        index(tmp_path / "a", tmp_path / "c")
    assert content(tmp_path / "c") == before
    monkeypatch.undo()
    assert index(tmp_path / "a", tmp_path / "c").volumes == 2


def test_a_full_disk_leaves_no_tables_where_none_were(scan, tmp_path, monkeypatch):
    scan(tmp_path / "a" / "one.nii.gz", 1)
    fail_at(monkeypatch, 7)
    with pytest.raises(OSError, match="No space left"):
        index(tmp_path / "a", tmp_path / "c")
    assert list(content(tmp_path / "c")) == ["phi/key"]
    assert len(read_key(tmp_path / "c" / "phi" / "key")) == 32


def test_what_a_killed_run_left_is_removed(scan, tmp_path):
    scan(tmp_path / "a" / "one.nii.gz", 1)
    index(tmp_path / "a", tmp_path / "c")
    before = content(tmp_path / "c")
    (tmp_path / "c" / PART / "phi").mkdir(parents=True)
    (tmp_path / "c" / PART / "volumes.parquet").write_bytes(b"PAR1 half")
    index(tmp_path / "a", tmp_path / "c")
    assert content(tmp_path / "c") == before


def test_a_full_disk_leaves_no_short_key(tmp_path, monkeypatch):
    def full(_):
        raise DISK_FULL

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        read_key(tmp_path / "key")
    assert not (tmp_path / "key").exists()
