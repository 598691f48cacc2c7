import numpy as np
import pytest
import torch

from medssl.errors import UserError
from medssl.views.intensity import BY_MODALITY
from medssl.views.masks import Masking, spread, strangers

KINDS = ["random", "block", "cluster", "plane"]


def noise(rows, size):
    return torch.randn(rows, 1, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(16, 20), (12, 16, 20)], ids=["2D", "3D"])
@pytest.mark.parametrize("ratio", [0.01, 0.25, 0.6, 0.99])
@pytest.mark.parametrize("kind", KINDS)
def test_every_row_hides_the_same_share(kind, size, ratio):
    torch.manual_seed(0)
    mask = Masking(kind=kind, ratio=ratio).draw(noise(7, size), (4,) * len(size))
    assert mask.shape == (7, *(n // 4 for n in size))
    hidden = mask.flatten(1).sum(1)
    cells = mask[0].numel()
    assert (hidden == hidden[0]).all()
    assert 0 < hidden[0] < cells
    assert abs(hidden[0].item() - ratio * cells) <= 1
    assert not torch.equal(mask[0], mask[1]) or hidden[0] == 1


@pytest.mark.parametrize(
    ("cells", "ratio", "seen", "left"),
    [(49, 0.6, "rounded", 20), (27, 0.6, "rounded", 11), (343, 0.6, "rounded", 137), (196, 0.9, "floor", 19),
     (196, 0.75, "floor", 49), (10, 0.9, "floor", 1)],
)  # fmt: skip
def test_the_cells_left_are_those_of_the_papers(cells, ratio, seen, left):
    """SparK rounds (its released code: 20 of 7 x 7), MAE takes the floor (19 and 49 of 196)."""
    assert cells - Masking(ratio=ratio, seen=seen).count(cells) == left


@pytest.mark.parametrize(("kind", "least"), [("block", 1.4), ("cluster", 1.3), ("plane", 1.4)])
def test_hidden_cells_lie_together(kind, least):
    """How often the neighbour of a hidden cell is hidden too, against masks of single cells."""

    def together(masking):
        torch.manual_seed(1)
        mask = masking.draw(noise(64, (32, 32)), (2, 2)).float()
        return (mask[:, 1:] * mask[:, :-1]).mean() + (mask[:, :, 1:] * mask[:, :, :-1]).mean()

    assert together(Masking(kind=kind, ratio=0.4, extent=3)) > least * together(Masking(ratio=0.4))


def test_planes_are_whole():
    torch.manual_seed(2)
    mask = Masking(kind="plane", ratio=0.5, extent=1, axis=2).draw(noise(5, (8, 8, 16)), (2, 2, 2))
    assert torch.equal(mask, mask[:, :1, :1].expand_as(mask))
    with pytest.raises(UserError, match=r"method\.mask\.axis: 2, but views have 2 axes"):
        Masking(kind="plane", axis=2).draw(noise(5, (8, 8)), (2, 2))


def test_air_is_hidden_last():
    x = torch.full((3, 1, 16, 16), -1.0)
    x[:, :, :8] = noise(3, (8, 16))
    torch.manual_seed(3)
    few = Masking(ratio=0.25, tissue=True).draw(x, (2, 2))
    assert not few[:, 4:].any() and few[:, :4].sum(dim=(1, 2)).eq(16).all()
    many = Masking(ratio=0.75, tissue=True).draw(x, (2, 2))
    assert many[:, :4].all() and many[:, 4:].sum(dim=(1, 2)).eq(16).all()


@pytest.mark.parametrize("modality", sorted(BY_MODALITY))
@pytest.mark.parametrize("size", [(64, 64), (32, 32, 16)], ids=["2D", "3D"])
def test_air_is_hidden_last_whatever_scanners_do_to_it(size, modality, rng):
    """A quarter of the cells is a textured organ, the others are air, before a modality's own changes."""
    views = []
    for number in range(8):
        x = torch.full((1, *size), -1.0 if modality == "CT" else 0.0)
        part = (slice(None), slice(0, size[0] // 2), slice(0, size[1] // 2))
        x[part] = 1 + 0.3 * noise(1, tuple(x[part].shape[1:]))[0]
        views.append(BY_MODALITY[modality].apply(x, np.random.default_rng(number)))
    torch.manual_seed(0)
    hidden = Masking(ratio=0.2, tissue=True).draw(torch.stack(views), (8,) * len(size))
    organ = torch.zeros_like(hidden)
    organ[:, : hidden.shape[1] // 2, : hidden.shape[2] // 2] = True
    assert (hidden & ~organ).sum() <= 0.02 * hidden.sum()


def test_where_all_is_tissue_any_of_it_is_hidden():
    torch.manual_seed(0)
    x = 5 + noise(400, (16, 16))
    hidden = Masking(ratio=0.5, tissue=True).draw(x, (4, 4)).float().mean(0)
    assert hidden.min() > 0.3 and hidden.max() < 0.7


def test_a_view_of_one_cell_is_refused():
    with pytest.raises(UserError, match=r"views\.size: \(8, 8\) is one cell of \(8, 8\) voxels"):
        Masking().draw(noise(2, (8, 8)), (8, 8))


@pytest.mark.parametrize("wrong", [{"ratio": 0.0}, {"ratio": 1.0}, {"extent": 0}])
def test_a_mask_that_cannot_be(wrong):
    with pytest.raises(UserError, match=r"method\.mask\."):
        Masking(**wrong)


def test_spread_is_a_block_for_each_cell():
    mask = torch.zeros(1, 2, 3, dtype=torch.bool)
    mask[0, 1, 2] = True
    voxels = spread(mask, (4, 9))
    slow = torch.tensor([[i // 2 == 1 and j // 3 == 2 for j in range(9)] for i in range(4)])
    assert torch.equal(voxels[0, 0], slow)


def test_a_grid_that_does_not_tile_is_refused():
    with pytest.raises(ValueError, match="axis 1"):
        spread(torch.zeros(1, 2, 3, dtype=torch.bool), (4, 8))


def test_strangers_are_of_other_patients_and_of_any_of_them():
    torch.manual_seed(0)
    patient = torch.tensor([0, 0, 1, 2, 2])
    drawn = torch.stack([strangers(patient) for _ in range(200)])
    assert (patient[drawn] != patient).all()
    assert all(set(drawn[:, n].tolist()) == set(range(5)) - set(patient.eq(patient[n]).nonzero().flatten().tolist())
               for n in range(5))  # fmt: skip
    assert strangers(torch.tensor([3, 3])).tolist() == [1, 0]
    with pytest.raises(UserError, match=r"pretrain\.batch: 1, but the method shows each scan another"):
        strangers(torch.tensor([3]))
