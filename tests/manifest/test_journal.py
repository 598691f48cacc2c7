"""No file is read twice, however often a run is stopped or an archive grows, and a share is as good as the whole."""

import errno
import os
import random
import shutil
import time
from pathlib import Path

import pytest

from medssl.archive.headers import Header
from medssl.errors import UserError
from medssl.manifest import Card, index, read_cohort, read_share
from medssl.manifest import reading as room
from medssl.manifest.journal import Journal
from medssl.manifest.reading import listing, read_missing, read_unit
from medssl.manifest.rows import File
from medssl.progress import silent
from medssl.units import HERE, Work


@pytest.fixture
def reads(monkeypatch):
    """The names of the files whose headers are read from now on."""
    names = []
    read = room.read_header

    def counted(path):
        names.append(path.name)
        return read(path)

    monkeypatch.setattr(room, "read_header", counted)
    return names


def tables(cohort):
    """The manifest's bytes, without the key, the journal and the lock."""
    paths = [path for path in sorted(cohort.glob("**/*")) if path.is_file() and "headers" not in path.parts]
    return {path.relative_to(cohort): path.read_bytes() for path in paths if path.name not in {"key", ".lock"}}


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(bytes(32))
    path.chmod(0o600)
    return path


def test_only_what_is_new_or_changed_is_read(series, scan, tmp_path, key, reads):
    series(tmp_path / "a" / "s", "P-1")
    scan(tmp_path / "a" / "v.nii.gz", 1)
    index(tmp_path / "a", tmp_path / "c", key_file=key)
    assert len(reads) == 7
    reads.clear()
    index(tmp_path / "a", tmp_path / "c", key_file=key)
    assert reads == []
    scan(tmp_path / "a" / "w.nii.gz", 2)
    (tmp_path / "a" / "s" / "3.dcm").unlink()
    scan(tmp_path / "a" / "v.nii.gz", 3)
    os.utime(tmp_path / "a" / "v.nii.gz", ns=(1, 1))
    index(tmp_path / "a", tmp_path / "c", key_file=key)
    assert sorted(reads) == ["v.nii.gz", "w.nii.gz"]
    shutil.copytree(tmp_path / "a", tmp_path / "b" / "a")
    fresh = index(tmp_path / "a", tmp_path / "d", key_file=key)
    assert tables(tmp_path / "c") == tables(tmp_path / "d")
    assert fresh.series_left_out == {"MISSING_SLICE": 1}


def test_another_archive_is_not_taken_for_the_first(scan, tmp_path, key):
    """Exports repeat their names, and often their sizes and times."""
    for place, seed in ("a", 1), ("b", 2):
        scan(tmp_path / place / "v.nii", seed)
        os.utime(tmp_path / place / "v.nii", ns=(1, 1))
    assert (tmp_path / "a" / "v.nii").stat().st_size == (tmp_path / "b" / "v.nii").stat().st_size
    index(tmp_path / "a", tmp_path / "c", key_file=key)
    index(tmp_path / "b", tmp_path / "c", key_file=key)
    index(tmp_path / "b", tmp_path / "d", key_file=key)
    assert tables(tmp_path / "c") == tables(tmp_path / "d")
    (tmp_path / "also_b").symlink_to(tmp_path / "b")
    assert index(tmp_path / "also_b", tmp_path / "c", key_file=key).volumes == 1


def test_shares_make_the_same_manifest(series, scan, tmp_path, key, reads):
    series(tmp_path / "a" / "s", "P-1")
    for n in range(8):
        scan(tmp_path / "a" / f"{n}.nii.gz", n)
    counts = [read_share(tmp_path / "a", tmp_path / "c", (i, 3)) for i in (2, 1, 3)]
    assert sum(counts) == len(reads) == 14
    assert min(counts) > 0
    assert not list((tmp_path / "c").glob("*.parquet"))
    reads.clear()
    index(tmp_path / "a", tmp_path / "c", key_file=key)
    assert reads == []
    index(tmp_path / "a", tmp_path / "d", key_file=key)
    assert tables(tmp_path / "c") == tables(tmp_path / "d")


