"""The README's example is run, and its commands exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from medssl.cli import app

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_python_example_runs(tmp_path, monkeypatch):
    from medssl.phantom import PhantomSettings, write_archive

    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 13
    people = PhantomSettings(eye_patients=24, prostate_patients=0, chest_patients=0, xray_patients=0, head_patients=0)
    write_archive(tmp_path / "medssl-demo" / "archive", people)
    for folder in ("data_manifests", "pipelines"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "report" / "report.html").exists()


@pytest.mark.slow
def test_the_commands_follow_from_each_other(balls, tmp_path):
    """From a cohort to both trainings, line by line as they stand there; the trainings are only tried out."""
    begin, end = TEXT.index("medssl prepare  cohort"), TEXT.index("medssl protocol")
    lines = [re.sub(r" # .*", "", line).strip() for line in TEXT[begin:end].splitlines()]
    assert {"prepare", "plan", "verify", "methods", "pretrain", "finetune"} <= {(line.split() * 2)[1] for line in lines}
    (tmp_path / "cohort").symlink_to(balls / "cohort")
    for line in lines:
        if line.startswith("medssl probe"):
            continue  # of a trunk that nobody trained
        if line.startswith(("medssl pretrain", "medssl finetune")) and "--dry-run" not in line:
            line = f"{line.split(' --from')[0]} --dry-run"
        line = line.replace("label: glaucoma", "label: big").replace(
            "medssl plan     first", "medssl plan first --voxels 4096"
        )
        told = subprocess.run(
            ["bash", "-ec", f'medssl() {{ "{sys.executable}" -m medssl "$@"; }}; {line}'],
            cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert told.returncode == 0, f"{line}: {told.stderr}"


def test_every_command_named_exists():
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    named = set(re.findall(r"^medssl +(\w+)", TEXT, re.M))
    assert named <= known
    assert len(named) >= 7


def test_every_path_named_exists():
    for path in re.findall(r"`((?:medssl|pipelines|data_manifests|benchmarks|docs|docker)/[\w./]+)`", TEXT):
        assert (ROOT / path).exists(), path
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", TEXT):
        assert (ROOT / picture).exists(), picture
