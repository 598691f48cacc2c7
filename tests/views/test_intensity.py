import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import gaussian_filter

from medssl.errors import UserError
from medssl.views.intensity import BY_MODALITY, NORMAL, Intensity, _noise, magnitude, smooth, speckled, thicken, window

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


@pytest.mark.parametrize("size", [(1, 64, 64, 64), (3, 41, 7), (1, 1, 1)])
def test_noise_is_standard_normal_and_every_seed_has_its_own(size):
    seen, other = (_noise(torch.zeros(size), np.random.default_rng(seed)) for seed in (5, 6))
    assert seen.shape == torch.Size(size) and seen.dtype == torch.float32
    assert not torch.equal(seen, other)
    if seen.numel() > 100:
        assert stats.kstest(seen.flatten().numpy(), "norm").pvalue > 0.01
        lagged = torch.corrcoef(torch.stack([seen.flatten()[:-1], seen.flatten()[1:]]))[0, 1]
        assert abs(lagged) < 4 / seen.numel() ** 0.5


def test_the_normal_numbers_have_the_moments_of_the_law():
    values = NORMAL.double()
    assert values.mean().item() == pytest.approx(0, abs=1e-9)
    assert values.var(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert (values**4).mean().item() == pytest.approx(3, abs=5e-3)


def test_noise_of_a_magnitude_has_the_mean_of_rayleigh_where_there_is_no_signal():
    air = magnitude(torch.zeros(1, 60, 60, 60), 0.3, np.random.default_rng(0))
    assert air.mean().item() == pytest.approx(0.3 * math.sqrt(math.pi / 2), rel=0.01)
    bright = magnitude(torch.full((1, 60, 60, 60), 30.0), 0.3, np.random.default_rng(0))
    assert bright.mean().item() == pytest.approx(30, abs=0.01)
    assert bright.std().item() == pytest.approx(0.3, rel=0.02)


@pytest.mark.parametrize("looks", [1.0, 4.0, 16.0])
def test_speckle_keeps_the_mean_and_has_a_variance_of_one_over_looks(looks):
    seen = speckled(torch.full((1, 80, 80, 40), 2.0), looks, np.random.default_rng(1)) / 2
    assert seen.mean().item() == pytest.approx(1, abs=0.01)
    assert seen.var().item() == pytest.approx(1 / looks, rel=0.03)


def test_exposure_noise_grows_with_the_root_of_the_signal():
    x = torch.tensor([0.0, 0.25, 1.0])[None, :, None].expand(1, 3, 40_000).contiguous()
    noise = Intensity(**OFF, exposure=1.0).apply(x, np.random.default_rng(2)) - x
    air, quarter, whole = noise.std(dim=2)[0].tolist()
    assert air == pytest.approx(0, abs=1e-3)
    assert whole / quarter == pytest.approx(2, rel=0.03)


def test_a_window_moves_level_and_width():
    x = torch.tensor([[-1.0, 0.0, 0.1, 0.6, 1.0]])
    assert torch.allclose(window(x, 0.1, 0.5), torch.tensor([[-1.0, -0.2, 0.0, 1.0, 1.0]]))
    moved = Intensity(**OFF, level_hu=40.0, hu=400.0).apply(torch.zeros(1, 5, 5), np.random.default_rng(0))
    assert 0 < moved.abs().max() <= 0.1


@pytest.mark.parametrize("size", [(40, 36), (24, 20, 22)])
def test_smoothing_is_that_of_scipy_and_thick_slices_keep_the_mean(size, rng):
    x = rng.normal(size=(1, *size)).astype(np.float32)
    told = gaussian_filter(x[0], 1.2, mode="nearest", radius=4)
    assert np.abs(smooth(torch.from_numpy(x), 1.2)[0].numpy() - told).max() < 1e-5
    ramp = torch.arange(24.0).expand(1, 5, 24)
    assert torch.equal(thicken(ramp, 1.0), ramp)
    assert torch.allclose(thicken(ramp, 3.0)[..., 1:-1], ramp[..., 1:-1], atol=1e-5)
    alternating = torch.tensor([1.0, -1.0]).repeat(12).expand(1, 5, 24)
    assert thicken(alternating, 2.0).abs().max() < 1e-6


def test_inversion_exchanges_the_ends():
    x = torch.rand(1, 6, 6)
    seen = Intensity(**OFF, invert=1.0).apply(x, np.random.default_rng(0))
    assert torch.allclose(seen, x.min() + x.max() - x, atol=1e-6)


def test_every_change_happens_as_often_as_asked():
    x = torch.rand(1, 4, 4)
    change = Intensity(**{**OFF, "noise": 0.5}, p=0.25)
    share = np.mean([not torch.equal(change.apply(x, np.random.default_rng(seed)), x) for seed in range(800)])
    assert share == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize(("key", "modality"), [("invert", "CT"), ("rician", "DX"), ("level_hu", "MR"), ("width", "MR")])
def test_a_change_of_another_modality_is_refused(key, modality):
    with pytest.raises(UserError, match=f"views.intensity.{key}"):
        Intensity(**{key: 0.5}).check([modality])


@pytest.mark.parametrize(
    "wrong", [{"p": 1.5}, {"invert": -1.0}, {"looks": -1.0}, {"width": 1.0}, {"thick": 0.5}, {"hu": 0.0}]
)
def test_impossible_amplitudes_are_refused(wrong):
    with pytest.raises(UserError, match=f"views.intensity.{next(iter(wrong))}"):
        Intensity(**wrong)
