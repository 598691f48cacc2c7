import pytest
import torch

from medssl.views.masks import random_mask, spread


@pytest.mark.parametrize("grid", [(4, 4), (3, 4, 5)])
@pytest.mark.parametrize("ratio", [0.01, 0.25, 0.6, 0.99])
def test_every_row_hides_the_same_share(grid, ratio):
    mask = random_mask(7, grid, ratio)
    hidden = mask.flatten(1).sum(1)
    cells = mask[0].numel()
    assert (hidden == hidden[0]).all()
    assert 0 < hidden[0] < cells
    assert abs(hidden[0].item() - ratio * cells) <= 1
    assert not torch.equal(mask[0], mask[1]) or cells < 10


def test_spread_is_a_block_for_each_cell():
    mask = torch.zeros(1, 2, 3, dtype=torch.bool)
    mask[0, 1, 2] = True
    voxels = spread(mask, (4, 9))
    slow = torch.tensor([[i // 2 == 1 and j // 3 == 2 for j in range(9)] for i in range(4)])
    assert torch.equal(voxels[0, 0], slow)


def test_a_grid_that_does_not_tile_is_refused():
    with pytest.raises(ValueError, match="axis 1"):
        spread(torch.zeros(1, 2, 3, dtype=torch.bool), (4, 8))
