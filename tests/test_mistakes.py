"""Pictures of the worst segmentations: which, where they are cut, and that both outlines are on them."""

import io

import numpy as np
import pytest
from PIL import Image

from medssl import mistakes
from medssl.mistakes import Worst, draw, largest_mistake, surroundings, title_of

ONE = {"dice_gland": 0.5, "dice_mean": 0.5, "hd95_gland": 3.0, "hd95_mean": 3.0}


def scan(shape=(20, 18, 12)):
    truth, found = np.zeros((2, *shape), np.uint8)
    truth[4:10, 4:10, 3:8] = 1
    found[5:10, 4:10, 3:8] = 1  # a rim of one voxel is missed
    found[13:17, 12:16, 5:9] = 1  # a lump is invented
    return np.random.default_rng(0).normal(size=shape), truth, found


def colours(png):
    """How many pixels are light and yellow, and how many dark and purple."""
    red, green, blue = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int).transpose(2, 0, 1)
    return int(((red > 200) & (green > 180) & (blue < 140)).sum()), int(((red > 160) & (green < 60)).sum())


def test_the_planes_pass_through_the_lump_and_not_through_the_rim():
    _, truth, found = scan()
    place = largest_mistake(truth, found, (1, 1, 1))
    assert found[place] == 1
    assert truth[place] == 0
    assert place[0] > 12
    assert truth[largest_mistake(truth, truth, (1, 1, 1))] == 1
    assert largest_mistake(truth * 0, truth * 0, (1, 1, 1)) == (10, 9, 6)
    # Nine voxels of 0.1 mm are a thinner mistake than three of 1 mm; a whole slice that is wrong has a depth too.
    wrong = np.zeros((20, 20, 20), np.uint8)
    wrong[1:10, 1:10, 1:10], wrong[12:15, 12:15, 12:15] = 1, 1
    assert largest_mistake(wrong * 0, wrong, (1, 1, 1)) == (5, 5, 5)
    plane = largest_mistake(truth[:, :, 5:6], found[:, :, 5:6], (1, 1, 1))
    assert plane[0] > 12
    assert plane[2] == 0


def test_what_is_shown_is_around_the_structures_and_within_the_volume():
    mask = np.zeros((30, 30, 1), bool)
    mask[10:14, 0:5] = True
    assert surroundings(mask) == [(5.5, 17.5), (-0.5, 9.5), (-0.5, 0.5)]
    assert surroundings(mask & False) == [(-0.5, 29.5), (-0.5, 29.5), (-0.5, 0.5)]


@pytest.mark.parametrize("planes", [slice(None), slice(5, 6)], ids=["volume", "plane"])
def test_both_outlines_are_drawn_in_colours_that_differ_in_grey(planes):
    image, truth, found = (values[:, :, planes] for values in scan())
    both, nothing = (colours(draw(image, *pair, (1, 1, 2), "c")) for pair in ((truth, found), (truth * 0, truth * 0)))
    assert both[0] > nothing[0] + 50
    assert both[1] > nothing[1] + 50
    light, dark = (
        np.dot([int(style["colors"][k : k + 2], 16) for k in (1, 3, 5)], [0.299, 0.587, 0.114])
        for style in (mistakes.REFERENCE, mistakes.FOUND)
    )
    assert light - dark > 100
    whole = np.ones_like(truth)
    assert draw(image * 0, whole, found, (1, 1, 2), "a label everywhere, on an image of one value")


def test_the_worst_are_kept_and_numbered_and_those_of_before_are_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(mistakes, "MOST_PICTURES", 3)
    (tmp_path / "worst_09_old.png").write_bytes(b"of another model")
    (tmp_path / "mine.png").write_bytes(b"of the user")
    image, truth, found = scan()
    worst = Worst()
    given = {"a": (0.9, 1), "b": (0.1, 9), "c": (0.5, 2), "d": (0.0, 20), "e": (0.0, 50), "f": (np.nan, np.nan)}
    for case, (dice, far) in given.items():
        worst.show(case, image, (truth, found), {"dice_mean": dice, "hd95_mean": far}, (1, 1, 1))
    paths = worst.save(tmp_path)
    assert [path.name for path in paths] == ["worst_01_e.png", "worst_02_d.png", "worst_03_b.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.png", *(path.name for path in paths)]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_the_title_has_the_case_and_the_worst_structures():
    assert title_of("v1", ONE) == "v1\ngland: Dice 0.50, HD95 3.0 mm"
    many = {f"dice_{name}": value for name, value in zip("abcde", (0.9, 0.2, np.nan, 0.8, 0.1), strict=True)}
    many |= {f"hd95_{name}": 1.0 for name in "abcde"} | {"dice_mean": 0.5, "hd95_mean": 1.0}
    assert [line.split(":")[0] for line in title_of("v1", many).split("\n")] == ["v1", "mean", "e", "b", "d"]
