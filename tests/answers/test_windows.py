"""Windows against MONAI's inferer, which holds everything; mirrored volumes give mirrored answers."""

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference

from medssl.answers import windows as module
from medssl.answers.windows import blended, ways, windows
from medssl.views.geometry import sample

CASES = [
    ((21, 30, 17), (8, 8, 8)),  # sizes that do not divide
    ((16, 24, 40), (8, 8, 8)),
    ((5, 6, 7), (8, 8, 8)),  # smaller than a window, by even and odd numbers of voxels
    ((5, 30, 9), (8, 12, 8)),
    ((9, 9, 9), (9, 9, 9)),
    ((30, 21, 1), (8, 12, 1)),
    ((5, 40, 1), (8, 8, 1)),
]


def image(shape, seed=0):
    """Noise that is often 0, as the rim of a volume is: the lowest value of every window."""
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed)).clamp(min=0)


def network(dims):
    """Answers in three classes that depend on a voxel's surroundings, its direction and its place in the window."""
    torch.manual_seed(1)
    conv = (torch.nn.Conv3d if dims == 3 else torch.nn.Conv2d)(2, 3, 3, padding=1)

    def answer(x):
        return torch.softmax(conv(x) + torch.linspace(0, 2, x.shape[2]).view(-1, *[1] * (dims - 1)), 1)

    return answer if dims == 3 else lambda x: answer(x[..., 0])[..., None]


def ours(volume, size, overlap, flips=(), answer=None):
    """The slabs put together, and the most planes that were given at once."""
    shape = tuple(volume.shape[1:])
    read = []

    def view(start):
        low = [max(begin, 0) for begin in start]
        high = [min(begin + width, n) for begin, width, n in zip(start, size, shape, strict=True)]
        read.append(tuple(b - a for a, b in zip(low, high, strict=True)))
        place = np.eye(4)
        place[:3, 3] = np.subtract(start, low)
        box = volume[:, *(slice(a, b) for a, b in zip(low, high, strict=True))].numpy()
        return sample(box, place, size)

    answer = answer or network(3 if size[2] > 1 else 2)
    found, seen = np.full((3, *shape), np.nan, np.float32), []
    with torch.no_grad():
        for slab in blended(view, answer, shape, size, overlap=overlap, flips=flips):
            for number in range(3):
                slab.of(found[number])[...] = slab.values[number]
            seen.append((slab.first, slab.values.shape[slab.axis + 1]))
    assert [first for first, _ in seen] == np.cumsum([0, *(n for _, n in seen)])[:-1].tolist()
    assert all(n <= width for one in read for n, width in zip(one, size, strict=True))
    return found


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.7])
@pytest.mark.parametrize(("shape", "size"), CASES, ids=str)
def test_the_result_is_that_of_monai(shape, size, overlap):
    volume, dims = image(shape), 3 if size[2] > 1 else 2
    answer = network(dims)
    with torch.no_grad():
        if dims == 3:
            wanted = sliding_window_inference(volume[None], size, 4, answer, overlap, "gaussian")
        else:
            flat = sliding_window_inference(
                volume[None, ..., 0], size[:2], 4, lambda x: answer(x[..., None])[..., 0], overlap, "gaussian"
            )
            wanted = flat[..., None]
    assert np.allclose(ours(volume, size, overlap), wanted[0].numpy(), atol=1e-6)


@pytest.mark.parametrize("flips", [(0,), (1,), (0, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize(("shape", "size"), [case for case in CASES if case[1][2] > 1], ids=str)
def test_a_mirrored_volume_gives_the_mirrored_answer(shape, size, flips):
    volume, axes = image(shape), [axis + 1 for axis in flips]
    answer, mirrored = ours(volume, size, 0.5, flips), ours(volume.flip(axes), size, 0.5, flips)
    assert np.allclose(mirrored, np.flip(answer, axes), atol=1e-5)
    alone = ours(volume, size, 0.5)
    assert not np.allclose(ours(volume.flip(axes), size, 0.5), np.flip(alone, axes), atol=1e-2)


def test_flips_are_the_mean_over_mirrored_volumes_where_windows_divide():
    volume, size = image((16, 12, 8)), (8, 8, 8)
    wanted = [np.flip(ours(volume.flip(axes), size, 0.5), axes) for axes in ([], [1], [3], [1, 3])]
    assert np.allclose(ours(volume, size, 0.5, (2, 0)), np.mean(wanted, 0), atol=1e-6)


def test_every_way_to_mirror_comes_once():
    assert ways(()) == [()]
    assert ways((2, 0, 2)) == [(), (0,), (2,), (0, 2)]
    assert len(windows((20, 20, 20), (8, 8, 8), 0.5, (0, 1))) == 4 * len(windows((20, 20, 20), (8, 8, 8), 0.5))


def test_slices_of_a_stack_are_judged_one_by_one():
    volume, size = image((10, 12, 5)), (8, 8, 1)
    whole = ours(volume, size, 0.5)
    for k in range(5):
        assert np.allclose(whole[..., k : k + 1], ours(volume[..., k : k + 1], size, 0.5), atol=1e-6)


def test_no_more_is_held_than_a_window_is_long(monkeypatch):
    """Of a volume that is long along one axis no tensor is larger than the sums of one window's length."""
    monkeypatch.setattr(module, "AT_ONCE", 3 * 8**3)
    largest, batches = [0], []

    def answer(x):
        batches.append(len(x))
        return x.expand(-1, 2, *x.shape[2:])

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest[0] = max(largest[0], out.numel())
            return out

    size, shape = (8, 8, 8), (16, 16, 400)
    with Watch():
        for _ in blended(lambda _: torch.zeros(1, *size), answer, shape, size, overlap=0.5):
            pass
    assert largest[0] == 3 * 16 * 16 * 8
    assert set(batches) <= {1, 2, 3} and batches.count(3) >= len(batches) - 1
