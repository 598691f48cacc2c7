"""How sure answers are, the health of weights and tokens, and who is near whom: closed forms and slow twins."""

import math
import sys

import numpy as np
import pytest
import torch

from medssl.probe import neighbours
from medssl.probe.atlas import plane_by_pca, plane_by_umap
from medssl.probe.findings import Findings, Question, advice, verdict
from medssl.probe.health import layers_of, mean_similarity, token_similarity
from medssl.probe.intervals import accuracy_interval, lots_interval, weighted_accuracy
from medssl.probe.neighbours import balanced_accuracy, nearest_of, neighbours_say
from medssl.trunks import ResEnc, ViT


def people(count, seed=0, scans=3):
    rng = np.random.default_rng(seed)
    truth, patients = np.repeat(rng.integers(0, 2, count), scans), np.repeat(np.arange(count), scans)
    right = np.repeat(rng.random(count) < 0.7, scans)
    return np.where(right, truth, 1 - truth), truth, patients


def test_weights_repeat_patients_and_all_their_scans():
    said, truth, patients = people(20)
    statistic = weighted_accuracy(said, truth, patients)
    drawn = np.random.default_rng(1).integers(0, 20, 20)
    weight = np.bincount(drawn, minlength=20)[:, None].astype(float)
    rows = np.concatenate([np.flatnonzero(patients == p) for p in drawn])
    assert statistic(weight)[0] == pytest.approx(balanced_accuracy(said[rows], truth[rows]))
    nobody = np.where(truth[::3] == 1, 0.0, 1.0)[:, None]
    assert math.isnan(statistic(nobody)[0])


def test_intervals_are_of_patients_not_of_scans():
    """Three scans of each patient that say the same are no more evidence than one."""
    said, truth, patients = people(60)
    low, high = accuracy_interval(said, truth, patients)
    assert low < balanced_accuracy(said, truth) < high
    assert accuracy_interval(said[::3], truth[::3], patients[::3]) == pytest.approx((low, high))
    few_low, few_high = accuracy_interval(said, truth, np.arange(180))
    assert few_high - few_low < 0.75 * (high - low)
    assert all(math.isnan(end) for end in accuracy_interval(said[:9], np.array([0] * 6 + [1] * 3), patients[:9]))


def test_lots_that_disagree_make_the_interval_wider():
    said, truth, patients = people(60)
    alike = lots_interval([said] * 5, truth, patients)
    apart = lots_interval([truth, said, 1 - said, said, 1 - truth], truth, patients)
    assert alike[1] - alike[0] < apart[1] - apart[0]
    assert alike[0] < balanced_accuracy(said, truth) < alike[1]


def test_neighbours_of_other_scanners_do_not_see_the_scanner():
    """Labels that follow the scanner are read from the scanner's clue; from other scanners nothing is left of it."""
    rng = np.random.default_rng(0)
    scanner = np.arange(120) % 2
    label = np.where(rng.random(120) < 0.9, scanner, 1 - scanner)
    features = np.c_[10 * (2 * scanner - 1), np.ones(120)] + rng.normal(size=(120, 2))
    patients = np.arange(120)
    naive = balanced_accuracy(neighbours_say(features, label, patients), label)
    honest = balanced_accuracy(neighbours_say(features, label, patients, apart=scanner), label)
    assert naive > 0.8
    assert honest < 0.2
    assert (neighbours_say(features, label, patients, apart=np.zeros(120)) == -1).all()


