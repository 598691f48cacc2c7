"""`kill -9` at fifty random moments of index and prepare: what they end in is the same, byte for byte."""

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

RUN = """\
import sys
from pathlib import Path
from medssl.manifest import Card, index, read_cohort
from medssl.store import Preparation, prepare
from medssl.units import Work
import medssl.archive.files, medssl.archive.series, medssl.store.case, google_crc32c, pyarrow.parquet
step, folder, workers = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
if __name__ == "__main__":
    print("ready", flush=True)
    work = Work(workers=workers)
    if step == "index":
        card = Card(name="x", modality="MR")
        index(folder.parent / "archive", folder / "cohort", card=card, key_file=folder.parent / "key", work=work)
    else:
        settings = Preparation(mr_spacing=(2.0, 2.0, 2.0))
        prepare(folder.parent / "first" / "cohort", folder / "store", settings=settings, work=work)
"""


def content(folder: Path) -> dict[str, bytes]:
    """All that is there, but for the lock and the journal's parts, whose number depends on the kills."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    paths = [path for path in paths if "headers" not in path.parts or path.suffix != ".parquet"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.name != ".lock"}


def run(script: Path, step: str, folder: Path, workers: int, kill_after: float | None) -> tuple[bool, float]:
    """Whether the run came to its end, and the seconds it worked."""
    command = [sys.executable, script, step, folder, str(workers)]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        started = time.monotonic()
        try:
            _, errors = process.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return False, kill_after
    assert process.returncode == 0, errors.decode()[-2000:]
    return True, time.monotonic() - started


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "workers", "kills"), [("index", 0, 20), ("index", 2, 5), ("prepare", 0, 20), ("prepare", 2, 5)]
)
def test_killed_at_random_moments(tmp_path, step, workers, kills):
    script, draw = tmp_path / "run.py", random.Random(f"{step}{workers}")
    script.write_text(RUN)
    (tmp_path / "key").write_bytes(bytes(32))
    for n in range(24):
        noise = np.random.default_rng(n).normal(100, 20, (24, 24, 20)).astype(np.int16)
        (tmp_path / "archive").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(noise, np.diag([-1.0, 1, 2, 1])), tmp_path / "archive" / f"p{n}.nii.gz")
    (tmp_path / "archive" / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM and no more")
    run(script, "index", tmp_path / "first", 0, None)  # what prepare works on
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    _, seconds = run(script, step, whole, workers, None)
    killed = 0
    while killed < kills:
        ended, _ = run(script, step, folder, workers, draw.uniform(0, 0.6 * seconds))
        killed += not ended
        if ended:
            assert content(folder) == content(whole)
            shutil.rmtree(folder)
    run(script, step, folder, workers, None)
    assert content(folder) == content(whole)
