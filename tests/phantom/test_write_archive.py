import csv
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from medssl.errors import UserError
from medssl.phantom import SPOILED, PhantomSettings, write_archive
from medssl.phantom.readme import readme

TINY = PhantomSettings(eye_patients=3, prostate_patients=1, chest_patients=1, xray_patients=1, head_patients=1)
NOBODY = PhantomSettings(eye_patients=0, prostate_patients=0, chest_patients=0, xray_patients=0, head_patients=0)


def digests(folder: Path) -> dict[str, str]:
    """Path below the folder -> digest of the file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    write_archive(tmp_path / "one", TINY)
    write_archive(tmp_path / "two", TINY)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_patients_are_the_same_in_a_larger_archive(tmp_path: Path) -> None:
    write_archive(tmp_path / "few", replace(NOBODY, eye_patients=2))
    write_archive(tmp_path / "more", replace(NOBODY, eye_patients=4))
    few, more = digests(tmp_path / "few"), digests(tmp_path / "more")
    scans = {name for name in few if name not in ("README.txt", "clinical.csv")}
    assert scans and all(few[name] == more[name] for name in scans)


def test_counts_are_what_the_settings_promise(small_archive: Path, small_settings: PhantomSettings) -> None:
    counts = write_archive(small_archive, small_settings)  # the folder holds these settings already, so it is kept
    assert counts["patients"] == 12 + 3 + 3 + 2 + 2 + 4
    assert counts["masks"] == 3 and counts["nifti"] == 2 + 1
    opt = len(list(small_archive.glob("pacs/FAKE-E*/*/*/*.dcm")))
    assert 12 <= opt + counts["npz"] <= 24 and opt > 0 and counts["npz"] > 0
    assert counts["dicom"] == opt + 3 * (16 + 14 + 14) + 3 * 24 + 2 + (23 + 1 + 1)
    assert counts["files"] == sum(1 for path in small_archive.rglob("*") if path.is_file())


def test_an_archive_without_patients_holds_the_spoiled_content(tmp_path: Path) -> None:
    counts = write_archive(tmp_path / "empty", NOBODY)
    assert counts["patients"] == 4
    assert all((tmp_path / "empty" / name).exists() for name in SPOILED)


def test_a_folder_with_other_files_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="already holds other files"):
        write_archive(tmp_path, NOBODY)
    assert digests(tmp_path).keys() == {"mine.txt"}
    with pytest.raises(UserError, match="is a file"):
        write_archive(tmp_path / "mine.txt", NOBODY)
    with pytest.raises(UserError, match="chest_patients is -1"):
        PhantomSettings(chest_patients=-1)


def test_a_stopped_writer_leaves_nothing(tmp_path: Path) -> None:
    def stop(items, description, total, done=0):
        assert total == 7
        for number, item in enumerate(items):
            if number == 2:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        write_archive(tmp_path / "archive", TINY, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_progress_reaches_its_end(tmp_path: Path) -> None:
    shown = []

    def show(items, description, total, done=0):
        for item in items:
            yield item
            shown.append(total)

    write_archive(tmp_path / "archive", TINY, progress=show)
    assert shown == [7] * 7


def test_the_readme_tells_what_is_planted_and_what_is_spoiled(small_archive: Path) -> None:
    text = (small_archive / "README.txt").read_text()
    assert "PLANTED: in Black patients" in text and all(name in text for name in SPOILED)
    honest = readme(PhantomSettings(planted_gap=False))
    assert "PLANTED" not in honest and "No subgroup effect" in honest
    assert max(len(line) for line in text.splitlines()) <= 120


def test_the_clinical_table_has_one_row_a_patient(small_archive: Path) -> None:
    with (small_archive / "clinical.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["patient_id"] for row in rows}) == len(rows) == 26
    on_disk = {path.name for path in small_archive.glob("pacs/FAKE-*")}
    on_disk |= {path.name[:10] for name in ("oct_npz", "nifti") for path in (small_archive / name).iterdir()}
    assert on_disk == {row["patient_id"] for row in rows}
