"""One function over many units: the unit that dies, hangs or swells is named, the others are done, on every engine."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from medssl.errors import UserError
from medssl.lock import writing
from medssl.units import Work, map_units

ENGINES = [Work(), Work(workers=1), Work(workers=3)]


def square(number):
    if number == 99:
        raise OSError(28, "No space left on device")
    return number * number


def act(unit):
    if unit == "dies":
        os._exit(11)
    if unit == "hangs":
        time.sleep(60)
    if unit == "swells":
        np.ones(1 << 31, np.uint8)
    return f"{unit} done"


def failed(unit, code):
    return f"{unit} {code}"


@pytest.mark.parametrize("work", ENGINES)
def test_all_units_are_done(work):
    assert sorted(map_units(square, range(9), work, failed=failed)) == [n * n for n in range(9)]
    assert list(map_units(square, [], work, failed=failed)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_unit_that_ends_its_process_is_blamed_alone(workers):
    units = ["a", "dies", "b", "hangs", "c", "swells", "d", "dies", "e"]
    work = Work(workers=workers, memory_gb=1, seconds=60)
    found = map_units(act, units, work, failed=failed, seconds=lambda unit: 0.5 if unit == "hangs" else 30.0)
    assert sorted(found) == sorted(
        ["a done", "b done", "c done", "d done", "e done", "dies CRASHED", "dies CRASHED", "hangs TIMEOUT",
         "swells OUT_OF_MEMORY"]
    )  # fmt: skip


@pytest.mark.parametrize("work", ENGINES)
def test_an_exception_stops_the_run(work):
    with pytest.raises(OSError, match="No space left"):
        list(map_units(square, [1, 99, 2], work, failed=failed))


def test_no_process_is_left_when_the_caller_stops(tmp_path):
    from multiprocessing import active_children

    found = map_units(square, range(50), Work(workers=2), failed=failed)
    next(found)
    assert active_children()
    found.close()
    assert not active_children()


def test_a_script_without_its_guard_is_told(tmp_path):
    """Fresh processes load the script anew, which would start processes of its own."""
    script = tmp_path / "script.py"
    script.write_text(
        "from medssl.units import Work, map_units\nfrom math import sqrt\n"
        "print(list(map_units(sqrt, [1, 4], Work(workers=2), failed=lambda unit, code: code)))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "call it below `if __name__ == '__main__':`" in done.stderr.splitlines()[-1]


class Heavy:
    """A unit whose own kind cannot be loaded with the memory that there is."""

    def __reduce__(self):
        return bytearray, (1 << 33,)


def test_too_little_memory_to_begin_with_is_told():
    with pytest.raises(UserError, match=r"memory_gb 1: too little .* raise it"):
        list(map_units(act, [Heavy()], Work(workers=1, memory_gb=1), failed=failed))


def test_a_disk_without_locks_is_told(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(UserError, match="no file locks"), writing(tmp_path, "medssl index"):
        pass


def test_work_that_cannot_be():
    for wrong in {"workers": -1}, {"memory_gb": 0}, {"seconds": -1}:
        with pytest.raises(UserError, match="above 0"):
            Work(**wrong)


RAY = """\
import os, sys
sys.path.insert(0, {folder!r})
from test_units import act, failed
from medssl.units import Work, map_units
work = Work(engine="ray", workers=2, memory_gb=1, seconds=20)
units = ["a", "dies", "b", "hangs", "c", "swells", "d", "e"]
limits = lambda unit: 1.0 if unit == "hangs" else 20.0
print(sorted(map_units(act, units, work, failed=failed, seconds=limits)))
"""


@pytest.mark.slow
def test_on_a_ray_cluster_of_this_machine():
    """In a process of its own: Ray warns about itself, and warnings are errors here."""
    folder = str(Path(__file__).parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([folder, *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", RAY.format(folder=folder)], capture_output=True, text=True, env=environment, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    expected = sorted(
        ["a done", "b done", "c done", "d done", "e done", "dies CRASHED", "hangs CRASHED", "swells OUT_OF_MEMORY"]
    )
    assert done.stdout.splitlines()[-1] == str(expected)
