"""Every entry of an archive is found, or told with the reason why not."""

import os

import pytest

from medssl.archive.finding import find_files
from medssl.errors import UserError
from medssl.manifest import index, read_cohort


@pytest.fixture
def tree(tmp_path):
    for name in ("in/a.nii", "in/deep/er/b.nii", "in/shut/c.nii", "out/d.nii"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "in" / "link.nii").symlink_to(tmp_path / "out" / "d.nii")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "deep" / "circle").symlink_to(tmp_path / "in")
    os.mkfifo(tmp_path / "in" / "pipe")
    return tmp_path / "in"


def closing(scan):
    """As os.scandir, but of a folder "shut" that belongs to somebody else."""

    def scandir(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    return scandir


@pytest.fixture
def shut(monkeypatch):
    monkeypatch.setattr("os.scandir", closing(os.scandir))


def names(found, root):
    files = [path.relative_to(root).as_posix() for path in found.files]
    return files, {path.relative_to(root).as_posix(): code for path, code in found.passed_over.items()}


LINKS = {"deep/circle": "LINK_NOT_FOLLOWED", "folder": "LINK_NOT_FOLLOWED", "link.nii": "LINK_NOT_FOLLOWED"}


def test_links_and_pipes_are_told_and_not_opened(tree):
    files, passed_over = names(find_files(tree), tree)
    assert files == ["a.nii", "deep/er/b.nii", "shut/c.nii"]
    assert passed_over == {**LINKS, "pipe": "NOT_AN_ARCHIVE_FILE"}


def test_a_pattern_selects_files_and_hides_no_reason(tree):
    files, passed_over = names(find_files(tree, "deep/**/*.nii"), tree)
    assert files == ["deep/er/b.nii"]
    assert passed_over.keys() > LINKS.keys()


def test_a_folder_that_cannot_be_listed_is_told(tree, shut):
    files, passed_over = names(find_files(tree), tree)
    assert files == ["a.nii", "deep/er/b.nii"]
    assert passed_over["shut"] == "FOLDER_UNREADABLE"
    with pytest.raises(UserError, match=r"cannot be listed .* permissions"):
        find_files(tree / "shut")


def test_the_cohort_has_a_row_for_what_was_passed_over(scan, tmp_path, shut):
    scan(tmp_path / "a" / "v.nii.gz", 1)
    (tmp_path / "a" / "shut").mkdir()
    (tmp_path / "a" / "link.nii.gz").symlink_to(tmp_path / "a" / "v.nii.gz")
    receipt = index(tmp_path / "a", tmp_path / "c")
    assert receipt.files_left_out == {"FOLDER_UNREADABLE": 1, "LINK_NOT_FOLLOWED": 1}
    rows = read_cohort(tmp_path / "c").instances
    assert sorted(rows["reason"]) == ["", "FOLDER_UNREADABLE", "LINK_NOT_FOLLOWED"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "link.nii.gz").symlink_to(tmp_path / "a" / "v.nii.gz")
    with pytest.raises(UserError, match="only links"):
        index(tmp_path / "b", tmp_path / "d")


def test_a_folder_that_opens_is_read_the_next_time(scan, tmp_path):
    scan(tmp_path / "a" / "v.nii.gz", 1)
    scan(tmp_path / "a" / "shut" / "w.nii.gz", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.scandir", closing(os.scandir))
        assert index(tmp_path / "a", tmp_path / "c").files_left_out == {"FOLDER_UNREADABLE": 1}
    assert index(tmp_path / "a", tmp_path / "c").files_left_out == {}
    assert index(tmp_path / "a", tmp_path / "c").volumes == 2
