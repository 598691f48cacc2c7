from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from medssl.errors import UserError
from medssl.recipe import read_recipe
from medssl.train import pretrain
from medssl.views import Crops, Steps, Views
from medssl.views.samplers import balanced_rows, rows_of_step, share_of


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


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=20), st.integers(1, 5), st.integers(0, 99))
def test_balanced_classes_come_equally_often_and_all_their_rows_before_one_again(classes, batch, seed):
    kinds, most = sorted(set(classes)), max(classes.count(c) for c in classes)
    steps = -(-most * len(kinds) // batch)
    drawn = np.concatenate([balanced_rows(step, classes, [""] * len(classes), batch, seed) for step in range(steps)])
    told = [classes[row] for row in drawn]
    for stop in range(len(kinds), len(told) + 1, len(kinds)):  # in every round each class once, whatever batches are
        assert sorted(told[stop - len(kinds) : stop]) == kinds
    for kind in kinds:
        rows, mine = [row for row in range(len(classes)) if classes[row] == kind], drawn[np.array(told) == kind]
        for start in range(0, len(mine) - len(rows) + 1, len(rows)):
            assert sorted(mine[start : start + len(rows)]) == rows
    assert set(drawn) == set(range(len(classes)))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), min_size=2, max_size=20), st.integers(1, 4))
def test_balanced_batches_of_one_group_take_turns(rows, batch):
    classes, groups = zip(*rows, strict=True)
    shown = [balanced_rows(step, classes, groups, batch, 3) for step in range(40)]
    if len(set(groups)) > 1:
        assert all(len({rows[row] for row in one}) == 1 for one in shown)
        told = [classes[one[0]] for one in shown]
        kinds = sorted(set(classes))
        assert all(sorted(told[n : n + len(kinds)]) == kinds for n in range(0, 40 // len(kinds), len(kinds)))


def test_frequencies_are_those_of_chance():
    """Which class a batch begins with, and which row of it, are as likely as the others; so is each row's place."""
    classes = ["a"] * 5 + ["b"] * 2 + ["c"] * 9
    first = [int(balanced_rows(0, classes, [""] * 16, 3, seed)[0]) for seed in range(3000)]
    kinds = np.unique([classes[row] for row in first], return_counts=True)[1]
    assert chisquare(kinds).pvalue > 0.01
    for kind in "abc":
        counts = np.unique([row for row in first if classes[row] == kind], return_counts=True)[1]
        assert len(counts) == classes.count(kind) and chisquare(counts).pvalue > 0.01
    plain = np.unique([rows_of_step(1, [""] * 16, 4, seed)[2] for seed in range(3000)], return_counts=True)[1]
    assert len(plain) == 16 and chisquare(plain).pvalue > 0.01
    # Unbalanced, a class comes as often as it has rows.
    drawn = np.concatenate([rows_of_step(step, [""] * 16, 4, 0) for step in range(400)])
    told = np.unique([classes[row] for row in drawn], return_counts=True)[1]
    assert told.tolist() == [500, 200, 900]


def store():
    volume = np.random.default_rng(0).normal(size=(1, 12, 12, 12)).astype(np.float32)
    labels = pd.DataFrame({"volume_id": list("ab"), "name": "kind", "value": [1.0, 2.0]})
    return SimpleNamespace(
        shape=lambda _: (12, 12, 12), affine=lambda _: np.eye(4), read=lambda *_: volume, labels=labels
    )


ROWS = pd.DataFrame({
    "volume_id": list("abcdefgh"), "modality": "MR", "patient_pid": list("abcdefgh"), "scanner": list("sstttttt"),
    "site": ["x", "y"] + ["z"] * 6,
})  # fmt: skip
VIEWS = Views(crops=Crops(size=(4, 4, 4)), small=Crops(size=(2, 2, 2)), small_count=2)


def flat(batch):
    return [batch.x, batch.to_mm, batch.patient, batch.scanner, batch.where, batch.small, batch.facts["site"]]


@pytest.mark.parametrize("world", [2, 3, 6])
@pytest.mark.parametrize(
    "law", [{}, {"balance": "site"}, {"group": "scanner"}, {"group": "scanner", "balance": "site"}]
)
def test_the_shares_of_all_processes_are_the_batch_of_one(law, world):
    def steps(share):
        return Steps(store(), ROWS, VIEWS, batch=6, seed=2, facts=("site",), share=share, **law)

    whole = steps((0, 1))[5]
    parts = [flat(steps((rank, world))[5]) for rank in range(world)]
    for number, told in enumerate(flat(whole)):
        axis = 0 if told.ndim == 1 else 1
        assert torch.equal(torch.cat([part[number] for part in parts], axis), told)
    assert [place for rank in range(world) for place in share_of(6, rank, world)] == list(range(6))


def test_a_batch_that_cannot_be_shared():
    with pytest.raises(UserError, match="batch: 4 in all, but 3 processes"):
        share_of(4, 0, 3)


def test_balance_is_a_recipe_s_word(balls, tmp_path):
    steps = Steps(store(), ROWS, VIEWS, batch=3, seed=0, balance="site", facts=("site",))
    for step in range(4):
        assert sorted(steps[step].facts["site"].tolist()) == [0, 1, 2]
    with pytest.raises(UserError, match=r"seit: .* did you mean 'site'"):
        Steps(store(), ROWS, VIEWS, batch=3, seed=0, balance="seit")
    changes = ["pretrain.balance=race", "pretrain.by_scanner=false", "pretrain.steps=4"]

    def stopped(numbers, *_):
        for number in numbers:
            if number == 3:  # in the middle of an epoch; the last checkpoint is of step 2
                raise KeyboardInterrupt
            yield number

    recipe = read_recipe(balls / "recipe.yaml", changes)
    whole = pretrain(recipe, balls / "store", tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, balls / "store", tmp_path / "halves", progress=stopped)
    halves = pretrain(recipe, balls / "store", tmp_path / "halves")
    first, second = ((run / "last.safetensors").read_bytes() for run in (whole, halves))
    assert first == second
    plain = pretrain(read_recipe(balls / "recipe.yaml", changes[1:]), balls / "store", tmp_path / "plain")
    assert (plain / "last.safetensors").read_bytes() != first
