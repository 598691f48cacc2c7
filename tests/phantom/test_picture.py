from pathlib import Path

import pytest

from medssl.errors import UserError
from medssl.phantom import contact_sheet


def test_a_contact_sheet_is_a_png(small_archive: Path, tmp_path: Path) -> None:
    picture = contact_sheet(small_archive, tmp_path / "sheet.png")
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000


def test_an_empty_folder_has_no_picture(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no scans"):
        contact_sheet(tmp_path, tmp_path / "sheet.png")
