import numpy as np
import pytest
import torch

from medssl.views.intensity import BY_MODALITY, Intensity

OFF = {"gain": 0.0, "offset": 0.0, "gamma": 0.0, "noise": 0.0}


@pytest.mark.parametrize("modality", sorted(BY_MODALITY))
@pytest.mark.parametrize("size", [(12, 12), (8, 9, 10)])
def test_changes_are_finite_repeatable_and_real(modality, size):
    x = torch.rand(1, *size)
    once, again, other = (BY_MODALITY[modality].apply(x, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert once.isfinite().all()
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_everything_off_changes_nothing():
    x = torch.rand(1, 6, 6, 6)
    assert torch.allclose(Intensity(**OFF).apply(x, np.random.default_rng(0)), x, atol=1e-5)


def test_a_constant_view_survives():
    assert Intensity(bias=0.2, speckle=0.2).apply(torch.zeros(1, 5, 5), np.random.default_rng(0)).isfinite().all()


def test_gamma_keeps_order_and_range():
    x = torch.linspace(-2, 3, 50)[None, :, None]
    y = Intensity(**{**OFF, "gamma": 0.5}).apply(x, np.random.default_rng(1))
    assert (y.flatten().diff() > 0).all()
    assert y.min().item() == pytest.approx(-2, abs=0.02)
    assert y.max().item() == pytest.approx(3, abs=1e-4)