def test_a_header_survives_the_journal(tmp_path):
    path = tmp_path / "a" / "x"
    header = Header(
        path=path, size=3, kind="dicom", patient_id="Müller\u2028", image_type=("A", "B"), echo_time=0.1 + 0.2,
        position=(1e-300, -0.0, 3.0), frames=((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)), instance_number=None, oriented=False,
    )  # fmt: skip
    parts = Journal(tmp_path / "j", True)
    file = File(path=path, size=3, crc32c=2**32 - 1, digest="d", header=header, reason="")
    parts.write([("x", 3, 4)], [file])
    (tmp_path / "a").mkdir()
    (found,) = parts.known(tmp_path / "a").values()
    assert repr(found.header) == repr(header)  # nan is not equal to itself
    assert (found.crc32c, found.digest, found.path) == (file.crc32c, "d", path)


def test_a_damaged_part_is_read_again(scan, tmp_path, key, reads):
    for n in range(6):
        scan(tmp_path / "a" / f"{n}.nii.gz", n)
    index(tmp_path / "a", tmp_path / "c", key_file=key)
    before = tables(tmp_path / "c")
    parts = sorted((tmp_path / "c" / "phi" / "headers").rglob("*.parquet"))
    parts[0].write_bytes(parts[0].read_bytes()[:-40])
    reads.clear()
    index(tmp_path / "a", tmp_path / "c", key_file=key)
    assert 0 < len(reads) < 6
    assert tables(tmp_path / "c") == before


def test_a_flipped_bit_of_a_part_is_never_believed(scan, tmp_path):
    """Parquet alone lets some of them through: another number, another patient."""
    for n in range(3):
        scan(tmp_path / "a" / f"{n}.nii.gz", n)
    listed = listing(tmp_path / "a", sorted((tmp_path / "a").iterdir()))
    parts = Journal(tmp_path / "j", True)
    read_missing(tmp_path / "a", listed, parts, work=HERE, progress=silent)
    paths = sorted((tmp_path / "j").iterdir())
    draw = random.Random(0)
    for path in paths:
        whole = path.read_bytes()
        for _ in range(100):
            damaged = bytearray(whole)
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
            path.write_bytes(damaged)
            assert len(parts.known(tmp_path / "a")) == len(listed) - len(listed) // len(paths)
        path.write_bytes(whole)
    assert len(parts.known(tmp_path / "a")) == len(listed)


def test_a_failing_disk_is_tried_again(scan, tmp_path, monkeypatch):
    scan(tmp_path / "a" / "v.nii.gz", 1)
    scan(tmp_path / "a" / "w.nii.gz", 2)
    read = room.read_header

    def failing(path):
        if path.name == "v.nii.gz":
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    monkeypatch.setattr(room, "read_header", failing)
    assert index(tmp_path / "a", tmp_path / "c").files_left_out == {"IO_ERROR": 1}
    monkeypatch.undo()
    assert index(tmp_path / "a", tmp_path / "c").volumes == 2
    assert index(tmp_path / "a", tmp_path / "c").volumes == 2


def hostile(unit):
    """As `read_unit`, in a process that some files end."""
    for name, *_ in unit.listed:
        if "bomb" in name:
            os._exit(9)
        if "hang" in name:
            time.sleep(60)
        if "swell" in name:
            bytearray(1 << 32)
    return read_unit(unit)


@pytest.mark.slow
def test_the_file_that_ends_its_process_is_left_out_alone(scan, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "read_unit", hostile)
    monkeypatch.setattr(room, "SECONDS_EACH", 0.0)
    names = ["1", "2", "3_bomb", "4", "5_hang", "6", "7", "8", "9_swell"]
    for n, name in enumerate(names):
        scan(tmp_path / "a" / f"{name}.nii.gz", n)
    listed = listing(tmp_path / "a", sorted((tmp_path / "a").iterdir()))
    work = Work(workers=1, seconds=6, memory_gb=2)
    monkeypatch.setattr(room, "UNIT", 4)
    known = read_missing(tmp_path / "a", listed, Journal(tmp_path / "j", True), work=work, progress=silent)
    found = [known[entry].reason for entry in listed]
    assert found == ["", "", "CRASHED", "", "TIMEOUT", "", "", "", "OUT_OF_MEMORY"]


