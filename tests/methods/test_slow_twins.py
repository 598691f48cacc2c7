"""Whole terms against loops that nobody can doubt: which views, cells, places and scans are compared, and the mean of what.

The losses themselves have their twins in test_relations, test_distillation, test_position, test_rotation and test_which.
"""

import itertools
import math

import numpy as np
import pytest
import torch

from medssl.methods import TERMS, build_method
from medssl.methods.catalogue import tiny_batch
from medssl.methods.local import at, shared_places
from medssl.methods.method import Bank
from medssl.trunks import build_trunk

SIZES = {"2D": (8, 8), "3D": (8, 8, 8)}
SCANS = 4


def made(name, size, **settings):
    """A method of one term whose teacher is another network than its student."""
    torch.manual_seed(0)
    section: dict = {name: settings}
    if getattr(TERMS[name], "taught", "") or "teacher" in settings:
        section["teacher_half_life"] = "0.1"
    if getattr(TERMS[name], "masked", False) or "masked" in settings:
        section["mask"] = {"ratio": "0.5"}
    method = build_method(section, build_trunk({"widths": ["4", "8"], "norms": ["group"] * 2}, size)).eval()
    with torch.no_grad():
        for average in filter(None, (method.teacher, *method.averages.values())):
            for parameter in average.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return method, method.terms[name]


def numbers(x):
    return x.detach().double().numpy()


def softmax(x):
    e = [math.exp(v - max(x)) for v in x]
    return [v / sum(e) for v in e]


def cross(target, logits):
    share = softmax(logits)
    return -sum(t * math.log(s) for t, s in zip(target, share, strict=True))


def cosine(a, b):
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def byol(size):
    method, term = made("byol", size)
    batch = tiny_batch(size, 3)
    bank = Bank(method, batch)
    guess = numbers(term.predict(term.project(bank.features().pooled)))
    told = numbers(bank.averaged(term)(bank.features(teacher=True).pooled))
    losses = []
    for scan, (a, b) in itertools.product(range(SCANS), itertools.permutations(range(3), 2)):
        losses.append(2 - 2 * cosine(guess[a * SCANS + scan], told[b * SCANS + scan]))
    return method, batch, np.mean(losses)


def dino(size):
    """Two views and a small one: four pairs with the teacher's, of which none is of a view with itself."""
    method, term = made("dino", size, prototypes="6")
    term.centre += torch.randn(6) / 10
    batch = tiny_batch(size, 2)
    bank = Bank(method, batch)
    student = numbers(term.score(torch.cat([bank.features().pooled, method.trunk(batch.small[0]).pooled]))) / 0.1
    told = (numbers(bank.averaged(term)(bank.features(teacher=True).pooled)) - numbers(term.centre)) / 0.04
    losses = []
    for scan, a, b in itertools.product(range(SCANS), range(3), range(2)):
        if a != b:
            losses.append(cross(softmax(told[b * SCANS + scan]), student[a * SCANS + scan]))
    assert len(losses) == 4 * SCANS
    return method, batch, np.mean(losses)


def ibot(size, centred="place"):
    method, term = made("ibot", size, prototypes="6", centred=centred)
    term.centre += torch.randn(6) / 10
    batch = tiny_batch(size, 2)
    torch.manual_seed(3)
    bank = Bank(method, batch)
    seen = bank.features(masked=True).pyramid[-1].movedim(1, -1)
    student = numbers(term.score(seen)) / 0.1
    told = numbers(bank.averaged(term)(bank.features(teacher=True).pyramid[-1].movedim(1, -1)))
    losses = []
    for row, *place in bank.mask.nonzero().tolist():
        cell = (row, *place)
        usual = np.mean([told[(other, *place)] for other in range(bank.rows)], axis=0)
        usual = usual if centred == "place" else numbers(term.centre)
        losses.append(cross(softmax((told[cell] - usual) / 0.04), student[cell]))
    return method, batch, np.mean(losses)


