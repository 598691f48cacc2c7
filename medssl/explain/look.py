"""What an answer came from, on a scan's own grid: the map of its view brought back, and what may be believed of it."""

# B batch, C channels, *S voxels or cells
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional

from medssl.explain.maps import eigen_cam, grad_cam, scaled
from medssl.heads import Classify, Detect, Forecast, Present
from medssl.learners import Supervised
from medssl.learners.supervised import visits_there
from medssl.trunks import Features
from medssl.views.history import NOTHING, Told

Way = Literal["grad-cam", "eigen-cam"]

DRAWS, SHAKE = 4, 0.05
"""How often noise is added to a view, and how much: a share of the view's standard deviation."""


def look(model: Supervised, view: torch.Tensor, by: Way, structure: int = 0, *, told: Told = NOTHING) -> torch.Tensor:
    """The map (*S) of a view (1, C, *S) from 0 to 1; zeros where nothing stands out. The model must be in eval mode.

    Of a series (1, T, C, *S) it is of the last visit, given the others.

    Of a classifier it is of its logit; of a segmentation of the logits of `structure` (its number; 0: all of them) where
    that is what it finds, zeros where it finds none (Vinogradova et al., AAAI 2020, arXiv:2002.11434). By cells of the
    trunk's coarsest level, then interpolated.
    """
    visits = visits_there(view, told)  # the last is that of which the map is
    size = tuple(visits.shape[2:])
    with torch.no_grad():
        features = model.trunk(visits)
    coarse = features.pyramid[-1].float()
    if by == "eigen-cam":
        return _on_voxels(scaled(eigen_cam(coarse[-1])), size)
    with torch.enable_grad():
        coarse = coarse.requires_grad_(True)
        # Every trunk pools its coarsest level by the mean: written out, the slope passes through all that the head uses.
        logits = model.read(Features((*features.pyramid[:-1], coarse), coarse.flatten(2).mean(2)), size, told)
        (slopes,) = torch.autograd.grad(_asked(model, logits, structure), coarse)
    return _on_voxels(scaled(grad_cam(coarse[-1].detach(), slopes[-1])), size)


def _asked(model: Supervised, logits: torch.Tensor, structure: int) -> torch.Tensor:
    if isinstance(model.head, Classify | Forecast | Present):
        return logits.sum()
    if isinstance(model.head, Detect):
        return (logits * (logits > 0)).sum()
    found = logits.argmax(1)
    if structure:
        return (logits[:, structure] * (found == structure)).sum()
    return (logits.amax(1) * (found > 0)).sum()


def _on_voxels(cells: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    mode = "trilinear" if len(size) == 3 else "bilinear"
    return functional.interpolate(cells[None, None], size=size, mode=mode, align_corners=False)[0, 0]


@dataclass(frozen=True)
class Belief:
    """What may be believed of a map. Numbers are nan where they mean nothing.

    `stable` is its rank correlation with maps of the view with some noise (the mean), `learned` that with the map of the
    same network with random weights: near 1, the map shows the picture and not what was learned (Adebayo et al., NeurIPS
    2018, arXiv:1810.03292). Where a mask says what is to be found: `hit`, whether the map's highest voxel lies in it
    (pointing game: Zhang et al., IJCV 2018, arXiv:1608.00507), `inside`, the share of the map's sum in it, and `chance`,
    its share of the voxels.
    """

    stable: float
    learned: float
    hit: float
    inside: float
    chance: float


def believe(
    model: Supervised, view: torch.Tensor, by: Way, seed: int = 0, *, told: Told = NOTHING
) -> tuple[float, float]:
    """`stable` and `learned` of a view's map (see Belief). `model` is as it was afterwards."""
    found = look(model, view, by, told=told)
    generator = torch.Generator().manual_seed(seed)
    noise = [torch.randn(view.shape, generator=generator).to(view) for _ in range(DRAWS)]
    shaken = [look(model, view + SHAKE * view.std() * one, by, told=told) for one in noise]
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            _forget(model)
        unlearned = look(model, view, by, told=told)
    finally:
        model.load_state_dict(kept)
    return float(np.mean([alike(found, one) for one in shaken])), alike(found, unlearned)


def _forget(model: nn.Module) -> None:
    """Nothing; every weight with directions is drawn anew, of the spread that it had."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.copy_(torch.randn(parameter.shape).to(parameter) * parameter.std())


def alike(a: torch.Tensor, b: torch.Tensor) -> float:
    """Spearman's rank correlation of two maps; nan where one is flat."""
    one, other = (x.flatten().cpu().numpy() for x in (a, b))
    if one.min() == one.max() or other.min() == other.max():
        return float("nan")
    return float(spearmanr(one, other).statistic)


def against(found: np.ndarray, mask: np.ndarray) -> tuple[float, float, float]:
    """`hit`, `inside` and `chance` of a map and a mask on one grid (see Belief); nan of an empty mask or a flat map."""
    there = mask > 0
    if not there.any() or not found.sum() > 0:
        return float("nan"), float("nan"), float("nan")
    return float(there.flat[found.argmax()]), float(found[there].sum() / found.sum()), float(there.mean())
