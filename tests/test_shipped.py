"""What comes with medssl is found from any folder, and is in a wheel as in a checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from medssl import shipped as module
from medssl.cli import main
from medssl.errors import UserError
from medssl.shipped import shipped

ROOT = Path(__file__).parent.parent


def test_methods_are_listed_from_any_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["methods"])
    assert left.value.code == 0
    told = capsys.readouterr().out
    assert "\nvicreg_local " in told and f"recipes in {shipped('pipelines/methods')}" in told


def test_links_that_a_copy_lost_are_not_missed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROOTS", (tmp_path, ROOT))
    assert shipped("pipelines/methods") == ROOT / "pipelines" / "methods"
    with pytest.raises(UserError, match=r"pipelines/none\.yaml: did not come with medssl in .* install medssl again"):
        shipped("pipelines/none.yaml")


@pytest.mark.slow
def test_a_wheel_has_what_the_commands_need(tmp_path):
    pytest.importorskip("setuptools", reason="setuptools is not installed: no wheel can be built here")
    checkout, away = tmp_path / "checkout", tmp_path / "away"
    checkout.mkdir()
    away.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    for name in ("medssl", "pipelines", "data_manifests"):
        shutil.copytree(ROOT / name, checkout / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, checkout]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        packed.extractall(tmp_path / "site")
    assert {f"medssl/{path.relative_to(ROOT)}" for path in (ROOT / "pipelines").rglob("*.yaml")} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"medssl"}

    def told(*command):
        run = subprocess.run(
            [sys.executable, *command], cwd=away, env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return run.stdout

    assert f"recipes in {tmp_path}/site/medssl/pipelines/methods" in told("-m", "medssl", "methods")
    needed = "from medssl import demo, read_card; [demo._recipe(task, True) for task in demo.TASKS]"
    told("-c", f"{needed}; read_card(demo.shipped('data_manifests/phantom.yaml'))")
