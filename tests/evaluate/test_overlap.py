"""Dice of label maps, and what it is when one or both are empty."""

import math

import numpy as np

from medssl.evaluate import dice


def test_dice_is_counted_by_hand_and_symmetric():
    truth, found = np.array([1, 1, 1, 0, 0], bool), np.array([0, 1, 1, 1, 0], bool)
    assert dice(truth, found) == dice(found, truth) == 2 * 2 / 6
    assert dice(truth, truth) == 1


def test_a_missed_or_invented_structure_is_nought_and_an_absent_one_is_no_number():
    something, nothing = np.array([True, False]), np.zeros(2, bool)
    assert dice(something, nothing) == dice(nothing, something) == 0
    assert math.isnan(dice(nothing, nothing))
