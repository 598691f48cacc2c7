"""Batches drawn by workers: errors arrive with their words, and no process outlives a training that fails."""

import subprocess
import sys

import pytest

from medssl.errors import UserError
from medssl.feed import Feed
from medssl.store.layout import Damaged

ERRORS = [Damaged("CHUNK", "a/0", (1, 2), "12 bytes"), UserError("views.size: 3"), OSError(28, "no space")]


class Breaking:
    """Batches that are numbers, and an error in place of the third."""

    def __init__(self, error):
        self.error = error

    def __getitem__(self, number):
        if number == 2:
            raise self.error
        return number


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_of_workers_are_the_errors_themselves(error, workers):
    feed = Feed(Breaking(error), range(4), workers)
    assert [next(feed), next(feed)] == [0, 1]
    with pytest.raises(type(error)) as told:
        next(feed)
    assert str(told.value) == str(error)
    assert next(feed) == 3
    feed.close()


FAILING = """
from contextlib import closing
from medssl.feed import Feed

class Numbers:
    def __getitem__(self, number):
        return number

def train():
    feed = Feed(Numbers(), range(100), 2)
    with closing(feed):
        next(feed)
        raise RuntimeError("CUDA out of memory")

train()
"""


def test_a_training_that_fails_ends_and_its_workers_with_it():
    """They do not hear the signal by which Python would end them: without close, this hangs for ever."""
    done = subprocess.run([sys.executable, "-c", FAILING], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "CUDA out of memory" in done.stderr
