"""Content-free controls: what can be solved on noise is solved by the machinery (rims, zooms, alterations), not anatomy.

Each view of a scan is cut from a volume of noise of its own, by the real path of crops and alterations, so that views of
one scan share what the machinery does to them and nothing else. Scans learned from are never asked about.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional

from medssl.methods import build_method
from medssl.methods.method import Bank
from medssl.trunks import build_trunk
from medssl.views import Crops, Steps, Views
from medssl.views.intensity import Intensity
from medssl.views.masks import spread

CROPS = Crops(size=(16, 16), turn=10, zoom=0.1)
SCANS = 64
FOUND = 6 / SCANS
"""Found again by chance is 1 scan of 64; 6 or more are found once in 1700 times."""


class Noise:
    """A store of volumes in which nothing is anywhere."""

    def __init__(self, seed):
        self.seed = seed

    def shape(self, _):
        return (32, 32, 8)

    def affine(self, _):
        return np.eye(4)

    def read(self, volume_id, *_):
        return np.random.default_rng((self.seed, int(volume_id))).normal(size=(1, 32, 32, 8)).astype(np.float32)


def noise(views, batch, seed):
    """The batches of a run by step number, each view from its own store; other seeds have other volumes."""
    ids = [str(scan) for scan in range(SCANS)]
    rows = pd.DataFrame({"volume_id": ids, "modality": "MR", "patient_pid": ids, "scanner": "one"})
    law = Views(crops=CROPS, count=views, intensity=Intensity())
    stores = [Steps(Noise(100 * seed + view), rows, law, batch=batch, seed=seed) for view in range(views)]

    def of(step):
        cut = [steps[step] for steps in stores]
        return cut[0]._replace(x=torch.stack([one.x[view] for view, one in enumerate(cut)]))

    return of


def trained(section, views, change=lambda seen: seen, steps=60):
    """A method after `steps` steps on noise, as altered by `change`."""
    torch.manual_seed(0)
    trunk = build_trunk({"widths": ["8", "16", "16"], "norms": ["group"] * 3}, CROPS.size)
    method, batches = build_method(section, trunk), noise(views, 16, 1)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for step in range(steps):
        torch.manual_seed(step)
        sum(method(change(batches(step))).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(steps)
    return method.eval()


def asked(method, views, change=lambda seen: seen, step=0):
    """What the machinery gives of scans that were not learned from: a Bank of all of them."""
    torch.manual_seed(9 + step)
    return Bank(method, change(noise(views, SCANS, 2)(step)))


def brighter_in_the_middle(seen):
    """The mutant: the view that lies between the others is altered differently."""
    middle = seen.where[..., 0].argsort(0).argsort(0) == 1
    return seen._replace(x=seen.x + 2 * middle[..., None, None, None])


def bright_scans(seen):
    """The mutant: all views of a scan are altered alike, each scan differently, as no two scans of noise differ."""
    shift = torch.linspace(-4, 4, seen.x.shape[1])
    return seen._replace(x=seen.x + shift[None, :, None, None, None])


def order_accuracy(change=lambda seen: seen):
    method = trained({"order": {"along": "0", "apart": "0.01"}}, 3, change)
    right = []
    with torch.no_grad():
        for step in range(16):
            logit, ordered = method.terms["order"].asked(asked(method, 3, change, step))
            right.append(((logit > 0) == (ordered > 0.5)).float())
    return torch.cat(right).mean().item()


def found_again(section, change=lambda seen: seen):
    """The share of scans whose second view is the nearest to the first; 1 / SCANS by chance."""
    method = trained(section, 2, change)
    with torch.no_grad():
        first, second = functional.normalize(asked(method, 2, change).features().pooled, dim=1).chunk(2)
    return ((first @ second.T).argmax(1) == torch.arange(SCANS)).float().mean().item()


@pytest.mark.slow
def test_order_is_at_chance_and_an_alteration_of_one_view_gives_it_away():
    assert 0.45 < order_accuracy() < 0.55
    assert order_accuracy(brighter_in_the_middle) > 0.8


def brighter_at_one_end(seen):
    """The mutant: every view, as the machine makes it, is brighter at one end."""
    return seen._replace(x=seen.x + torch.linspace(-1, 1, CROPS.size[0])[:, None])


@pytest.mark.parametrize("told", [False, True])
def test_turns_of_noise_cannot_be_told(told):
    change = brighter_at_one_end if told else lambda seen: seen
    method, right = trained({"rotation": {}}, 1, change), []
    with torch.no_grad():
        for step in range(16):
            logits, number = method.terms["rotation"].asked(asked(method, 1, change, step))
            right.append((logits.argmax(1) == number).float())
    accuracy = torch.cat(right).mean().item()
    assert accuracy > 0.8 if told else 0.2 < accuracy < 0.3


SHARED = {
    "contrast": {"contrast": {}},
    "vicreg": {"vicreg": {}},
    "byol": {"byol": {}, "teacher_half_life": "0.1"},
    "dino": {"dino": {"prototypes": "32"}, "teacher_half_life": "0.1"},
    "swav": {"swav": {"prototypes": "16", "queue": "32"}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SHARED))
def test_scans_of_noise_are_not_found_again(name):
    assert found_again(SHARED[name]) < FOUND


def test_scans_that_are_altered_alike_are_found_again():
    assert found_again(SHARED["contrast"], bright_scans) >= FOUND


def brighter_upwards(seen):
    """The mutant: where a view lies can be read from it."""
    return seen._replace(x=seen.x + 8 * seen.where[..., 0, None, None, None].float() - 4)


@pytest.mark.parametrize("told", [False, True])
def test_positions_of_noise_cannot_be_told(told):
    """The nearest view is no nearer along the axis than any: crops, turns and their rims do not say where they are."""
    change = brighter_upwards if told else lambda seen: seen
    method = trained({"position": {"along": "0"}}, 2, change)
    with torch.no_grad():
        bank = asked(method, 2, change)
        z = functional.normalize(method.terms["position"].project(bank.features().pooled), dim=1)
    similar, place = (z @ z.T).fill_diagonal_(-2), bank.batch.where[..., 0].flatten()
    nearest = (place - place[similar.argmax(1)]).abs().mean()
    assert (nearest / (place[:, None] - place[None]).abs().mean() > 0.8) != told


@pytest.mark.parametrize("smooth", [False, True])
def test_noise_cannot_be_rebuilt_and_what_is_smooth_can(smooth):
    """The share of the variance of hidden voxels that is explained; white noise has nothing to explain it by."""

    def content(seen):
        make = torch.Generator().manual_seed(int(1e6 * seen.where.sum()))
        x = torch.randn(seen.x.shape, generator=make)
        return seen._replace(x=8 * functional.avg_pool2d(x.flatten(0, 1), 9, 1, 4).view_as(x) if smooth else x)

    method = trained({"rebuild": {}, "mask": {"ratio": "0.3"}}, 1, content, steps=150)
    with torch.no_grad():
        bank = asked(method, 1, content)
        hidden = spread(bank.mask, CROPS.size)
        error = method.terms["rebuild"](bank).item()
    explained = 1 - error / bank.x_RCS[hidden].var().item()
    assert explained > 0.1 if smooth else explained < 0.01
