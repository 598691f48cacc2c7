"""Volumes of several channels: chosen for a trunk that takes as many, cut channel by channel."""

import numpy as np
import pytest

from medssl.adapt import finetune
from medssl.errors import UserError
from medssl.recipe import read_recipe
from medssl.store import open_store
from medssl.train import pretrain
from medssl.views.geometry import sample
from medssl.views.select import build_views, select


def test_beyond_the_volume_each_channel_has_its_own_lowest_value():
    box = np.stack([np.full((2, 2, 2), 5.0), np.full((2, 2, 2), -3.0)])
    box[:, 0] += 1
    shift = np.eye(4)
    shift[0, 3] = 10
    assert sample(box, shift, (1, 1, 1)).ravel().tolist() == [5.0, -3.0]


@pytest.mark.parametrize("train", [pretrain, finetune])
def test_a_trunk_of_other_channels_is_refused(balls, tmp_path, train):
    recipe = read_recipe(balls / "recipe.yaml", ["trunk.channels=3"])
    with pytest.raises(UserError, match=r"trunk.channels: 3, but the volumes chosen have 1; set it"):
        train(recipe, balls / "store", tmp_path / "run")


def test_volumes_of_mixed_channels_are_refused(balls):
    store = open_store(balls / "store")
    assert len(select(store, {}, split="train", channels=1)) == len(select(store, {}, split="train"))
    store.volumes.loc[store.volumes["split"] == "train", "channels"] = [
        3,
        *[1] * (sum(store.volumes["split"] == "train") - 1),
    ]
    with pytest.raises(UserError, match="have 1 and 3"):
        select(store, {}, split="train", channels=1)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"count": "two"}, r"views\.count: cannot read 'two' as int"),
        ({"cuont": "2"}, r"views\.cuont: views has no such setting; did you mean 'count'"),
        ({"smal": {"size": ["4", "4"]}}, r"views\.smal: .* did you mean 'small'"),
        ({"intensty": {"noise": "1"}}, r"views\.intensty: .* did you mean 'intensity'"),
        ({"partnr": "visit"}, r"views\.partnr: .* did you mean 'partner'"),
        ({"trun": "3"}, r"views\.trun: .* did you mean 'turn'"),
        ({"small": {"size": ["4", "4"], "cuont": "3"}}, r"views\.small\.cuont: .* did you mean 'count'"),
        ({"small": {"sise": ["4", "4"]}}, r"views\.small\.sise: .* did you mean 'size'"),
        ({"count": "0"}, r"views\.count: 0 is not a positive"),
        ({"small": {"size": ["4", "4"], "count": "x"}}, r"views\.small\.count: cannot read 'x'"),
        ({"intensity": {"thick": "3"}}, r"views\.intensity\.thick: 3.0, but flat views have no slices"),
        ({"intensity": {"noise": "-1"}}, r"views\.intensity\.noise: -1.0 is negative"),
    ],
)
def test_views_that_mean_nothing_are_refused(section, message):
    with pytest.raises(UserError, match=message):
        build_views({"size": ["8", "8"], **section})