def ibot_centred_anywhere(size):
    return ibot(size, "all")


def swav(size):
    """Two views, of which each has codes among its own scans and the queue's, and a small one, which has none."""
    method, term = made("swav", size, prototypes="5", queue="3", iterations="2")
    term.queue.add(torch.nn.functional.normalize(torch.randn(3, 64)), torch.zeros(3, 0))
    batch = tiny_batch(size, 2)
    pooled = torch.cat([Bank(method, batch).features().pooled, method.trunk(batch.small[0]).pooled])
    scores = numbers(term.head(pooled)).reshape(3, SCANS, 5)
    past = numbers(term.head.score(term.queue.vectors))
    codes = []
    for view in range(2):
        share = np.exp(np.concatenate([scores[view], past]) / 0.05)
        for _ in range(2):
            for k in range(5):
                share[:, k] /= share[:, k].sum()
            for n in range(len(share)):
                share[n] /= share[n].sum()
        codes.append(share[:SCANS])
    losses = [
        cross(codes[b][scan], scores[a][scan] / 0.1)
        for scan, a, b in itertools.product(range(SCANS), range(3), range(2)) if a != b
    ]  # fmt: skip
    return method, batch, np.mean(losses)


def local(size):
    """Each place in each of two views: the other view's is its mate, and what is 2 mm away or more in either is not."""
    method, term = made("local", size, points="7", apart_mm="2")
    batch = tiny_batch(size, 2)
    moved = batch.to_mm.clone()
    moved[1, :, 0, 3] += 1.5
    batch = batch._replace(to_mm=moved)
    torch.manual_seed(3)
    field = term.head(Bank(method, batch).dense())
    losses = []
    for scan in range(SCANS):
        here, there = shared_places(moved[:, scan], size, 7)
        of_scan = []
        vectors = [numbers(at(field[scan], here)), numbers(at(field[SCANS + scan], there))]
        mm = numbers(here @ moved[0, scan].T)[:, :3]
        for view, place in itertools.product(range(2), range(len(here))):
            below = 0.0
            for other, q in itertools.product(range(2), range(len(here))):
                mate = other != view and q == place
                if mate or math.dist(mm[place], mm[q]) >= 2:
                    below += math.exp(cosine(vectors[view][place], vectors[other][q]) / 0.1)
            of_scan.append(-cosine(vectors[0][place], vectors[1][place]) / 0.1 + math.log(below))
        losses.append(np.mean(of_scan))
    return method, batch, np.mean(losses)


def moco(size):
    """Keys are the teacher's of all views but the row's own, and those of the queue that are of no scan here."""
    method, term = made("contrast", size, teacher="true", queue="4", width="6")
    term.queue.add(torch.randn(3, 6), torch.tensor([[0, 0], [7, 0], [8, 3]]))
    batch = tiny_batch(size, 2)
    bank = Bank(method, batch)
    mine = numbers(term.project(bank.features().pooled))
    keys = numbers(bank.averaged(term)(bank.features(teacher=True).pooled))
    past = numbers(term.queue.vectors)
    losses = []
    for row in range(2 * SCANS):
        negatives = [keys[n] for n in range(2 * SCANS) if n % SCANS != row % SCANS]
        negatives += [past[1]] + ([past[0]] if row % SCANS else [])  # scan 0 is of patient 0; scanner 3 is another
        mate = math.exp(cosine(mine[row], keys[(row + SCANS) % (2 * SCANS)]) / 0.2)
        losses.append(-math.log(mate / (mate + sum(math.exp(cosine(mine[row], k) / 0.2) for k in negatives))))
    return method, batch, np.mean(losses)


TWINS = [byol, dino, ibot, ibot_centred_anywhere, swav, local, moco]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.__name__)
def test_a_term_is_its_slow_twin(twin, size):
    with torch.no_grad():
        method, batch, expected = twin(SIZES[size])
        torch.manual_seed(3)
        (loss,) = method(batch).values()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
