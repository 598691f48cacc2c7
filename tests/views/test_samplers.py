import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medssl.views.samplers import rows_of_step


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30), st.integers(1, 6), st.integers(0, 99))
def test_an_epoch_shows_every_row_and_never_mixes_groups(groups, batch, seed):
    length = sum(-(-groups.count(g) // batch) for g in set(groups))
    shown = [rows_of_step(step, groups, batch, seed) for step in range(length)]
    assert set(np.concatenate(shown)) == set(range(len(groups)))
    for rows in shown:
        assert len(rows) == batch
        assert len({groups[row] for row in rows}) == 1


def test_a_step_depends_on_seed_and_step_alone():
    groups = ["a"] * 20
    assert (rows_of_step(7, groups, 4, 1) == rows_of_step(7, groups, 4, 1)).all()
    assert any((rows_of_step(s, groups, 4, 1) != rows_of_step(s, groups, 4, 2)).any() for s in range(5))
    assert any((rows_of_step(s, groups, 4, 1) != rows_of_step(s + 5, groups, 4, 1)).any() for s in range(5))
