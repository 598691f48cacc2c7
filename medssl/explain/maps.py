"""Class activation maps: which cells of a trunk's coarsest level an answer came from. In 2D and 3D alike."""

# C channels, *S cells
from __future__ import annotations

import torch

FLAT = 1e-7
"""Spread, as a share of the highest value, below which a map is flat and says nothing."""


def grad_cam(activations: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """Where channels that raise a logit are active (*S), 0 or more: relu of their sum, each weighed by its mean slope.

    `activations` and `slopes`, those of the logit by the activations, are (C, *S). Selvaraju et al., ICCV 2017,
    arXiv:1610.02391.
    """
    weights = slopes.flatten(1).mean(1)
    return torch.tensordot(weights, activations, dims=1).relu()


def eigen_cam(activations: torch.Tensor, *, centred: bool = False) -> torch.Tensor:
    """The projection (*S) of each cell's channels (C, *S) on the direction along which they are largest; signed.

    Muhammad and Yeasin, IJCNN 2020, arXiv:2008.00299. It knows no class: it shows what the trunk sees, not why it answers.
    Its sign is free: here the side that reaches further is positive. `centred` takes each channel's mean off first, as
    the pytorch-grad-cam library does and the paper does not. By an eigenvector of C x C numbers, never cells x cells.
    """
    rows = activations.flatten(1).T.double()
    rows = rows - rows.mean(0) if centred else rows
    _, directions = torch.linalg.eigh(rows.T @ rows)
    along = rows @ directions[:, -1]
    along = along if along.max() >= -along.min() else -along
    return along.view(activations.shape[1:]).to(activations.dtype)


def scaled(found: torch.Tensor) -> torch.Tensor:
    """The map's positive part from 0 to 1; zeros where it is flat."""
    found = found.clamp(min=0)
    low, high = found.min(), found.max()
    if high - low <= FLAT * high:
        return torch.zeros_like(found)
    return (found - low) / (high - low)
