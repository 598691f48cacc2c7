"""What was seen in the last steps, first in, first out. It is part of the checkpoint: a resumed run is the same run."""

from __future__ import annotations

import torch
from torch import nn


class Queue(nn.Module):
    """The last `length` vectors of `width` numbers, each with the same few facts about its scan."""

    vectors: torch.Tensor
    facts: torch.Tensor
    added: torch.Tensor

    def __init__(self, length: int, width: int, facts: int = 0) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(length, width))
        self.register_buffer("facts", torch.zeros(length, facts, dtype=torch.float64))
        self.register_buffer("added", torch.zeros((), dtype=torch.int64))

    def content(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors (n, width) and facts (n, facts), n <= length; fewer in the first steps."""
        n = min(int(self.added), len(self.vectors))
        return self.vectors[:n], self.facts[:n]

    @torch.no_grad()
    def add(self, vectors: torch.Tensor, facts: torch.Tensor) -> None:
        """Nothing; the vectors took the places of the oldest ones."""
        length = len(self.vectors)
        if length == 0:
            return
        vectors, facts = vectors[-length:], facts[-length:]
        place = (int(self.added) + torch.arange(len(vectors), device=vectors.device)) % length
        self.vectors[place] = vectors.to(self.vectors.dtype)
        self.facts[place] = facts.to(torch.float64)
        self.added += len(vectors)
