"""How many directions a space of features uses, and whether a trunk's filters are alive. No labels are needed."""

from __future__ import annotations

import numpy as np

TINY = 1e-7
"""Added to each singular value's share, as in RankMe."""

DEAD = 1e-3
"""A filter whose norm is below this share of its layer's median does nothing."""


def rank_me(features: np.ndarray) -> float:
    """The effective rank of features (N, E): exp of the entropy of their singular values' shares, from 1 to min(N, E).

    Garrido et al., ICML 2023, arXiv:2210.02885. Differs: the mean is taken off first, so that features which are all the
    same have rank 1 whatever their length. Of no spread at all it is 1.
    """
    return _effective(spectrum(features))


def spectrum(features: np.ndarray) -> np.ndarray:
    """The singular values of features (N, E) less their mean, from the largest."""
    return np.linalg.svd(features - features.mean(0), compute_uv=False)


def sphere_rank(vectors: np.ndarray) -> float:
    """The effective rank of the directions of vectors (N, E), their mean left in: about 1 where all point the same way.

    What a loss compares are directions. Of vectors that are one direction and a little noise, `rank_me` would see the noise.
    """
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return _effective(np.linalg.svd(vectors / np.maximum(length, 1e-12), compute_uv=False))


def _effective(values: np.ndarray) -> float:
    if not values.sum() > 0:
        return 1.0
    share = values / values.sum() + TINY
    return float(np.exp(-(share * np.log(share)).sum()))


def dead_filters(weight: np.ndarray) -> float:
    """The share of filters (out, ...) whose norm is nearly nothing beside the others of their layer."""
    norms = np.linalg.norm(weight.reshape(len(weight), -1), axis=1)
    return float((norms <= DEAD * np.median(norms)).mean()) if np.median(norms) > 0 else float((norms == 0).mean())


def variety(weight: np.ndarray, seed: int = 0) -> float:
    """How many shapes the kernels (out, in, *k) of a layer have, against random ones of the same number: about 1 for
    random kernels, small where all are mixtures of a few.

    The entropy of their principal components' variances, after Gavrikov and Keuper, CVPR 2022, arXiv:2203.15331. Differs:
    divided by that of normal noise of the same shape, which serves kernels of any size.
    """
    kernels = weight.reshape(-1, int(np.prod(weight.shape[2:])))
    noise = np.random.default_rng(seed).standard_normal(kernels.shape)
    return _entropy(kernels) / _entropy(noise) if kernels.shape[1] > 1 else 1.0


def _entropy(kernels: np.ndarray) -> float:
    variance = np.linalg.svd(kernels - kernels.mean(0), compute_uv=False) ** 2
    if not variance.sum() > 0:
        return 0.0
    share = variance[variance > 0] / variance.sum()
    return float(-(share * np.log(share)).sum())
