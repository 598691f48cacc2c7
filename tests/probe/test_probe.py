"""What is asked of frozen features: slow twins, closed forms, and a run that is asked about held-out patients only."""

import math

import numpy as np
import pandas as pd
import pytest

from medssl.errors import UserError
from medssl.probe import probe
from medssl.probe.findings import Findings, Question, advice
from medssl.probe.linear import few_patients, linear_says
from medssl.probe.neighbours import TEMPERATURE, balanced_accuracy, neighbours_say
from medssl.probe.rank import dead_filters, rank_me, variety
from medssl.recipe import read_recipe
from medssl.train import pretrain


def plain_vote(features, labels, patients, k):
    """Loops over volumes; nobody can doubt it."""
    said = []
    for i, mine in enumerate(features):
        others = [
            (float(mine @ other / np.linalg.norm(mine) / np.linalg.norm(other)), labels[j])
            for j, other in enumerate(features)
            if patients[j] != patients[i]
        ]
        votes = {}
        for cosine, label in sorted(others, key=lambda pair: -pair[0])[:k]:
            votes[label] = votes.get(label, 0) + math.exp((cosine - 1) / TEMPERATURE)
        said.append(max(votes, key=lambda label: votes[label]) if votes else -1)
    return said


def test_neighbours_vote_as_in_the_slow_twin():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(40, 6)), rng.integers(0, 3, 40)
    patients = rng.integers(0, 15, 40)
    assert neighbours_say(features, labels, patients, 5).tolist() == plain_vote(features, labels, patients, 5)


def test_a_patient_is_no_neighbour_of_himself():
    """Two volumes of one patient are alike and have one label: counting them would make any features look good."""
    rng = np.random.default_rng(1)
    base = rng.normal(size=(400, 8))
    features = np.repeat(base, 2, axis=0) + 0.01 * rng.normal(size=(800, 8))
    labels, patients = np.repeat(rng.integers(0, 2, 400), 2), np.repeat(np.arange(400), 2)
    honest = balanced_accuracy(neighbours_say(features, labels, patients, 1), labels)
    naive = balanced_accuracy(neighbours_say(features, labels, np.arange(800), 1), labels)
    assert naive == 1.0
    assert honest == pytest.approx(0.5, abs=0.1)
    assert neighbours_say(features[:2], labels[:2], patients[:2]).tolist() == [-1, -1]


def test_balanced_accuracy_counts_classes_alike():
    labels = np.array([0] * 90 + [1] * 10)
    assert balanced_accuracy(np.zeros(100, int), labels) == 0.5
    assert balanced_accuracy(labels, labels) == 1.0
    assert math.isnan(balanced_accuracy(labels[:9], labels[:9]))


@pytest.mark.parametrize("directions", [1, 3, 8])
def test_the_rank_is_the_number_of_directions_used_alike(directions):
    corners = np.concatenate([np.eye(8)[:directions], -np.eye(8)[:directions]])
    assert rank_me(100 + corners) == pytest.approx(directions, rel=1e-3)


def test_features_that_are_all_the_same_have_rank_1():
    assert rank_me(np.ones((20, 5))) == 1.0
    noise = np.random.default_rng(0).normal(size=(200, 16))
    assert rank_me(noise) > 14
    assert rank_me(noise * [1] + 50) == pytest.approx(rank_me(noise))


def test_dead_filters_and_poor_layers_are_seen():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(32, 16, 3, 3, 3))
    assert dead_filters(weight) == 0
    weight[:20] *= 1e-9
    assert (
        dead_filters(rng.normal(size=(32, 4, 3, 3)) * np.r_[np.full(8, 1e-9), np.ones(24)][:, None, None, None]) == 0.25
    )
    assert dead_filters(np.zeros((4, 1, 3, 3))) == 1
    alive = rng.normal(size=(32, 16, 3, 3, 3))
    assert variety(alive) == pytest.approx(1, abs=0.02)
    two = rng.normal(size=(2, 27))
    assert variety((rng.normal(size=(512, 2)) @ two).reshape(32, 16, 3, 3, 3)) < 0.3


def test_few_patients_are_balanced_nested_and_whole():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(50), 3)
    labels = np.repeat((np.arange(50) < 10).astype(int), 3)
    small, large = (few_patients(labels, patients, few, seed=4) for few in (8, 16))
    assert (large | ~small).all()
    for chosen, few in ((small, 8), (large, 16)):
        who = set(patients[chosen])
        assert len(who) == few and chosen.sum() == 3 * few
        assert sum(p < 10 for p in who) == few // 2
    assert few_patients(labels, patients, 999).all()
    assert linear_says(rng.normal(size=(4, 2)), np.array([1, 1, 1, 1]), np.zeros((3, 2))).tolist() == [1, 1, 1]


def test_a_run_is_asked_about_patients_it_did_not_learn_from(balls, tmp_path):
    run = pretrain(read_recipe(balls / "recipe.yaml", ["pretrain.steps=2"]), balls / "store", tmp_path / "run")
    found = probe(run, balls / "store", split="test")
    cohort = pd.read_parquet(balls / "store" / "volumes.parquet")
    held = cohort[(cohort["split"] == "test") & (cohort["modality"] == "MR") & (cohort["status"] != "excluded")]
    assert (found.volumes, found.patients) == (len(held), held["patient_pid"].nunique())
    asked = {question.name: question for question in found.questions}
    assert "big" in asked
    for question in found.questions:
        for value in (question.neighbours, question.linear, question.neighbours_untrained, question.linear_untrained):
            assert 0 <= value <= 1
        assert question.chance == 1 / question.classes
    assert asked["big"].linear > 0.8  # how much of a ball there is can be read from any features
    assert 1 <= found.rank <= min(len(held), 12)
    with pytest.raises(UserError, match="the trunk has learned from these"):
        probe(run, balls / "store", split="train")


def findings(**changes):
    told = {
        "split": "val", "volumes": 50, "patients": 50, "questions": (), "rank": 20.0, "rank_untrained": 20.0,
        "dead": 0.0, "variety": 1.0, "advice": (),
    }  # fmt: skip
    return Findings(**{**told, **changes})


def test_advice_is_given_for_leaks_collapse_and_dead_filters_alone():
    assert advice(findings(), 32) == []
    leak = Question(
        name="scanner", classes=3, patients=50, chance=1 / 3, neighbours=0.6, neighbours_untrained=0.4, linear=0.9,
        linear_untrained=0.5,
    )  # fmt: skip
    assert "same_scanner" in advice(findings(questions=(leak,)), 32)[0]
    assert "collapsed" in advice(findings(rank=1.3), 32)[0]
    assert "do nothing" in advice(findings(dead=0.4), 32)[0]
