"""Where a training runs: memory that is given back to the system is cleared anew, page by page."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from medssl.place import find_place

find_place("32-true")

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.zeros(1 << 24)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""
PAGES = (64 << 20) // 4096


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is asked")
@pytest.mark.parametrize("variable", ["", "MALLOC_MMAP_THRESHOLD_"])
def test_tensors_take_the_place_of_those_before(variable):
    environment = {variable: str(1 << 17), "MALLOC_TRIM_THRESHOLD_": str(1 << 17)} if variable else {}
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    if variable:  # who asks for something else gets it
        assert int(done.stdout) > 10 * PAGES
    else:
        assert int(done.stdout) < PAGES
