"""Where a training runs: memory that is given back to the system is cleared anew, page by page."""

import subprocess
import sys

import pytest
import torch

from medssl.errors import UserError
from medssl.place import find_place

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


class Shown(torch.nn.Linear):
    """Remembers what it was given."""

    def forward(self, batch):
        self.given = batch
        return super().forward(batch["view"])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_half_precision_is_of_layers_and_not_of_what_they_are_given(precision):
    """Lightning would round all of a batch to three digits, and 100.3 mm and the day 1234 would be others."""
    batch = {
        "view": torch.rand(2, 4),
        "to_mm": torch.tensor([100.3], dtype=torch.float64),
        "day": torch.tensor([1234.0]),
    }
    place, layer = find_place(precision), Shown(4, 4)
    found = place.setup_module(layer)(batch)
    assert {name: value.dtype for name, value in layer.given.items()} == {
        name: value.dtype for name, value in batch.items()
    }
    assert layer.given["to_mm"].item() == 100.3 and layer.given["day"].item() == 1234
    exact = torch.nn.functional.linear(batch["view"], layer.weight, layer.bias)
    assert torch.allclose(found.float(), exact, atol=0.02) and torch.equal(found, exact) == (precision == "32-true")


def test_a_precision_that_is_not_known_is_an_error():
    with pytest.raises(UserError, match=r"16-mixed.*choose 32-true or bf16-mixed"):
        find_place("16-mixed")
