"""Maps against closed forms."""

import math

import pytest
import torch

from medssl.explain.maps import eigen_cam, grad_cam, scaled


def test_grad_cam_of_a_mean_and_a_line():
    activations = torch.tensor([[1.0, 2, 3], [3, 2, 1]], requires_grad=True)
    logit = (torch.tensor([2.0, -1]) * activations.mean(1)).sum()
    slopes = torch.autograd.grad(logit, activations)[0]
    assert torch.allclose(slopes.mean(1), torch.tensor([2 / 3, -1 / 3]))
    found = grad_cam(activations.detach(), slopes)
    assert torch.allclose(found, torch.tensor([0, 2 / 3, 5 / 3]))
    assert torch.allclose(scaled(found), torch.tensor([0, 0.4, 1]))


def test_eigen_cam_of_two_channels_in_line():
    activations = torch.tensor([[1.0, 2, 3], [2, 4, 6]])
    root = math.sqrt(5)
    assert torch.allclose(eigen_cam(activations), root * torch.tensor([1.0, 2, 3]))
    centred = eigen_cam(activations, centred=True)
    assert torch.allclose(centred.abs(), torch.tensor([root, 0, root]), atol=1e-6)
    assert torch.allclose(centred.sum(), torch.zeros(()), atol=1e-6)


@pytest.mark.parametrize("centred", [False, True])
def test_eigen_cam_does_not_depend_on_the_order_or_the_sign_of_channels(centred):
    torch.manual_seed(0)
    activations = torch.randn(6, 3, 4, 5) + 0.5
    found = eigen_cam(activations, centred=centred)
    signs = torch.tensor([1.0, -1, -1, 1, -1, 1]).view(-1, 1, 1, 1)
    assert torch.allclose(found, eigen_cam(activations[torch.randperm(6)], centred=centred), atol=1e-5)
    assert torch.allclose(found, eigen_cam(activations * signs, centred=centred), atol=1e-5)


@pytest.mark.parametrize("centred", [False, True])
def test_eigen_cam_is_the_first_right_singular_vector(centred):
    torch.manual_seed(1)
    activations = torch.randn(5, 7, 6)
    rows = activations.flatten(1).T
    rows = rows - rows.mean(0) if centred else rows
    first = torch.linalg.svd(rows, full_matrices=False)[2][0]
    wanted = (rows @ first).view(7, 6)
    found = eigen_cam(activations, centred=centred)
    assert torch.allclose(found, wanted, atol=1e-4) or torch.allclose(found, -wanted, atol=1e-4)
    assert found.max() >= -found.min()


@pytest.mark.parametrize("way", ["grad", "eigen"])
def test_a_volume_of_one_slice_is_a_picture(way):
    torch.manual_seed(2)
    activations, slopes = torch.randn(4, 6, 5), torch.randn(4, 6, 5)
    flat, deep = ((a, s) for a, s in ((activations, slopes), (activations[..., None], slopes[..., None])))
    make = grad_cam if way == "grad" else lambda a, _: eigen_cam(a)
    assert torch.allclose(make(*flat), make(*deep)[..., 0], atol=1e-5)


def test_a_flat_map_is_zeros():
    assert not scaled(torch.full((3, 4), 2.0)).any()
    assert not scaled(torch.full((3, 4), -2.0)).any()
    assert not scaled(torch.zeros(3, 4)).any()
    assert not grad_cam(torch.ones(2, 3), torch.zeros(2, 3)).any()
