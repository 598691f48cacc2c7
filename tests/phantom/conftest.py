from pathlib import Path

import pytest

from medssl.phantom import PhantomSettings, write_archive

SMALL = PhantomSettings(
    eye_patients=12, prostate_patients=3, chest_patients=3, xray_patients=2, head_patients=2, seed=3
)


@pytest.fixture(scope="session")
def small_settings() -> PhantomSettings:
    """What `small_archive` was made from."""
    return SMALL


@pytest.fixture(scope="session")
def small_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small archive on disk; tests read it and leave it alone."""
    folder = tmp_path_factory.mktemp("phantom") / "archive"
    write_archive(folder, SMALL)
    return folder
