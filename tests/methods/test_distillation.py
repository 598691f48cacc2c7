"""Losses against closed forms and slow, obvious twins."""

import math

import numpy as np
import pytest
import torch

from medssl.errors import UserError
from medssl.methods import build_method
from medssl.methods.contrast import mixed_negatives
from medssl.methods.dino import distilled, koleo
from medssl.methods.queue import Queue
from medssl.methods.relations import info_nce_between
from medssl.methods.swav import sinkhorn
from medssl.methods.vicreg import vicreg
from medssl.trunks import build_trunk
from medssl.views import Batch


def plain_vicreg(a, b, weights):
    """In numpy, one number at a time."""
    n, width = a.shape
    invariance = np.mean([(a[i, d] - b[i, d]) ** 2 for i in range(n) for d in range(width)])
    variance = covariance = 0.0
    for x in (a, b):
        variance += np.mean([max(0.0, 1 - math.sqrt(np.var(x[:, d], ddof=1) + 1e-4)) for d in range(width)]) / 2
        matrix = np.cov(x.T)
        covariance += sum(matrix[i, j] ** 2 for i in range(width) for j in range(width) if i != j) / width
    return weights[0] * invariance + weights[1] * variance + weights[2] * covariance


def test_vicreg_equals_its_slow_twin():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(9, 5)), 0.3 * rng.normal(size=(9, 5))
    found = vicreg(torch.from_numpy(a), torch.from_numpy(b), 25.0, 25.0, 1.0)
    assert found.item() == pytest.approx(plain_vicreg(a, b, (25, 25, 1)), rel=1e-9)


def test_vicreg_of_a_collapsed_and_of_a_perfect_embedding():
    same = torch.ones(6, 3)
    assert vicreg(same, same).item() == pytest.approx(25 * (1 - 1e-2))  # no spread along any direction
    corners = math.sqrt(2) * torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert vicreg(corners, corners).item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(UserError, match=r"pretrain\.batch: 1"):
        vicreg(same[:1], same[:1])


def test_sinkhorn_uses_every_prototype_alike():
    torch.manual_seed(0)
    codes = sinkhorn(torch.randn(12, 4) / 0.5, 200)
    assert torch.allclose(codes.sum(1), torch.ones(12), atol=1e-4)
    assert torch.allclose(codes.sum(0), torch.full((4,), 3.0), atol=1e-4)
    sharp = sinkhorn(torch.tensor([[1.0, 0.0], [0.9, 0.0]]) / 0.01, 50)
    assert sharp.argmax(1).tolist() == [0, 1]  # both prefer the first: the one that loses less gives way
    assert torch.isfinite(sinkhorn(torch.tensor([[1e4, 0.0], [0.0, 1e4]]), 3)).all()


def test_distillation_starts_at_the_logarithm_of_the_prototypes():
    pairs = torch.tensor([[False, True], [True, False]])
    even = torch.full((2, 64), 1 / 64)
    assert distilled(torch.zeros(2, 64), even, pairs).item() == pytest.approx(math.log(64))
    torch.manual_seed(1)
    logits, target = torch.randn(2, 5, dtype=torch.float64), torch.rand(2, 5, dtype=torch.float64).softmax(1)
    slow = [-sum(target[t, k] * math.log(logits[s].softmax(0)[k]) for k in range(5)) for s, t in ((0, 1), (1, 0))]
    assert distilled(logits, target, pairs).item() == pytest.approx(float(sum(slow)) / 2)


def test_koleo_is_the_logarithm_of_the_nearest_distance():
    angle = torch.tensor([0.0, 0.5, 2.0])
    z = 7 * torch.stack([angle.cos(), angle.sin()], 1)
    near = [2 * math.sin(gap / 2) for gap in (0.5, 0.5, 1.5)]
    alone = torch.eye(3, dtype=torch.bool)
    assert koleo(z, alone).item() == pytest.approx(-sum(math.log(d + 1e-4) for d in near) / 3, rel=1e-5)
    # Scans of one patient may be as alike as they are: only what is left counts.
    one = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    far = [2 * math.sin(gap / 2) for gap in (2.0, 1.5, 1.5)]
    assert koleo(z, one).item() == pytest.approx(-sum(math.log(d + 1e-4) for d in far) / 3, rel=1e-5)
    twice = torch.ones(3, 2, requires_grad=True)
    koleo(twice, alone).backward()
    assert torch.isfinite(twice.grad).all()
    assert koleo(z, torch.ones(3, 3, dtype=torch.bool)).item() == 0


def test_byol_is_0_for_agreement_and_4_for_the_opposite():
    method = build_method(
        {"byol": {"width": "8"}, "teacher_half_life": "0.5"}, build_trunk({"widths": ["4", "8"]}, (8, 8))
    )
    term, who = method.terms["byol"], torch.arange(3)
    x = torch.randn(1, 3, 1, 8, 8).expand(2, -1, -1, -1, -1)
    seen = Batch(x, torch.eye(4).expand(2, 3, 4, 4), who, who, torch.empty(0))
    for sign, expected in ((1.0, 0.0), (-1.0, 4.0)):
        term.predict = torch.nn.Linear(8, 8, bias=False)
        with torch.no_grad():
            term.predict.weight.copy_(sign * torch.eye(8))
        assert method(seen)["byol"].item() == pytest.approx(expected, abs=1e-5)


