import itertools

import pytest

from medssl.schedule import cosine


def test_it_rises_to_its_peak_and_falls_towards_zero():
    rates = cosine(2.0, 100, warmup=0.2)
    assert len(rates) == 100
    assert rates[0] == pytest.approx(0.1)
    assert rates[19] == rates[20] == max(rates) == 2.0
    assert rates[60] == pytest.approx(1.0)
    assert 0 < rates[-1] < 0.01
    assert all(b <= a for a, b in itertools.pairwise(rates[20:]))


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
def test_short_runs_have_one_rate_a_step(steps, warmup):
    assert len(cosine(1.0, steps, warmup)) == steps
