"""Lesion candidates against the organisers' own extraction."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medssl.errors import UserError
from medssl.heads.candidates import candidates


def specks_hide_lesions():
    """A plateau of 48 voxels at .3 with one of .9 in it, one at .5, and a lone voxel of .95."""
    found = np.zeros((6, 20, 20))
    found[1:4, 2:6, 2:6] = 0.3
    found[2, 3, 3] = 0.9
    found[1:4, 12:16, 12:16] = 0.5
    found[5, 18, 2] = 0.95
    return found


def values(found):
    return {float(value): int((found == value).sum()) for value in np.unique(found[found > 0])}


def test_specks_do_not_hide_what_lies_below_them():
    assert values(candidates(specks_hide_lesions())) == {0.5: 48, 0.3: 47}
    assert values(candidates(specks_hide_lesions(), 0.1)) == {0.9: 48, 0.5: 48}


@pytest.mark.parametrize(("ours", "theirs"), [("dynamic", "dynamic-v2"), ("dynamic-fast", "dynamic-fast"), (0.3, 0.3)])
def test_generated_maps_have_the_candidates_that_their_authors_find(ours, theirs):
    author = pytest.importorskip("report_guided_annotation", reason="pip install report-guided-annotation")
    for seed in range(60):
        rng = np.random.default_rng(seed)
        smooth = gaussian_filter(rng.normal(size=(8, 24, 24)), rng.uniform(0.7, 2))
        probability = 1 / (1 + np.exp(-rng.uniform(2, 6) * (smooth / smooth.std() - rng.uniform(0, 2.5))))
        wanted, _, _ = author.extract_lesion_candidates(probability, threshold=theirs)
        assert np.allclose(candidates(probability, ours), wanted, atol=1e-6 if ours == "dynamic" else 6e-5)


def test_nothing_gives_nothing():
    empty = np.zeros((4, 5, 6))
    for by in ("dynamic", "dynamic-fast", 0.5):
        assert not candidates(empty, by).any()


def test_logits_are_refused():
    with pytest.raises(UserError, match="from -2 to 3"):
        candidates(np.array([[[-2.0, 3.0]]]))
