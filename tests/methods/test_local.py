"""Contrast of places within a scan and across scans."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from medssl.errors import UserError
from medssl.methods.local import LocalContrast
from medssl.trunks import build_trunk
from medssl.views import Batch
from medssl.views.select import build_views

SIZES = {"2D": (16, 16), "3D": (16, 8, 16)}
TRUNK = {"widths": ["8", "16"]}


def seen(size, patients=(0, 1, 2)):
    """Two views of scans that are cut alike around an organ, but lie elsewhere in the world and differ in size."""
    scans, dims = len(patients), len(size)
    torch.manual_seed(0)
    to_mm = torch.eye(4).double().repeat(2, scans, 1, 1)
    to_share = to_mm.clone()
    for scan in range(scans):
        extent = torch.tensor([40.0 + 4 * scan] * dims).double()
        for view in range(2):
            begin, step = torch.rand(dims).double() * 4, extent / torch.tensor(size) * 0.9
            to_mm[view, scan, :dims, :dims] = torch.diag(step)
            to_mm[view, scan, :dims, 3] = begin + 100 * scan
            to_share[view, scan, :dims, :dims] = torch.diag(step / extent)
            to_share[view, scan, :dims, 3] = begin / extent
    x, numbers = torch.zeros(2, scans, 1, *size), torch.tensor(patients)
    return Batch(x, to_mm, numbers, numbers, torch.empty(0), to_share=to_share)


def bank_of(batch, maps):
    scans = batch.x.shape[1]
    return SimpleNamespace(batch=batch, dense=lambda: maps, scans=scans, all_scans=scans, gathered=lambda x: x)


def term_for(size, **settings):
    term = LocalContrast(build_trunk(TRUNK, size), **settings)
    term.head = nn.Identity()
    return term


def coordinates(batch, maps, size):
    """A map of each view (6, E, *size) of waves along the axes of what `maps` take voxels to."""
    voxel = torch.stack(torch.meshgrid(*[torch.arange(n).double() for n in size], indexing="ij"), -1)
    four = torch.cat([voxel, torch.zeros(*size, 3 - len(size)), torch.ones(*size, 1)], -1).double()
    place = torch.einsum("rij,...j->r...i", maps.flatten(0, 1), four)[..., : len(size)]
    waves = [f(k * place) for k in (2.0, 4.0, 8.0) for f in (torch.sin, torch.cos)]
    return torch.movedim(torch.cat(waves, -1), -1, 1).float()


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_across_scans_a_place_is_a_share_of_the_volume(size):
    """Who knows the share of the volume solves the task across patients; who knows millimetres of the world does not."""
    batch = seen(size)
    found = {}
    for name, maps in (("share", batch.to_share), ("mm", batch.to_mm / 100)):
        torch.manual_seed(0)
        vectors = coordinates(batch, maps, size)
        own, both = (
            term_for(size, apart_mm=10.0, temperature=0.02, across=across)(bank_of(batch, vectors)).item()
            for across in (False, True)
        )
        found[name] = (own, 2 * both - own)
    assert found["share"][1] < 0.3
    assert found["mm"][1] > 3 * found["share"][1]


@pytest.mark.parametrize("across", [False, True])
def test_equal_vectors_cost_the_logarithm_of_all_that_is_compared(across):
    """With no two places too near to tell, each of 2n vectors has one positive among 2n - 1: ln(2n - 1)."""
    batch = seen((16, 16))
    term = term_for((16, 16), points=8, apart_mm=0.0, across=across)
    assert term(bank_of(batch, torch.ones(6, 4, 16, 16))).item() == pytest.approx(torch.tensor(15.0).log().item())


def test_scans_of_one_patient_alone_are_each_other_s_mates():
    batch = seen((16, 16), patients=(3, 3))
    loss = term_for((16, 16), across=True)(bank_of(batch, coordinates(batch, batch.to_share, (16, 16))[:4]))
    assert loss.isfinite()


def test_a_view_elsewhere_in_its_volume_shares_no_place():
    batch = seen((16, 16))
    batch.to_share[1, :, :2, 3] += 2
    batch.to_mm[1, :, :2, 3] += 200
    maps = torch.rand(6, 4, 16, 16, requires_grad=True)
    loss = term_for((16, 16), across=True)(bank_of(batch, maps))
    loss.backward()
    assert loss.item() == 0
    assert maps.grad.abs().sum() == 0


def test_views_of_which_two_share_no_place_are_refused():
    term, flat = term_for((16, 16)), {"size": ["16", "16"]}
    term.check(build_views(flat), 1)
    term.check(build_views({**flat, "parts": "1"}), 40)
    term_for((16, 8, 16)).check(build_views({"size": ["16", "8", "16"]}), 40)
    with pytest.raises(UserError, match=r"views\.parts: 0, .* two of 40 slices .* set it to 1"):
        term.check(build_views(flat), 40)
    with pytest.raises(UserError, match=r"views\.partner: eye, .* set it to none"):
        term.check(build_views({**flat, "partner": "eye"}), 1)