def test_a_name_that_is_not_text_is_left_out(scan, tmp_path):
    scan(tmp_path / "a" / "v.nii.gz", 1)
    shutil.copy(tmp_path / "a" / "v.nii.gz", Path(os.fsdecode(os.fsencode(tmp_path / "a") + b"/M\xfcller.nii.gz")))
    receipt = index(tmp_path / "a", tmp_path / "c")
    assert receipt.files_left_out == {"FILE_NAME": 1}
    assert "FILE_NAME" in set(read_cohort(tmp_path / "c").instances["reason"])
    assert index(tmp_path / "a", tmp_path / "c") == receipt


def test_files_identified_by_their_uid_are_not_read_whole(series, scan, tmp_path, key, monkeypatch):
    series(tmp_path / "a" / "s", "P-1")
    shutil.copy(tmp_path / "a" / "s" / "0.dcm", tmp_path / "a" / "copy.dcm")
    scan(tmp_path / "a" / "v.nii.gz", 1)
    checked = []
    real = room._checksums
    monkeypatch.setattr(room, "_checksums", lambda paths: checked.append(paths[0].name) or real(paths))
    receipt = index(tmp_path / "a", tmp_path / "c", card=Card(name="x", identify_by="uid"), key_file=key)
    assert checked == ["v.nii.gz"]
    assert receipt.volumes == 2
    told = read_cohort(tmp_path / "c").instances
    assert told["crc32c"].isna().sum() == 7
    index(tmp_path / "a", tmp_path / "c", card=Card(name="x"), key_file=key)
    assert len(checked) == 9


def test_tables_of_two_runs_are_not_one_cohort(scan, tmp_path, key):
    """A run killed between its first and its last table."""
    scan(tmp_path / "a" / "v.nii.gz", 1)
    index(tmp_path / "a", tmp_path / "c", key_file=key)
    scan(tmp_path / "a" / "w.nii.gz", 2)
    index(tmp_path / "a", tmp_path / "d", key_file=key, work=HERE)
    shutil.copy(tmp_path / "d" / "volumes.parquet", tmp_path / "c" / "volumes.parquet")
    with pytest.raises(UserError, match=r"volumes.parquet is damaged or of another run"):
        read_cohort(tmp_path / "c")
    (tmp_path / "c" / "receipt.json").unlink()
    with pytest.raises(UserError, match="is missing or damaged"):
        read_cohort(tmp_path / "c")
    index(tmp_path / "a", tmp_path / "c", key_file=key)
    assert tables(tmp_path / "c") == tables(tmp_path / "d")


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "Permission denied"), MemoryError()])
def test_what_may_be_gone_is_tried_again(scan, tmp_path, monkeypatch, error):
    scan(tmp_path / "a" / "v.nii.gz", 1)

    def failing(path):
        raise error

    monkeypatch.setattr(room, "read_header", failing)
    assert set(index(tmp_path / "a", tmp_path / "c").files_left_out) <= {"IO_ERROR", "OUT_OF_MEMORY"}
    monkeypatch.undo()
    assert index(tmp_path / "a", tmp_path / "c").volumes == 1


def test_flipped_bits_in_a_part_never_end_a_run(scan, tmp_path, key):
    for n in range(3):
        scan(tmp_path / "a" / f"{n}.nii.gz", n)
    index(tmp_path / "a", tmp_path / "c", key_file=key)
    (part, *_) = sorted((tmp_path / "c" / "phi" / "headers").rglob("*.parquet"))
    content = part.read_bytes()
    for place in range(0, len(content), 61):
        damaged = bytearray(content)
        damaged[place] ^= 4
        part.write_bytes(damaged)
        Journal(part.parent, True).known(tmp_path / "a")
