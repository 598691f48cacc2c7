"""Plain vision transformer for 2D and 3D views; hidden tokens are dropped before the first block, or replaced.

Dosovitskiy et al., ICLR 2021, arXiv:2010.11929; dropping hidden tokens as in He et al., CVPR 2022, arXiv:2111.06377,
replacing them as in Bao et al., ICLR 2022, arXiv:2106.08254.
Differs: 3D patches of any shape; the pooled feature is the mean of the seen tokens, a class token is one register.
"""

# B batch, N tokens, M seen tokens, E width
from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from medssl.errors import UserError
from medssl.recipe import Count, Positive, Share, Whole
from medssl.trunks.drop_path import DropPath, rising
from medssl.trunks.features import Features
from medssl.trunks.resenc import CONV


class ViT(nn.Module):
    """Tokens of `patch` voxels through `depth` blocks; the pyramid holds the tokens after a half and all of them.

    Both levels have the patch's stride: a decoder brings them to finer grids. With a mask, `hide` "drop" leaves hidden
    tokens out, which saves time and memory, and what the pyramid holds of them is a learned value plus their position: a
    decoder has to fill it. "token" puts that value through the blocks, which fill it from what is seen. Positions are
    learned for views of `size` and interpolated for views of another.

    `registers` are learned tokens without a place, which attend and are attended to and are in no feature (Darcet et al.,
    ICLR 2024, arXiv:2309.16588); the class token of weights from elsewhere is one. `eps` is that of every norm; timm's
    and DINOv2's weights were trained with 1e-6. `drop_path` is the share of scans for which the last block is left out in
    training (see drop_path.py).
    """

    grid: torch.Tensor

    def __init__(
        self,
        *,
        size: tuple[int, ...],
        channels: Count = 1,
        patch: tuple[Count, ...] = (8, 8, 8),
        width: Count = 192,
        depth: Count = 6,
        heads: Count = 6,
        hide: Literal["drop", "token"] = "drop",
        registers: Whole = 0,
        eps: Positive = 1e-5,
        drop_path: Share = 0.0,
    ) -> None:
        super().__init__()
        if len(patch) != len(size) or any(n % p for n, p in zip(size, patch, strict=True)):
            raise UserError(f"trunk.patch: {patch} does not tile views.size {size}; each must divide its axis")
        if width % heads:
            raise UserError(f"trunk.heads: {heads} does not divide trunk.width {width}")
        self.dims, self.channels, self.dim = len(size), channels, width
        self.fills = hide == "token"
        self.cell, self.widths, self.strides = patch, (width, width), (patch, patch)
        self.kernels = ((3,) * self.dims,) * 2
        grid = tuple(n // p for n, p in zip(size, patch, strict=True))
        self.embed = CONV[self.dims](channels, width, patch, patch)
        self.place = nn.Parameter(torch.randn(1, math.prod(grid), width) * 0.02)
        self.register_buffer("grid", torch.tensor(grid))
        self.tiles = grid  # the same as numbers: an exported network may not ask a tensor what it holds
        self.register_load_state_dict_pre_hook(_fit_places)
        self.hidden = nn.Parameter(torch.zeros(width))
        self.registers = nn.Parameter(torch.randn(1, registers, width) * 0.02) if registers else None
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", eps, batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        for block, share in zip(self.blocks, rising(drop_path, depth), strict=True):
            # Where torch drops numbers of what attention and perceptron add, whole rows of it are dropped.
            block.dropout1, block.dropout2 = DropPath(share), DropPath(share)
        self.norm = nn.LayerNorm(width, eps)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> Features:
        """Features of views (B, C, *S); `mask` (B, *S / patch) hides whole tokens, equally many in each row."""
        cells = self.embed(x)
        grid = tuple(cells.shape[2:])
        place_1NE = resized(self.place, self.tiles, grid)
        x_BNE = cells.flatten(2).transpose(1, 2) + place_1NE
        seen_BM = None
        if mask is not None:
            hidden_BN = mask.flatten(1).to(x.device)
            if self.fills:
                x_BNE = torch.where(hidden_BN[..., None], (self.hidden + place_1NE).to(x_BNE.dtype), x_BNE)
            seen_BM = hidden_BN.int().argsort(dim=1, stable=True)[:, : int((~hidden_BN[0]).sum())]
            x_BNE = x_BNE if self.fills else self._of(x_BNE, seen_BM)
        placeless = 0
        if self.registers is not None:
            placeless = self.registers.shape[1]
            x_BNE = torch.cat([self.registers.expand(x_BNE.shape[0], -1, -1), x_BNE], 1)
        levels = []
        for number, block in enumerate(self.blocks, 1):
            x_BNE = block(x_BNE)
            if number == max(len(self.blocks) // 2, 1):
                levels.append(x_BNE[:, placeless:])
        x_BNE = self.norm(x_BNE[:, placeless:])
        left_BM = None if self.fills else seen_BM
        pyramid = tuple(self._as_grid(level, left_BM, grid, place_1NE) for level in (*levels, x_BNE))
        pooled = self._of(x_BNE, seen_BM) if self.fills and seen_BM is not None else x_BNE
        return Features(pyramid, pooled.mean(1))

    def _of(self, x_BNE: torch.Tensor, chosen_BM: torch.Tensor) -> torch.Tensor:
        """The chosen tokens."""
        return x_BNE.gather(1, chosen_BM[..., None].expand(-1, -1, self.dim))

    def _as_grid(
        self, x_BME: torch.Tensor, seen_BM: torch.Tensor | None, grid: tuple[int, ...], place_1NE: torch.Tensor
    ) -> torch.Tensor:
        if seen_BM is not None:
            whole = (self.hidden + place_1NE).to(x_BME.dtype).expand(len(x_BME), -1, -1)
            x_BME = whole.scatter(1, seen_BM[..., None].expand(-1, -1, self.dim), x_BME)
        return x_BME.transpose(1, 2).unflatten(2, grid)


def resized(place_1NE: torch.Tensor, before: tuple[int, ...], after: tuple[int, ...]) -> torch.Tensor:
    """Places of tokens on a grid of another size, interpolated; those of the same size are as they are."""
    if before == after:
        return place_1NE
    field = place_1NE.transpose(1, 2).unflatten(2, before)
    mode = "trilinear" if len(before) == 3 else "bilinear"
    return functional.interpolate(field, size=after, mode=mode).flatten(2).transpose(1, 2)


def _fit_places(vit: ViT, state: dict[str, torch.Tensor], prefix: str, *_: object) -> None:
    """Nothing; weights of a ViT for views of another size have places for this one."""
    place, grid = state.get(f"{prefix}place"), state.get(f"{prefix}grid")
    if place is not None and grid is not None and len(grid) == vit.dims:
        state[f"{prefix}place"] = resized(place, tuple(grid.tolist()), tuple(vit.grid.tolist()))
        state[f"{prefix}grid"] = vit.grid.clone()
