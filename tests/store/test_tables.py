"""The tables of a store are those of one run, or it does not open; a full disk leaves those that were there."""

import errno
import json
import resource
import shutil
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest

from medssl.errors import UserError
from medssl.store import Preparation, open_store, prepare
from medssl.store.fingerprint import fingerprint

SETTINGS = Preparation(mr_spacing=(2.0, 2.0, 2.0))
FILES = ("store.json", "fingerprint.json", "volumes.parquet", "patients.parquet", "labels.parquet")

KILLED = """\
import os, sys
from pathlib import Path
from medssl.store import Preparation, prepare
real, left = Path.replace, [int(sys.argv[3])]
def replace(self, target):
    if not str(target).endswith(".part") and "arrays" not in str(target):
        left[0] -= 1
        if left[0] < 0:
            os._exit(9)
    return real(self, target)
Path.replace = replace
prepare(sys.argv[1], sys.argv[2], settings=Preparation(mr_spacing=(2.0, 2.0, 2.0)))
"""


def tables(store):
    return {name: (store / name).read_bytes() for name in FILES}


@pytest.fixture
def grown(clinic):
    """A store, and its tables before and after a volume was added: no two of them are equal."""
    clinic.scan("a")
    prepare(clinic.write(), clinic.store, settings=SETTINGS)
    before = tables(clinic.store)
    clinic.scan("b", site="south")
    prepare(clinic.write(), clinic.store, settings=SETTINGS)
    after = tables(clinic.store)
    assert all(before[name] != after[name] for name in FILES)
    return clinic, before, after


def put(store, content):
    for name, file in content.items():
        (store / name).write_bytes(file)


def test_no_mixture_of_two_runs_opens(grown):
    clinic, before, after = grown
    for number in range(1, len(FILES)):
        for newer in combinations(FILES, number):
            put(clinic.store, before | {name: after[name] for name in newer})
            with pytest.raises(UserError, match="damaged or of another run; run medssl prepare again"):
                open_store(clinic.store)
            with pytest.raises(UserError, match="of another run"):
                fingerprint(clinic.store)
    for content, volumes in ((before, 1), (after, 2)):
        put(clinic.store, content)
        assert len(open_store(clinic.store).volumes) == volumes
    put(clinic.store, before | {"labels.parquet": after["labels.parquet"]})
    receipt = prepare(clinic.cohort, clinic.store, settings=SETTINGS)
    assert (receipt.prepared, receipt.reused) == (2, 2)
    assert tables(clinic.store) == after


@pytest.mark.parametrize("moved", range(5))
def test_killed_between_two_tables(grown, moved):
    """Nothing is unlinked or moved back by a process that is gone: the next run finds what it left."""
    clinic, before, after = grown
    put(clinic.store, before)
    command = [sys.executable, "-c", KILLED, clinic.cohort, clinic.store, moved]
    assert subprocess.run([*map(str, command)], check=False).returncode == 9
    now = tables(clinic.store)
    assert sum(now[name] != before[name] for name in FILES) == moved
    assert now["store.json"] == before["store.json"]
    if moved:
        with pytest.raises(UserError, match="of another run"):
            open_store(clinic.store)
    else:
        assert len(open_store(clinic.store).volumes) == 1
    prepare(clinic.cohort, clinic.store, settings=SETTINGS)
    assert tables(clinic.store) == after
    assert not list(clinic.store.glob(".*.part"))


@pytest.mark.parametrize("name", ["volumes.parquet", "patients.parquet", "labels.parquet", "fingerprint.json"])
def test_a_full_disk_leaves_the_old_tables(grown, monkeypatch, name):
    """The file is cut short, as it is on a disk that fills up while it is written."""
    import pandas as pd

    from medssl import atomic

    clinic, before, _ = grown
    put(clinic.store, before)

    def full(write):
        def halfway(content, path, *arguments, **how):
            write(content, path, *arguments, **how)
            if name in path.name:
                path.write_bytes(path.read_bytes()[:20])
                raise OSError(errno.ENOSPC, "No space left on device")

        return halfway

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full(pd.DataFrame.to_parquet))
    text = atomic.write_text
    monkeypatch.setattr(atomic, "write_text", lambda path, content: full(lambda c, p: text(p, c))(content, path))
    with pytest.raises(OSError, match="No space left") as caught:
        prepare(clinic.cohort, clinic.store, settings=SETTINGS)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(clinic.store))
    assert tables(clinic.store) == before
    assert not list(clinic.store.glob(".*.part"))
    assert len(open_store(clinic.store).volumes) == 1


def test_a_disk_that_fills_up_within_a_shard(clinic):
    """The system itself cuts the file short; the volume before it stays, of this one there is nothing."""
    clinic.scan("a", voxels=np.random.default_rng(0).normal(100, 10, (12, 12, 12)).astype(np.float32))
    prepare(clinic.write(), clinic.store, settings=SETTINGS)
    before = tables(clinic.store)
    clinic.scan("b", voxels=np.random.default_rng(1).normal(100, 10, (80, 80, 80)).astype(np.float32))
    clinic.write()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            prepare(clinic.cohort, clinic.store, settings=SETTINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert tables(clinic.store) == before
    assert len(list((clinic.store / "arrays").iterdir())) == len(open_store(clinic.store).volumes) == 1
    assert prepare(clinic.cohort, clinic.store, settings=SETTINGS).reused == 1


def test_a_store_whose_tables_had_no_checksums_is_told(clinic):
    clinic.scan("a")
    prepare(clinic.write(), clinic.store, settings=SETTINGS)
    told = json.loads((clinic.store / "store.json").read_text())
    del told["tables"]
    (clinic.store / "store.json").write_text(json.dumps(told | {"format": 1}))
    with pytest.raises(UserError, match=r"format 1; this is .* run medssl prepare again"):
        open_store(clinic.store)
    assert prepare(clinic.cohort, clinic.store, settings=SETTINGS).reused == 1
    assert len(open_store(clinic.store).volumes) == 1


def test_a_folder_in_place_of_a_table_is_told(clinic):
    clinic.scan("a")
    prepare(clinic.write(), clinic.store, settings=SETTINGS)
    (clinic.store / "labels.parquet").unlink()
    (clinic.store / "labels.parquet").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        open_store(clinic.store)
    shutil.rmtree(clinic.store / "labels.parquet")
    with pytest.raises(UserError, match="run medssl prepare"):
        open_store(clinic.store)
