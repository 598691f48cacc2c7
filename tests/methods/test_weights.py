"""Learned weights of terms against their closed forms."""

import math

import pytest
import torch

from medssl.errors import UserError
from medssl.methods import build_method
from medssl.methods.weights import LearnedWeights
from medssl.trunks import build_trunk


def test_one_task_of_loss_2_costs_1_and_ln_2_at_first():
    assert LearnedWeights(["a"])({"a": torch.tensor(2.0)})["a"].item() == pytest.approx(1.693147, abs=1e-6)


@pytest.mark.parametrize("loss", [0.1, 1.0, 5.0])
def test_a_loss_that_stands_still_gets_the_weight_of_the_closed_form(loss):
    weights = LearnedWeights(["a"])
    optimizer = torch.optim.Adam(weights.parameters(), lr=0.02)
    for _ in range(1500):
        weights({"a": torch.tensor(loss)})["a"].backward()
        optimizer.step()
        optimizer.zero_grad()
    found = weights.spread["a"].item() ** 2
    assert found == pytest.approx((loss + math.sqrt(loss**2 + 8 * loss)) / 4, rel=1e-3)


def test_terms_are_weighed_each_by_its_own_and_fixed_weights_add_nothing():
    weights = LearnedWeights(["a", "b"])
    with torch.no_grad():
        weights.spread["b"].fill_(2)
    found = weights({"a": torch.tensor(1.0), "b": torch.tensor(1.0)})
    assert [found["a"].item(), found["b"].item()] == pytest.approx([0.5 + math.log(2), 0.125 + math.log(5)])
    trunk = build_trunk({"widths": ["4", "8"]}, (8, 8))
    fixed, learned = (build_method({"contrast": {}, "weighing": how}, trunk) for how in ("fixed", "learned"))
    assert set(learned.state_dict()) - set(fixed.state_dict()) == {"weights.spread.contrast"}


def test_a_negative_loss_cannot_be_weighed():
    with pytest.raises(UserError, match="dino is -1"):
        LearnedWeights(["dino"])({"dino": torch.tensor(-1.0)})
