"""Index and prepare on a Ray cluster, in processes and in shares from the shell: the same bytes as in one process."""

import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from medssl.cli import main
from medssl.manifest import Card, index
from medssl.store import prepare

RUN = """\
import sys
from pathlib import Path
from medssl.manifest import Card, index
from medssl.store import prepare
from medssl.units import Work
folder, work = Path(sys.argv[1]), Work(engine=sys.argv[2], workers=2)
if __name__ == "__main__":
    card = Card(name="x", modality="MR")
    index(folder / "archive", folder / sys.argv[2] / "cohort", card=card, key_file=folder / "key", work=work)
    prepare(folder / sys.argv[2] / "cohort", folder / sys.argv[2] / "store", work=work)
"""


def content(folder):
    """The manifest and the store, without the journal and the locks."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and "headers" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.name != ".lock"}


@pytest.fixture
def hospital(tmp_path):
    """A folder with an archive of seven scans, one of them damaged, a key, and what one process makes of it."""
    (tmp_path / "archive").mkdir()
    for n in range(7):
        noise = np.random.default_rng(n).normal(100, 20, (16, 17, 18)).astype(np.int16)
        nib.save(nib.Nifti1Image(noise, np.diag([-1.0, 1, 2, 1])), tmp_path / "archive" / f"p{n}.nii.gz")
    broken = tmp_path / "archive" / "p3.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-100])
    (tmp_path / "key").write_bytes(bytes(32))
    (tmp_path / "card.yaml").write_text("name: x\nmodality: MR\n")
    card = Card(name="x", modality="MR")
    index(tmp_path / "archive", tmp_path / "alone" / "cohort", card=card, key_file=tmp_path / "key")
    prepare(tmp_path / "alone" / "cohort", tmp_path / "alone" / "store")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["process", "ray"])
def test_an_engine_makes_no_difference(hospital, engine):
    """In a process of its own: Ray warns about itself, and warnings are errors here."""
    (hospital / "run.py").write_text(RUN)
    command = [sys.executable, str(hospital / "run.py"), str(hospital), engine]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert content(hospital / engine) == content(hospital / "alone")


def medssl(*arguments):
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return left.value.code


def test_shares_from_the_shell(hospital, capsys):
    cohort, store = hospital / "shares" / "cohort", hospital / "shares" / "store"
    read = ["index", hospital / "archive", "-o", cohort, "--card", hospital / "card.yaml", "--workers", 0]
    for share in ("2/2", "1/2"):
        assert medssl(*read, "--shard", share) == 0
    assert "when all shares are, run medssl index without --shard" in capsys.readouterr().out
    assert medssl(*read, "--key-file", hospital / "key") == 0
    for share in ("1/3", "2/3", "3/3"):
        assert medssl("prepare", cohort, "-o", store, "--shard", share, "--workers", 0) == 0
    assert medssl("prepare", cohort, "-o", store, "--workers", 0) == 0
    assert "(6 were there)" in capsys.readouterr().out
    assert content(hospital / "alone").items() <= content(hospital / "shares").items()  # and a summary


@pytest.mark.parametrize("share", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_share_that_cannot_be(hospital, share, capsys):
    assert medssl("index", hospital / "archive", "-o", hospital / "x", f"--shard={share}") == 2
    assert f"--shard {share}: write i/n" in capsys.readouterr().err


@pytest.mark.parametrize(("most", "code"), [("0.14", 3), ("0.15", 0)])
def test_more_left_out_than_allowed(hospital, capsys, most, code):
    """One of seven files is damaged."""
    read = ["index", hospital / "archive", "-o", hospital / "x", "--card", hospital / "card.yaml", "--workers", 0]
    assert medssl(*read, "--max-left-out", most) == code
    assert ("1 of 7 files left out, more than --max-left-out 0.14 allows" in capsys.readouterr().out) == (code == 3)
    assert medssl("prepare", hospital / "x", "-o", hospital / "y", "--workers", 0, "--max-left-out", "0") == 0
    (hospital / "archive" / "p5.nii.gz").unlink()
    assert medssl("prepare", hospital / "x", "-o", hospital / "z", "--workers", 0, "--max-left-out", "0.1") == 3
