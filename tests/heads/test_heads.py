import math

import numpy as np
import pytest
import torch

from medssl.errors import UserError
from medssl.evaluate.overlap import dice
from medssl.heads import HEADS, build_head
from medssl.heads.classify import Drop
from medssl.trunks import TRUNKS, build_trunk

SMALL = {
    "resenc": {"widths": ["8", "12"]},
    "vit": {"width": "24", "depth": "2", "heads": "2"},
    "cswin": {"widths": ["24", "24"], "depths": ["1", "1"]},
}
SECTIONS = {
    "classify": {"label": "glaucoma"}, "forecast": {"label": "progression"}, "segment": {"structures": ["gland", "lesion"]},
    "detect": {"lesions": ["1"], "loss": "dice"}, "findings": {"labels": ["edema", "mass", "nodule"]}, "present": {},
}  # fmt: skip


def section_of(trunk, size):
    section = dict(SMALL[trunk], name=trunk)
    if trunk == "vit":
        section["patch"] = ["4"] * len(size)
    if trunk == "cswin":
        section["strides"] = [["2"] * len(size)] * 2
    return section


def build(head, trunk, size):
    torch.manual_seed(0)
    section = section_of(trunk, size)
    made = build_trunk(section, size)
    return made, build_head({"name": head, **SECTIONS[head]}, made)


def test_every_head_in_the_table_is_tested():
    assert set(SECTIONS) == set(HEADS)


@pytest.mark.parametrize("size", [(16, 16), (16, 8, 16)], ids=["2D", "3D"])
@pytest.mark.parametrize("trunk", sorted(TRUNKS))
@pytest.mark.parametrize("head", sorted(HEADS))
def test_a_head_learns_two_scans_by_heart(head, trunk, size):
    encoder, answer = build(head, trunk, size)
    torch.manual_seed(1)
    x = torch.randn(2, 1, *size)
    yes_or_no = torch.tensor([0.0, 1.0])
    of_scans = {
        "classify": yes_or_no, "forecast": yes_or_no, "findings": torch.tensor([[0.0, 1, 1], [1, math.nan, 0]])
    }  # fmt: skip
    target = of_scans.get(head, (x[:, 0] > 0.5).long())
    if head == "present":
        target[0] = 0
    optimizer = torch.optim.AdamW([*encoder.parameters(), *answer.parameters()], lr=1e-2)
    history = []
    for _ in range(120 if head == "detect" else 30):
        loss = answer.loss(answer(encoder(x), size), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.7 * history[0]


def test_shapes_of_answers():
    trunk, head = build("classify", "resenc", (16, 16))
    assert head(trunk(torch.randn(3, 1, 16, 16)), (16, 16)).shape == (3,)
    trunk, head = build("findings", "resenc", (16, 16))
    assert head(trunk(torch.randn(4, 1, 16, 16)), (16, 16)).shape == (4, 3)
    trunk, head = build("segment", "vit", (16, 8, 16))
    assert head(trunk(torch.randn(3, 1, 16, 8, 16)), (16, 8, 16)).shape == (3, 3, 16, 8, 16)


def test_a_certain_and_right_segmentation_costs_nothing_and_a_blind_one_its_closed_form():
    _, head = build("segment", "resenc", (16, 16))
    target = torch.zeros(1, 16, 16, dtype=torch.long)
    target[:, 4:8], target[:, 8:12] = 1, 2
    right = 60.0 * torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    assert head.loss(right, target).item() == pytest.approx(0, abs=1e-5)
    # uniform answers: cross-entropy ln 3; soft Dice of a structure of n voxels among N: 1 - 2 (n/3) / (n + N/3)
    voxels, size = 256, 64
    blind = 1 - 2 * (size / 3) / (size + voxels / 3)
    assert head.loss(torch.zeros(1, 3, 16, 16), target).item() == pytest.approx(math.log(3) + blind, abs=1e-4)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "oracle"}, "no head called 'oracle'"),
        ({"name": "classify"}, "needs 'label'"),
        ({"name": "segment", "structures": []}, "head.structures: empty"),
        ({"name": "findings", "labels": []}, r"head.labels: \[\]; name each label"),
        ({"name": "findings", "labels": ["a", "b", "a"]}, "name each label of the labels table once"),
        ({"name": "segment", "structure": ["a"]}, "did you mean 'structures'"),
    ],
)
def test_a_head_that_cannot_be_built_says_why(section, message):
    with pytest.raises(UserError, match=message):
        build_head(section, build_trunk({"widths": ["4", "4"]}, (8, 8)))


def test_dice_of_known_overlaps():
    a = np.zeros((4, 4), bool)
    a[:2] = True
    assert dice(a, a) == 1.0
    assert dice(a, ~a) == 0.0
    assert dice(a, np.zeros_like(a)) == 0.0
    assert dice(a, np.ones_like(a)) == pytest.approx(2 * 8 / 24)
    assert math.isnan(dice(np.zeros_like(a), np.zeros_like(a)))


