"""A trunk tried in every way: what each way learns from, and that frozen is frozen."""

import numpy as np
import pandas as pd
import pytest

from medssl.errors import UserError
from medssl.predict import predict
from medssl.protocol import line, protocol, votes
from medssl.recipe import read_recipe
from medssl.train import pretrain


@pytest.fixture(scope="module")
def tried(balls, tmp_path_factory):
    folder = tmp_path_factory.mktemp("protocol")
    recipe = read_recipe(
        balls / "recipe.yaml", ["pretrain.steps=2", "finetune.steps=2", "head={name: classify, label: big}"]
    )
    trunk = pretrain(recipe, balls / "store", folder / "trunk")
    lines = list(protocol(recipe, balls / "store", trunk, folder / "out", shots=[2]))
    return recipe, trunk, folder / "out", lines


def test_every_way_has_its_row_its_predictions_and_a_place_in_the_picture(tried):
    _, _, folder, lines = tried
    table = pd.read_csv(folder / "protocol.csv").set_index("way")
    assert len(lines) == len(table) + 1 == 9
    assert table["value"].between(0, 1).all() and (table["low"] <= table["value"]).all()
    for way in table.index:
        found = pd.read_parquet(folder / way.replace(" ", "-").replace(",", "") / "predictions.parquet")
        assert set(found["split"]) == {"test"} and found["score"].between(0, 1).all()
    moving = table["moving_weights"]
    assert (moving[["nearest neighbours", "a line", "a line, 2 patients a class"]] == 0).all()
    assert 0 < moving["frozen trunk"] < moving["biases and norms"] < moving["end to end"]
    assert moving["frozen trunk"] < moving["low rank"]  # of a trunk as small as this one it may be more than all
    assert moving["end to end"] == moving["from scratch"]
    assert table.loc["a line, 2 patients a class", "labelled_patients"] == 4
    assert (folder / "protocol.svg").read_text().count("<svg") == 1


def test_the_end_to_end_row_is_what_predict_says_of_its_run(tried, balls):
    _, _, folder, _ = tried
    again = predict(folder / "end-to-end", balls / "store", folder / "again.parquet", splits=["test"])
    pd.testing.assert_series_equal(
        again["score"], pd.read_parquet(folder / "end-to-end" / "predictions.parquet")["score"]
    )


def test_too_many_shots_and_other_heads_are_refused(tried, balls, tmp_path):
    recipe, trunk, _, _ = tried
    with pytest.raises(UserError, match=r"shots: 99 patients of each class, but the training split has"):
        list(protocol(recipe, balls / "store", trunk, tmp_path / "a", shots=[99]))
    with pytest.raises(UserError, match=r"head\.name: detect; the protocol is of classify and of segment"):
        list(protocol(recipe | {"head": {"name": "detect"}}, balls / "store", trunk, tmp_path / "b"))
    told = {"head": {"name": "classify", "label": "big", "covariates": ["age_years"]}}
    with pytest.raises(UserError, match=r"head\.covariates: neighbours and lines are asked of images alone"):
        list(protocol(recipe | told, balls / "store", trunk, tmp_path / "c"))


def test_votes_are_what_a_loop_over_cosines_gives(rng):
    bank, asked, labels = rng.normal(size=(12, 3)), rng.normal(size=(4, 3)), np.tile([0, 1, 1], 4)
    for one, found in zip(asked, votes(bank, labels, asked, k=5), strict=True):
        cosine = np.array([b @ one / np.linalg.norm(b) / np.linalg.norm(one) for b in bank])
        near = np.argsort(-cosine)[:5]
        weight = np.exp((cosine[near] - 1) / 0.07)
        assert found == pytest.approx((weight * labels[near]).sum() / weight.sum())


def test_a_line_tells_what_a_line_can_tell(rng):
    x = rng.normal(size=(200, 4))
    labels = (x[:, 0] - x[:, 2] > 0).astype(int)
    score = line(x[:150], labels[:150], x[150:], 1.0)
    assert ((score > 0.5) == (labels[150:] == 1)).mean() > 0.9
