"""Lesion metrics against PI-CAI's own, on a toy set with known values and on generated cases."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import label

from medssl.errors import UserError
from medssl.evaluate.detection import (
    lesion_average_precision,
    lesion_sensitivity,
    lesions_of,
    told,
    weighted_lesion_precision,
)
from medssl.evaluate.metrics import auroc

SHAPE = (8, 16, 16)


def boxes(*given):
    """A map with a value in each box (value, i, j, k, and lengths)."""
    found = np.zeros(SHAPE)
    for value, corner, size in given:
        found[tuple(slice(a, a + n) for a, n in zip(corner, size, strict=True))] = value
    return found


CUBE = boxes((1, (2, 4, 4), (4, 4, 4)))
TOY = {
    "A": (CUBE, boxes((0.9, (3, 5, 5), (2, 2, 2)), (0.4, (0, 12, 12), (2, 2, 2)))),
    "B": (CUBE, boxes((0.8, (3, 5, 5), (1, 2, 3)))),
    "C": (boxes(), boxes((0.5, (2, 2, 2), (2, 2, 2)))),
    "D": (boxes(), boxes()),
    "E": (CUBE, boxes((0.6, (2, 4, 4), (1, 4, 4)), (0.7, (5, 4, 4), (1, 4, 4)))),
    "F": (
        boxes((1, (2, 4, 4), (2, 4, 4)), (1, (5, 4, 4), (2, 4, 4))),
        boxes((0.75, (1, 4, 4), (7, 4, 4))),
    ),
}
"""Six cases, five lesions: (truth, detection map)."""


def pooled(cases, **how):
    entries = [entry for truth, detected in cases for entry in lesions_of(detected, truth, **how)]
    return {"truth": np.array([e.truth for e in entries]), "score": np.array([e.score for e in entries])}


def test_the_toy_set_has_its_known_values():
    cases = TOY.values()
    positive = np.array([int(truth.any()) for truth, _ in cases])
    highest = np.array([detected.max() for _, detected in cases])
    assert auroc(truth=positive, score=highest) == 1.0
    assert lesion_average_precision(**pooled(cases)) == pytest.approx(0.483333, abs=1e-6)
    assert lesion_average_precision(**pooled(cases, strict=True)) == pytest.approx(0.453333, abs=1e-6)


def test_each_toy_case_has_its_entries():
    entries = {name: sorted(lesions_of(detected, truth)) for name, (truth, detected) in TOY.items()}
    assert entries["A"] == [(0, 0.4, 0.0), (1, 0.9, 0.125)]
    assert entries["B"] == [(0, 0.8, 0.0), (1, 0.0, 0.0)]
    assert entries["C"] == [(0, 0.5, 0.0)] and entries["D"] == []
    assert entries["E"] == [(1, 0.6, 0.25)]
    assert [(e.truth, e.score) for e in entries["F"]] == [(1, 0.0), (1, 0.75)]


def generated(seed):
    """A case of blobs, some on lesions, some split, some touching by a corner, with confidences that may be equal."""
    rng = np.random.default_rng(seed)
    truth, detected = np.zeros(SHAPE, np.int32), np.zeros(SHAPE)
    for _ in range(rng.integers(0, 4)):
        corner, size = rng.integers(0, (5, 12, 12)), rng.integers(1, 5, 3)
        truth[tuple(slice(a, a + n) for a, n in zip(corner, size, strict=True))] = 1
    for _ in range(rng.integers(0, 5)):
        corner, size = rng.integers(0, (6, 13, 13)), rng.integers(1, 5, 3)
        detected[tuple(slice(a, a + n) for a, n in zip(corner, size, strict=True))] = 1
    if rng.random() < 0.5:
        detected[:, :, rng.integers(0, 16)] = 0
    regions, count = label(detected, np.ones((3, 3, 3)))
    return truth, np.append(0, rng.choice([0.25, 0.5, 0.5, 0.75, 0.875, 0.9375], count))[regions]


def test_two_hundred_cases_are_scored_as_picai_eval_scores_them():
    picai = pytest.importorskip("picai_eval", reason="PI-CAI's own metrics: pip install picai-eval")
    cases = [generated(seed) for seed in range(200)]
    for strict in (False, True):
        theirs = picai.evaluate(
            [d for _, d in cases], [t for t, _ in cases], allow_unmatched_candidates_with_minimal_overlap=not strict,
            num_parallel_calls=1, verbose=0,
        )  # fmt: skip
        entries = pooled(cases, strict=strict)
        assert lesion_average_precision(**entries) == pytest.approx(theirs.AP, abs=1e-12)
        positive = np.array([int(t.any()) for t, _ in cases])
        assert auroc(truth=positive, score=np.array([d.max() for _, d in cases])) == pytest.approx(theirs.auroc)
        for number, (truth, detected) in enumerate(cases):
            ours = sorted((e.truth, e.score, round(e.overlap, 5)) for e in lesions_of(detected, truth, strict=strict))
            listed = theirs.lesion_results[number]
            assert ours == sorted((int(a), float(b), round(float(c), 5)) for a, b, c in listed)
        for alarms in (0.1, 0.5, 1, 2):
            assert lesion_sensitivity(**entries, cases=200, alarms=alarms) == pytest.approx(
                theirs.lesion_TPR_at_FPR(alarms), abs=1e-12
            )


def test_nothing_is_nan_or_none():
    empty = np.zeros(0)
    assert np.isnan(lesion_average_precision(truth=empty, score=empty))
    assert np.isnan(lesion_sensitivity(truth=empty, score=empty, cases=3, alarms=1))
    missed = {"truth": np.array([1, 1]), "score": np.zeros(2)}
    assert lesion_average_precision(**missed) == 0 and lesion_sensitivity(**missed, cases=1, alarms=1) == 0


def test_a_map_of_probabilities_and_one_of_another_grid_are_refused():
    ramp = boxes()
    ramp[2, 2, 2:6] = [0.1, 0.2, 0.3, 0.4]
    with pytest.raises(UserError, match=r"confidences from 0\.1 to 0\.4"):
        lesions_of(ramp, CUBE)
    with pytest.raises(UserError, match="one grid"):
        lesions_of(CUBE[:4], CUBE)


def test_weights_are_patients_drawn_as_often(rng):
    """Average precision with weights is that of entries repeated as often; of equal weights, the plain one."""
    for _ in range(20):
        count = int(rng.integers(1, 30))
        truth, patient = rng.integers(0, 2, count), rng.integers(0, 6, count)
        score = np.where((truth == 1) & (rng.random(count) < 0.3), 0, rng.choice([0.25, 0.5, 0.75], count))
        weight = rng.integers(0, 3, (6, 4))
        found = weighted_lesion_precision(truth, score, patient)(weight.astype(float))
        for column in range(4):
            times = weight[patient, column]
            wanted = lesion_average_precision(truth=truth.repeat(times), score=score.repeat(times))
            assert found[column] == pytest.approx(wanted, nan_ok=True)


def test_what_is_told_names_lesions_cases_and_price():
    entries = [(name, entry) for name, (truth, detected) in TOY.items() for entry in lesions_of(detected, truth)]
    lesions = pd.DataFrame([{"patient_id": name, "truth": e.truth, "score": e.score} for name, e in entries])
    cases = pd.DataFrame({"patient_id": list(TOY)})
    assert re.match(
        r"5 lesions in 6 cases: average precision 0\.483 \(.* to .*\); found 60% at 0\.5", told(lesions, cases)
    )
    assert told(lesions[:0], cases) == "6 cases without a lesion, 0 false alarms"
