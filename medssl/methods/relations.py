"""Losses of who is a positive to whom, and who may not be a negative: boolean matrices over the rows of a step (pairs.py).

Contrastive pretraining learns the scanner if it may: telling two scans apart by their scanner is easy and useless.
Taking negatives from the same scanner only removes that clue (the idea of G-SimCLR, arXiv:2009.12007, turned round).
"""

from __future__ import annotations

import torch
from torch.nn import functional


def same(values: torch.Tensor) -> torch.Tensor:
    """Matrix (R, R), True where two rows share a value."""
    return values[:, None] == values[None, :]


def info_nce(z: torch.Tensor, positive: torch.Tensor, ignore: torch.Tensor, temperature: float) -> torch.Tensor:
    """`info_nce_between` rows of the same z (R, E)."""
    return info_nce_between(z, z, positive, ignore, temperature)


def info_nce_between(
    queries: torch.Tensor,
    keys: torch.Tensor,
    positive: torch.Tensor,
    ignore: torch.Tensor,
    temperature: float,
    harder: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over queries (Q, E) and their positives among keys (K, E) of -log softmax similarity; none need be normalised.

    van den Oord et al., arXiv:1807.03748; several positives averaged outside the logarithm as in Khosla et al., NeurIPS
    2020, arXiv:2004.11362. `harder` (Q, N, E) are further negatives of each query, zero vectors for none. A query without
    a positive is left out; without any such query the loss is 0 and has no gradient.
    """
    with torch.autocast(
        queries.device.type, enabled=False
    ):  # three digits of bfloat16 are too few at a low temperature
        q, k = (functional.normalize(x.float(), dim=1) for x in (queries, keys))
        logits = (q @ k.T / temperature).masked_fill(ignore, float("-inf"))
        told = positive.any(1)
        if not told.any():
            return q.sum() * 0
        among = logits
        if harder is not None:
            extra = torch.einsum("qe,qne->qn", q, harder.float()) / temperature
            among = torch.cat([logits, extra.masked_fill(~harder.any(2), float("-inf"))], 1)
        log_share = logits[told] - among[told].logsumexp(1, keepdim=True)
    wanted = positive[told]
    return -(log_share.masked_fill(~wanted, 0).sum(1) / wanted.sum(1)).mean()


def pairwise_nce(z: torch.Tensor, positive: torch.Tensor, ignore: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean over pairs of rows (R, E) that are positive of -log e^s / (e^s + sum over negatives e^s'), s the similarity.

    As `info_nce`, but the other positives of a row are not among its negatives (Chaitanya et al., arXiv:2006.10511). Of
    several sets of rows (..., R, E), each by itself and all related alike, the mean.
    """
    with torch.autocast(z.device.type, enabled=False):
        z = functional.normalize(z.float(), dim=-1)
        logits = z @ z.mT / temperature
        if not positive.any():
            return z.sum() * 0
        negative = logits.masked_fill(ignore | positive, float("-inf")).logsumexp(-1, keepdim=True)
        return functional.softplus(negative - logits)[..., positive].mean()
