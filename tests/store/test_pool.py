"""Many jobs in expendable processes: the one that dies is named, the others are done."""

import os

import pytest

from medssl.store.pool import run_all


def square(number):
    if number < 0:
        os._exit(11)
    if number == 99:
        raise OSError(28, "No space left on device")
    return number * number


def crashed(number):
    return f"crashed {number}"


@pytest.mark.parametrize("workers", [1, 2])
def test_all_jobs_are_done(workers):
    assert sorted(run_all(square, range(7), workers=workers, crashed=crashed)) == [n * n for n in range(7)]


def test_a_job_that_kills_its_process_is_blamed_alone():
    results = list(run_all(square, [1, 2, -3, 4, 5, 6, -7, 8], workers=2, crashed=crashed))
    assert sorted(map(str, results)) == sorted(["1", "4", "16", "25", "36", "64", "crashed -3", "crashed -7"])


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_stops_the_run(workers):
    with pytest.raises(OSError, match="No space left"):
        list(run_all(square, [1, 99, 2], workers=workers, crashed=crashed))