def test_harder_negatives_are_made_of_allowed_ones():
    torch.manual_seed(0)
    queries, keys = torch.randn(4, 6), torch.randn(20, 6)
    allowed = torch.rand(4, 20) < 0.5
    allowed[3] = False
    made = mixed_negatives(queries, keys, allowed, 8, 5, 3)
    assert made.shape == (4, 8, 6)
    assert torch.allclose(made[:3].norm(dim=2), torch.ones(3, 8), atol=1e-5)
    assert (made[3] == 0).all()
    unit = torch.nn.functional.normalize(keys, dim=1)
    for row in range(3):
        inside = unit[allowed[row]]
        for vector in made[row, :5]:  # in the plane of two allowed keys, between them
            best = min(
                torch.linalg.lstsq(torch.stack([a, b], 1), vector[:, None]).residuals.sum().item()
                + 9 * (torch.linalg.lstsq(torch.stack([a, b], 1), vector[:, None]).solution.min() < -1e-4).item()
                for i, a in enumerate(inside) for b in inside[i + 1 :]
            )  # fmt: skip
            assert best < 1e-6 or (inside @ vector).max() > 1 - 1e-6
    q = torch.nn.functional.normalize(queries, dim=1)
    nearest = torch.where(allowed[:3], q[:3] @ unit.T, torch.tensor(-9.0)).topk(8, 1).values.min(1).values
    assert (
        (made[:3, 5:] * q[:3, None]).sum(2) >= nearest[:, None] - 1e-5
    ).all()  # nearer to the query than their source


def test_harder_negatives_and_a_queue_raise_the_loss_as_in_the_formula():
    torch.manual_seed(2)
    q, k, extra = torch.randn(3, 4), torch.randn(5, 4), torch.nn.functional.normalize(torch.randn(3, 2, 4), dim=2)
    positive, ignore = torch.zeros(3, 5, dtype=torch.bool), torch.zeros(3, 5, dtype=torch.bool)
    positive[range(3), range(3)] = True
    ignore[:, 4] = True
    extra[2] = 0
    losses = []
    for row in range(3):
        cosine = [float(torch.cosine_similarity(q[row], k[j], dim=0)) for j in range(4)]
        among = [*cosine, *[float(torch.cosine_similarity(q[row], x, dim=0)) for x in extra[row] if x.any()]]
        losses.append(-cosine[row] / 0.2 + math.log(sum(math.exp(c / 0.2) for c in among)))
    found = info_nce_between(q, k, positive, ignore, 0.2, extra)
    assert found.item() == pytest.approx(sum(losses) / 3, rel=1e-5)


def test_a_queue_forgets_the_oldest():
    queue = Queue(3, 1, facts=1)
    assert queue.content()[0].shape == (0, 1)
    for n in (1, 2, 3, 4):
        queue.add(torch.tensor([[float(n)]]), torch.tensor([[n]]))
    vectors, facts = queue.content()
    assert sorted(vectors[:, 0].tolist()) == [2, 3, 4] == sorted(facts[:, 0].tolist())
    queue.add(torch.arange(10.0)[:, None], torch.arange(10)[:, None])
    assert sorted(queue.content()[0][:, 0].tolist()) == [7, 8, 9]


def test_prototypes_that_are_frozen_stand_still_for_so_many_batches_and_then_move():
    torch.manual_seed(0)
    trunk = build_trunk({"widths": ["4", "8"]}, (8, 8))
    method = build_method({"swav": {"prototypes": "6", "queue": "8", "frozen": "2"}}, trunk)
    term, who = method.terms["swav"], torch.arange(4)
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.1, weight_decay=0.01)
    lies = [torch.nn.functional.normalize(term.head.prototypes.detach(), dim=1)]
    placed = [term.head.project[0].weight.detach().clone()]
    for _ in range(3):
        method(Batch(torch.randn(2, 4, 1, 8, 8), torch.eye(4).expand(2, 4, 4, 4), who, who, torch.empty(0)))[
            "swav"
        ].backward()
        optimizer.step()
        optimizer.zero_grad()
        lies.append(torch.nn.functional.normalize(term.head.prototypes.detach(), dim=1))
        placed.append(term.head.project[0].weight.detach().clone())
    assert torch.allclose(lies[2], lies[0], atol=1e-6) and not torch.allclose(lies[3], lies[2], atol=1e-2)
    assert not torch.allclose(placed[1], placed[0], atol=1e-2)  # the rest learns meanwhile
    assert "terms.swav.seen" in method.state_dict()  # a resumed run goes on counting
    assert "terms.swav.seen" not in build_method({"swav": {}}, trunk).state_dict()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"contrast": {"queue": "8"}}, "set teacher: true"),
        ({"contrast": {"teacher": "true", "mixed": "8"}}, "there is no queue"),
    ],
)
def test_a_contrast_that_cannot_be_says_why(section, message):
    with pytest.raises(UserError, match=message):
        build_method({**section, "teacher_half_life": "0.1"}, build_trunk({"widths": ["4", "8"]}, (8, 8)))


@pytest.mark.parametrize("name", ["byol", "dino", "ibot"])
def test_without_a_teacher_it_says_what_to_set(name):
    method = build_method({name: {}}, build_trunk({"widths": ["4", "8"]}, (8, 8)))
    who = torch.arange(2)
    with pytest.raises(UserError, match="teacher_half_life: 0"):
        method(Batch(torch.randn(2, 2, 1, 8, 8), torch.eye(4).expand(2, 2, 4, 4), who, who, torch.empty(0)))
