"""Sketches of images, and the pairs that look like copies: against every pair compared."""

from itertools import combinations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, zoom

from medssl.store.twins import COPY_CORRELATION, MAXIMUM_DISTANCE, Sketch, near_duplicates, sketch


def picture(seed, shape=(60, 70, 1)):
    return gaussian_filter(np.random.default_rng(seed).normal(0, 1, shape), (4, 4, 0))[None]


def test_the_thumbnail_is_the_mean_of_equal_pieces():
    """96 columns in 32 pieces of three, 48 rows in 32 of one and a half: means worked out the slow way."""
    image = picture(1, (96, 48, 1))
    fine = np.repeat(image[0, ..., 0], 2, axis=1).reshape(32, 3, 32, 3).mean((1, 3))
    fine -= fine.mean()
    assert sketch(image).thumbnail == pytest.approx(fine / np.linalg.norm(fine), abs=1e-6)


@pytest.mark.parametrize("shape", [(60, 70, 1), (40, 36, 24), (9, 11, 7)])
def test_a_sketch_outlives_scale_and_brightness(shape):
    image = gaussian_filter(np.random.default_rng(2).normal(0, 1, shape), [min(4, n // 3) for n in shape])[None]
    changed = 7 + 3 * zoom(image, [1, 1.3, 1.3, 1 if shape[2] == 1 else 1.3], order=1)
    first, second = sketch(image), sketch(changed)
    assert (first.bits ^ second.bits).bit_count() <= MAXIMUM_DISTANCE
    assert np.vdot(first.thumbnail, second.thumbnail) > COPY_CORRELATION
    assert 20 < first.bits.bit_count() < 44


def test_a_constant_image_has_no_sketch():
    assert sketch(np.full((1, 8, 8, 8), 3.0)) is None


def test_no_pair_is_missed_and_none_made_up():
    """Random sketches, and others a few bits away, with thumbnails that agree or do not: against all pairs compared."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(120):
        bits, thumbnail = int(rng.integers(2**63)), rng.normal(size=(4, 4))
        thumbnail /= np.linalg.norm(thumbnail)
        found.append(Sketch(bits, thumbnail.astype(np.float32)))
        for n in (2, 8, 9, 12):
            changed = bits
            for place in rng.choice(64, n, replace=False):
                changed ^= 1 << int(place)
            other = thumbnail if rng.random() < 0.7 else rng.normal(size=(4, 4))
            found.append(Sketch(changed, (other / np.linalg.norm(other)).astype(np.float32)))
    slow = {
        (a, b)
        for a, b in combinations(range(len(found)), 2)
        if bin(found[a].bits ^ found[b].bits).count("1") <= 8
        and float((found[a].thumbnail * found[b].thumbnail).sum()) >= 0.98
    }
    fast = [pair[:2] for pair in near_duplicates(found)]
    assert set(fast) == slow
    assert len(fast) == len(slow) > 100


def test_pictures_and_volumes_are_never_compared():
    flat, deep = Sketch(5, np.ones((2, 2), np.float32)), Sketch(5, np.ones((2, 2, 2), np.float32))
    assert list(near_duplicates([flat, deep])) == []
