"""What each term's loss comes to where that can be written down, through the whole method, in two and in three dimensions.

Heads are made to say nothing: then all rows, places, cells or answers are alike to the loss, and it is a logarithm of how
many there are.
"""

import math

import pytest
import torch

from medssl.methods import TERMS, build_method
from medssl.methods.catalogue import tiny_batch
from medssl.methods.method import Bank
from medssl.trunks import build_trunk
from medssl.views.masks import spread

SIZES = {"2D": (8, 8), "3D": (8, 8, 8)}
WEIGHT = 0.5


def made(name, size, **settings):
    torch.manual_seed(0)
    section: dict = {name: {"weight": str(WEIGHT), **settings}}
    if getattr(TERMS[name], "taught", "") or "teacher" in settings:
        section["teacher_half_life"] = "0.1"
    if getattr(TERMS[name], "masked", False) or "masked" in settings:
        section["mask"] = {"ratio": "0.6"}
    method = build_method(section, build_trunk({"widths": ["4", "8"]}, size)).eval()
    return method, method.terms[name]


def silent(layers):
    """Nothing; what the last of the layers says is 0."""
    last = layers[-1] if isinstance(layers, torch.nn.Sequential) else layers
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.zero_()


def alike(prototypes):
    """Nothing; all prototypes are one."""
    with torch.no_grad():
        prototypes.prototypes.copy_(prototypes.prototypes[:1].expand_as(prototypes.prototypes))


def rebuild(size):
    method, term = made("rebuild", size)
    silent(term.head)
    batch = tiny_batch(size, 1)
    torch.manual_seed(1)
    bank = Bank(method, batch)
    hidden = spread(bank.mask, size).expand_as(bank.x_RCS)
    return method, batch, bank.x_RCS[hidden].square().mean().item()


def rebuild_whitened(size):
    method, term = made("rebuild", size, whiten="true")
    silent(term.head)
    values = math.prod(term.cell)
    assert values == 2 ** len(size)
    return method, tiny_batch(size, 1), (values - 1) / values


def contrast(size):
    """Scans 0 and 1 are of one patient, and 3 is of another scanner. Its other view and so many of others are left."""
    method, term = made("contrast", size)
    silent(term.project)
    batch = tiny_batch(size, 2)._replace(patient=torch.tensor([0, 0, 1, 2]), scanner=torch.tensor([0, 0, 0, 1]))
    return method, batch, (math.log(1 + 2) + math.log(1 + 2) + math.log(1 + 4) + math.log(1)) / 4


def contrast_with_queue(size):
    """Seven views of the teacher are left, and the three of the queue that are of their scanner."""
    method, term = made("contrast", size, teacher="true", queue="9")
    silent(term.project)
    silent(method.averages["contrast"].twin)
    term.queue.add(torch.randn(5, 128), torch.tensor([[7, 0], [8, 0], [9, 0], [8, 5], [9, 5]]))
    return method, tiny_batch(size, 2), math.log(7 + 3)


def local(size):
    method, term = made("local", size, points="8", apart_mm="1e-9")
    silent(term.head)
    return method, tiny_batch(size, 2), math.log(2 * 8 - 1)


def regions(size):
    """A region has itself in another view, and the others of both: 2 k - 1 of k."""
    method, term = made("regions", size, grid=["2"])
    silent(term.head)
    return method, tiny_batch(size, 2), math.log(2 * 2 ** len(size) - 1)


def regions_across(size):
    method, term = made("regions", size, grid=["2"], parts="2", across="true")
    silent(term.head)
    return method, tiny_batch(size, 4), math.log(2 * 2 ** len(size) - 1)


def position(size):
    """Two views of four scans, of which two and two are at one height: 3 attract, 4 repel."""
    method, term = made("position", size, parts="2")
    silent(term.project)
    where = torch.tensor([0.2, 0.3, 0.8, 0.9]).view(1, 4, 1).expand(2, 4, 3)
    return method, tiny_batch(size, 2)._replace(where=where), math.log(1 + 4)


def order(size):
    method, term = made("order", size, apart="0.01")
    silent(term.judge)
    return method, tiny_batch(size, 3), math.log(2)


def order_of_visits(size):
    method, term = made("order", size, by="visit")
    silent(term.judge)
    return method, tiny_batch(size, 2), math.log(2)


def rotation(size):
    method, term = made("rotation", size, about="plane" if len(size) == 2 else "cube")
    silent(term.judge)
    return method, tiny_batch(size, 1), math.log(4 if len(size) == 2 else 24)


def vicreg(size):
    method, term = made("vicreg", size, variance="3")
    silent(term.project)
    return method, tiny_batch(size, 3), 0.99 * 3


def byol(size):
    method, term = made("byol", size)
    silent(term.predict)
    return method, tiny_batch(size, 3), 2


def dino(size):
    method, term = made("dino", size, prototypes="24")
    alike(term.score)
    return method, tiny_batch(size, 2), math.log(24)


def ibot(size):
    method, term = made("ibot", size, prototypes="24")
    alike(term.score)
    return method, tiny_batch(size, 1), math.log(24)


def swav(size):
    method, term = made("swav", size, prototypes="24", queue="6")
    alike(term.head)
    term.queue.add(torch.nn.functional.normalize(torch.randn(6, 64)), torch.zeros(6, 0))
    return method, tiny_batch(size, 2), math.log(24)


def which(size):
    """Of 16 or 64 cells 10 or 38 are hidden."""
    method, term = made("which", size)
    silent(term.head)
    return method, tiny_batch(size, 1), math.log(10 if len(size) == 2 else 38)


KNOWN = [rebuild, rebuild_whitened, contrast, contrast_with_queue, local, regions, regions_across, position, order,
         order_of_visits, rotation, vicreg, byol, dino, ibot, swav, which]  # fmt: skip


def test_every_term_has_a_known_value():
    assert {known.__name__.split("_")[0] for known in KNOWN} == set(TERMS)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.__name__)
def test_what_a_loss_is_known_to_be(known, size):
    method, batch, expected = known(SIZES[size])
    torch.manual_seed(1)
    with torch.no_grad():
        (loss,) = method(batch).values()
    assert loss.item() == pytest.approx(WEIGHT * expected, rel=2e-5)
