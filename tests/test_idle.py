"""A training whose batches ask nothing is stopped early; one that asks now and then is not."""

import dataclasses

import pandas as pd
import pytest

from medssl.errors import UserError
from medssl.idle import FIRST, Idle
from medssl.recipe import read_recipe
from medssl.store import open_store
from medssl.train import _together, plan, pretrain

SMALL = ["pretrain.steps=12", "pretrain.workers=0", "views.size=[8, 8, 8]", "trunk.widths=[4, 8]"]


def steps(idle, norms, losses):
    for step, (norm, loss) in enumerate(zip(norms, losses, strict=True)):
        idle.check(step, norm, {"a": 1.0, "b": loss})


def test_no_gradient_in_the_first_steps_is_an_error_and_one_step_with_some_is_enough():
    with pytest.raises(UserError, match="step 9: the gradient was 0 in all of the first 10 steps"):
        steps(Idle(), [0.0] * FIRST, [1.0] * FIRST)
    steps(Idle(), [0.0] * (FIRST - 1), [1.0] * (FIRST - 1))
    steps(Idle(), [0.0] * 4 + [1e-9] + [0.0] * 20, [1.0] * 25)


def test_a_term_without_any_loss_is_an_error_and_one_that_may_be_nought_is_not():
    with pytest.raises(UserError, match="the loss of b was 0"):
        steps(Idle(["a", "b"]), [1.0] * FIRST, [0.0] * FIRST)
    steps(Idle(["a"]), [1.0] * FIRST, [0.0] * FIRST)
    steps(Idle(["a", "b"]), [1.0] * FIRST, [-0.1] + [0.0] * (FIRST - 1))


def test_a_contrast_of_one_scan_with_itself_is_stopped(balls, tmp_path):
    recipe = read_recipe(balls / "recipe.yaml", [*SMALL, "method={contrast: {}}", "pretrain.batch=1"])
    for _ in range(2):  # from the beginning, and going on
        with pytest.raises(UserError, match=r"gradient was 0 in all of the first 10 steps.*raise pretrain.batch"):
            pretrain(recipe, balls / "store", tmp_path / "run")


def test_scanners_of_one_patient_are_compared_with_each_other(balls):
    rows = pd.DataFrame({"scanner": ["a", "a", "b", "c", "d", "d"], "patient_pid": ["p", "q", "r", "s", "t", "t"]})
    assert _together(rows).tolist() == ["a", "a", "", "", "", ""]
    store = open_store(balls / "store")
    volumes = store.volumes.assign(scanner=[f"scanner {n}" for n in range(len(store.volumes))])
    recipe = read_recipe(balls / "recipe.yaml", [*SMALL, "method={vicreg: {}}", "views.count=2", "pretrain.batch=4"])
    batch = plan(recipe, dataclasses.replace(store, volumes=volumes)).batches[0]
    assert len(set(batch.patient.tolist())) > 1