def test_a_planted_degenerate_layer_is_named():
    torch.manual_seed(0)
    trunk = ResEnc(size=(16, 16, 16), widths=(16, 32))
    healthy = layers_of(trunk)
    assert len(healthy) == 8 and not any(layer.degenerate for layer in healthy)
    dead, poor = (trunk.get_submodule(healthy[number].name) for number in (3, 6))
    with torch.no_grad():
        dead.weight[: len(dead.weight) // 2] *= 1e-9
        two = torch.randn(2, 27)
        poor.weight.copy_((torch.randn(poor.weight[..., 0, 0, 0].numel(), 2) @ two).view_as(poor.weight))
    now = layers_of(trunk)
    assert [layer.name for layer in now if layer.degenerate] == [healthy[3].name, healthy[6].name]
    assert now[3].dead == 0.5 and now[6].variety < 0.3
    flat = ResEnc(size=(4, 16, 16), widths=(8, 8), kernels=((1, 3, 3), (1, 3, 3)))
    assert len(layers_of(flat)) == 8  # flat kernels are kernels too
    assert layers_of(ResEnc(size=(16, 16), widths=(8, 8)))[0].variety == pytest.approx(1, abs=0.15)


def test_tokens_that_say_the_same_are_alike():
    assert mean_similarity(torch.ones(5, 3)) == pytest.approx(1)
    assert mean_similarity(torch.eye(4)) == 0
    assert mean_similarity(torch.tensor([[1.0, 0], [-2.0, 0]])) == pytest.approx(1)
    assert math.isnan(mean_similarity(torch.ones(1, 3)))

    class Scans:
        def __init__(self, value):
            self.ids, self.value = ["a", "b"], value

        def view_of(self, row):
            return self.value

    torch.manual_seed(0)
    vit = ViT(size=(16, 16, 16), patch=(4, 4, 4), width=24, depth=2, heads=2).eval()
    noise = token_similarity(vit, Scans(torch.randn(1, 16, 16, 16)))
    torch.nn.init.zeros_(vit.place)
    constant = token_similarity(vit, Scans(torch.ones(1, 16, 16, 16)))
    assert constant == pytest.approx(1, abs=1e-4)
    assert noise < 0.6
    assert math.isnan(token_similarity(ResEnc(size=(16, 16)).eval(), Scans(torch.ones(1, 16, 16))))


def test_the_plane_keeps_what_two_directions_hold():
    rng = np.random.default_rng(0)
    flat = np.c_[rng.normal(size=(50, 2)), np.zeros((50, 4))]
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    plane = plane_by_pca(flat * 7)
    distances = [np.linalg.norm(of[:, None] - of[None], axis=2) for of in (flat, plane)]
    np.testing.assert_allclose(*distances, atol=1e-9)
    assert plane_by_pca(np.ones((4, 3))).shape == (4, 2)


def test_without_umap_there_is_no_such_map(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert plane_by_umap(np.ones((9, 3))) is None


def test_the_nearest_are_of_other_patients(monkeypatch):
    features, patients = np.array([[1, 0], [1, 0.01], [1, 0.1], [0, 1]]), np.array([7, 7, 8, 9])
    for chunk in (2, 1024):
        monkeypatch.setattr(neighbours, "CHUNK", chunk)
        nearest, similarity = nearest_of(features, patients, 3)
        found = np.where(np.isfinite(similarity), nearest, -1)
        assert found.tolist() == [[2, 3, -1], [2, 3, -1], [1, 0, 3], [2, 1, 0]]


def question(**changes):
    told = {
        "name": "tumour", "classes": 2, "patients": 50, "chance": 0.5, "neighbours": 0.8, "neighbours_untrained": 0.6,
        "linear": 0.9, "linear_untrained": 0.5, "neighbours_interval": (0.7, 0.9), "label": True,
    }  # fmt: skip
    return Question(**{**told, **changes})


def found(*questions, **changes):
    told = {
        "split": "val", "volumes": 50, "patients": 50, "questions": questions, "rank": 20.0, "rank_untrained": 20.0,
        "dead": 0.0, "variety": 1.0, "advice": (),
    }  # fmt: skip
    return Findings(**{**told, **changes})


def test_the_verdict_says_no_more_than_the_numbers():
    signs = lambda of: [sign for sign, _ in verdict(of)]  # noqa: E731
    scanner = question(name="scanner", label=False, neighbours=0.55)
    assert signs(found(question(), scanner)) == ["✓", "✓", "✓"]
    assert signs(found(question(neighbours_interval=(0.45, 0.9)), scanner))[0] == "?"
    assert signs(found(question(neighbours_untrained=0.85), scanner))[0] == "?"
    assert signs(found(question(neighbours_interval=(math.nan, math.nan)), scanner))[0] == "?"
    leak = question(name="scanner", label=False, neighbours=0.65)
    assert signs(found(question(), leak)) == ["✓", "▲", "✓"]
    assert signs(found(collapse="byol: its head uses 1.1 directions")) == ["?", "?", "▲"]
    flat = found(rank=1.2)
    assert signs(found(rank=1.2, advice=tuple(advice(flat, 32))))[2] == "▲"


def test_findings_are_written_without_nan():
    plain = found(question(), tokens=math.nan).as_json()
    assert plain["tokens"] is None
    assert plain["questions"][0]["elsewhere_interval"] == [None, None]
