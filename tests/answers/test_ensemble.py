"""Several runs answer together as the mean of their probabilities, and only those that answer the same question."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medssl.answers import Answering, Ensemble, agree, scores
from medssl.errors import UserError
from medssl.heads import build_head
from medssl.learners import Supervised
from medssl.trunks import build_trunk
from medssl.views import Crops

HEADS = {
    "classify": {"name": "classify", "label": "big"},
    "segment": {"name": "segment", "structures": ["a", "b"]},
    "detect": {"name": "detect"},
}


def model(head, size, seed):
    torch.manual_seed(seed)
    trunk = build_trunk({"name": "resenc", "widths": ["4", "8"]}, size)
    return Supervised(trunk, build_head(HEADS[head], trunk)).eval()


@pytest.mark.parametrize("size", [(8, 8, 8), (8, 8)], ids=str)
@pytest.mark.parametrize("head", HEADS)
def test_probabilities_are_averaged_and_not_logits(head, size):
    models = [model(head, size, seed) for seed in range(3)]
    with torch.no_grad():
        for one, sharp in zip(models, (1.0, 30.0, 5.0), strict=True):
            for weight in one.head.parameters():
                weight.mul_(sharp)
        x = torch.randn(2, 1, *size)
        means = {"segment": lambda y: y.softmax(1), "classify": torch.sigmoid, "detect": lambda y: y.sigmoid()[:, None]}
        wanted = torch.stack([means[head](one.answer(x)) for one in models]).mean(0)
        found = Ensemble(models=tuple(models), crops=Crops(size=size)).probabilities(
            x if len(size) == 3 else x[..., None]
        )
    if head != "classify" and len(size) == 2:
        found = found[..., 0]
    assert torch.allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(("size", "flips"), [((8, 8, 8), (0, 2)), ((8, 8), (1,))], ids=str)
def test_flips_average_the_scores_of_mirrored_volumes(size, flips):
    volume = np.random.default_rng(0).normal(size=(1, 14, 8, 11)).astype(np.float16)

    def of(axes, flips):
        array = np.ascontiguousarray(np.flip(volume, [axis + 1 for axis in axes]))
        store = SimpleNamespace(
            shape=lambda _: array.shape[1:], affine=lambda _: np.eye(4),
            read=lambda _, __, a, b: array[:, *(slice(*ends) for ends in zip(a, b, strict=True))],
        )  # fmt: skip
        with torch.no_grad():
            asked = Ensemble(models=(model("classify", size, 0),), crops=Crops(size=size), flips=flips)
            return scores(asked, store, ["v"])[0]

    alone = [of(axes, ()) for axes in ([], *([axis] for axis in flips), flips)][: 2 ** len(flips)]
    assert of([], flips) == pytest.approx(np.mean(alone), abs=1e-6)
    assert of(flips, flips) == pytest.approx(np.mean(alone), abs=1e-6)
    assert np.ptp(alone) > 1e-4


RECORD = {
    "store": "one",
    "recipe": {
        "data": {"modality": "MR"},
        "views": {"size": ["16", "16", "16"]},
        "head": {"name": "detect", "by": "dynamic", "alpha": "0.5"},
    },
    "prepared": {"settings": {"mr_spacing": [1, 1, 1.5]}},
}


def changed(**sections):
    other = copy.deepcopy(RECORD)
    for name, value in sections.items():
        (other if name in other else other["recipe"])[name] = value
    return other


def test_runs_of_one_question_answer_together():
    agree({"a": RECORD}, ["val"])
    same = changed(head={"name": "detect", "loss": "dice"}, views={"size": ["16", "16", "16"], "turn": "30"})
    agree({"a": RECORD, "b": same}, ["val", "test"])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"head": {"name": "detect", "by": "dynamic-fast"}},
            r"--with b: head.by is dynamic-fast, that of a is dynamic",
        ),
        ({"head": {"name": "detect", "lesions": ["2"]}}, r"head.lesions is \(2,\), that of a is \(\)"),
        ({"head": {"name": "classify", "label": "big"}}, "head.name is classify, that of a is detect"),
        ({"views": {"size": ["16", "16"]}}, r"views.size is \(16, 16\)"),
        ({"views": {"size": ["16", "16", "16"], "mm": ["9", "9", "9"]}}, "views.mm is"),
        ({"data": {"modality": "MR", "role": "adc"}}, "data.role is adc"),
        ({"prepared": {"settings": {"mr_spacing": [1, 1, 1]}}}, r"prepare.mr_spacing is \[1, 1, 1\]"),
        ({"store": "two"}, "another store or fold than a, whose split 'val' may hold patients"),
    ],
)
def test_runs_that_answer_something_else_are_refused(other, message):
    with pytest.raises(UserError, match=message):
        agree({"a": RECORD, "b": changed(**other)}, ["val", "test"])


def test_folds_answer_together_about_patients_that_none_has_seen():
    agree({"a": RECORD, "b": changed(store="two")}, ["test"])


def test_how_runs_are_asked_is_checked():
    with pytest.raises(UserError, match="--flip: 3 is no axis"):
        Answering(flips=(0, 3))
    with pytest.raises(UserError, match="--overlap: 1 is not a share"):
        Answering(overlap=1.0)
    with pytest.raises(UserError, match="--flip 2: the views are flat"):
        Ensemble(models=(), crops=Crops(size=(8, 8)), flips=(0, 2))
