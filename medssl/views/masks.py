"""Which cells of a trunk's grid are hidden. True means hidden."""

from __future__ import annotations

import torch


def random_mask(
    batch: int, grid: tuple[int, ...], ratio: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Mask (B, *grid), True in exactly round(ratio * cells) random cells of each row, at least one hidden and one seen."""
    cells = int(torch.tensor(grid).prod())
    hidden = min(max(round(ratio * cells), 1), cells - 1)
    order = torch.rand(batch, cells, generator=generator).argsort(dim=1)
    return (order < hidden).reshape(batch, *grid)


def spread(mask: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """The mask (B, *grid) as voxels (B, 1, *size); every cell covers a block. `size` is a multiple of the grid."""
    for axis, (cells, voxels) in enumerate(zip(mask.shape[1:], size, strict=True)):
        if voxels % cells:
            raise ValueError(f"axis {axis}: {voxels} voxels do not divide into {cells} cells; change views.size")
        mask = mask.repeat_interleave(voxels // cells, dim=axis + 1)
    return mask[:, None]