def test_dropout_is_torchs_in_one_process():
    """A process of several takes its rows of what is drawn for all (see test_several_processes)."""
    x, mine, theirs = torch.randn(5, 7), Drop(0.3), torch.nn.Dropout(0.3)
    torch.manual_seed(3)
    dropped = mine(x)
    torch.manual_seed(3)
    assert torch.equal(dropped, theirs(x)) and 0 < (dropped == 0).sum() < 35
    assert mine.eval()(x) is x


LOGITS, LABELS = torch.tensor([[0.0, 2.0, -1.0, 3.0]]), torch.tensor([[1, 2, 0, 0]])


@pytest.mark.parametrize(("gamma", "alpha"), [("0", "0.5"), ("1", "0.75"), ("2", "0.25")])
def test_a_focal_loss_is_its_formula_and_at_no_gamma_half_the_cross_entropy(gamma, alpha):
    _, head = build("detect", "resenc", (8, 8))
    head.kind, head.lesions, head.gamma, head.alpha = "focal", (2,), float(gamma), float(alpha)
    p = torch.sigmoid(LOGITS.double())
    truth = (LABELS == 2).double()
    right = torch.where(truth > 0, p, 1 - p)
    share = torch.where(truth > 0, float(alpha), 1 - float(alpha))
    wanted = -(share * (1 - right) ** float(gamma) * right.log()).mean()
    assert head.loss(LOGITS, LABELS).item() == pytest.approx(wanted.item(), rel=1e-5)
    if gamma == "0":
        assert wanted.item() == pytest.approx(-right.log().mean().item() / 2)


def test_dice_and_cross_entropy_of_lesions_and_of_scans_without():
    _, head = build("detect", "resenc", (8, 8))
    head.kind, head.lesions = "dice", ()
    p, truth = torch.sigmoid(LOGITS.double()), (LABELS > 0).double()
    entropy = -(truth * p.log() + (1 - truth) * (1 - p).log()).mean()
    dice = 1 - (2 * (p * truth).sum() + 1e-5) / (p.sum() + truth.sum() + 1e-5)
    assert head.loss(LOGITS, LABELS).item() == pytest.approx(((dice + entropy) / 2).item(), rel=1e-5)
    nothing = torch.zeros_like(LABELS)
    assert head.loss(-9 * torch.ones_like(LOGITS), nothing) < head.loss(LOGITS, nothing)


SEEN = torch.tensor([[1.0, 0.0, math.nan], [math.nan, 1.0, math.nan]])


def test_findings_are_the_mean_over_known_cells_and_what_is_unknown_has_no_slope():
    _, head = build("findings", "resenc", (8, 8))
    logits = torch.tensor([[0.3, -2.0, 5.0], [1.5, 0.7, -40.0]], requires_grad=True)
    loss = head.loss(logits, SEEN)
    p = torch.sigmoid(logits.detach().double())
    wanted = -(p[0, 0].log() + (1 - p[0, 1]).log() + p[1, 1].log()) / 3
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    (slope,) = torch.autograd.grad(loss, logits)
    assert (slope[SEEN.isnan()] == 0).all()
    assert slope[~SEEN.isnan()].double() == pytest.approx((p - SEEN)[~SEEN.isnan()] / 3, rel=1e-5)
    nothing = head.loss(logits, torch.full((2, 3), math.nan))
    assert nothing.item() == 0 and (torch.autograd.grad(nothing, logits)[0] == 0).all()


def test_balanced_findings_count_those_who_have_them_half():
    """At the logit at which a rare label is as likely as it is, balance leaves no slope towards rarer or more frequent."""
    trunk = build_trunk({"widths": ["4", "4"]}, (8, 8))
    head = build_head({"name": "findings", "labels": ["rare", "frequent"], "balance": "true"}, trunk)
    head.count({"frequent": 0.75, "rare": 0.125})
    target = torch.zeros(8, 2)
    target[:1, 0], target[:6, 1] = 1, 1
    logits = torch.zeros(8, 2, requires_grad=True)
    loss = head.loss(logits, target)
    assert loss.item() == pytest.approx(math.log(2))
    assert torch.autograd.grad(loss, logits)[0].sum(0) == pytest.approx(torch.zeros(2), abs=1e-7)
    plain = build_head({"name": "findings", "labels": ["rare", "frequent"]}, trunk)
    plain.count({"frequent": 0.75, "rare": 0.125})
    slope = torch.autograd.grad(plain.loss(logits, target), logits)[0].sum(0)
    assert slope == pytest.approx(torch.tensor([3.0, -2.0]) / 16)
