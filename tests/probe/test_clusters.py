"""Clusters of what a trunk makes of training volumes, and a second pretraining that compares by them."""

import numpy as np
import pandas as pd
import pytest
import torch

from medssl.cli import main
from medssl.errors import UserError
from medssl.methods.pairs import rows_of
from medssl.probe.clusters import cluster_numbers
from medssl.recipe import read_recipe
from medssl.runs import read_run
from medssl.store import open_store
from medssl.train import plan, pretrain


def test_directions_that_lie_together_are_one_cluster_whatever_their_length(rng):
    truth = rng.integers(0, 3, 60)
    features = (np.eye(5)[truth] + 0.05 * rng.normal(size=(60, 5))) * rng.uniform(0.1, 30, (60, 1))
    found = cluster_numbers(features.astype(np.float32), 3)
    assert (((found[:, None] == found) == (truth[:, None] == truth)).all()) and set(found) == {0, 1, 2}
    assert (found == cluster_numbers(features.astype(np.float32), 3)).all()
    for count in (1, 61):
        with pytest.raises(UserError, match=f"clusters: {count} of 60 training volumes"):
            cluster_numbers(features, count)


def test_a_pretraining_compares_by_the_clusters_of_the_one_before(balls, tmp_path, capsys):
    """Probe -> clusters.csv -> pairs: views of scans of one cluster are ignored, and only of those."""
    store, recipe = balls / "store", balls / "recipe.yaml"
    first = pretrain(read_recipe(recipe, ["pretrain.steps=2"]), store, tmp_path / "first")
    with pytest.raises(SystemExit) as ended:
        main(["probe", str(first), "--store", str(store), "--few", "4", "--clusters", "3"])
    path = first / "clusters.csv"
    assert not ended.value.code and f"clusters in {path}" in capsys.readouterr().out
    told = pd.read_csv(path, dtype=str)
    learned = open_store(store).rows(split="train")
    assert sorted(told["volume_id"]) == sorted(learned["volume_id"]) and set(told["label:cluster"]) == {"0", "1", "2"}

    pairs = f"{{labels: {path}, ignore: [[same patient], [same cluster]]}}"
    changes = ["method.rebuild.weight=0", f"method.contrast.pairs={pairs}", "pretrain.steps=2", "pretrain.batch=8"]
    content = read_recipe(recipe, [*changes, "pretrain.by_scanner=false", "probe={every: 1}"])
    planned = plan(content, open_store(store))
    cluster = told.set_index("volume_id")["label:cluster"][planned.batches.ids].to_numpy()
    numbers = planned.batches.facts["cluster"]
    assert ((cluster[:, None] == cluster) == (numbers[:, None] == numbers)).all()
    rows = rows_of(planned.batches[0])
    ignore, patient = planned.model.terms["contrast"].pairs.between(rows, rows)[1], rows.facts["patient"]
    other = patient[:, None] != patient
    mates = rows.facts["cluster"][:, None] == rows.facts["cluster"]
    assert torch.equal(ignore & other, mates & other) and (ignore & other).any() and not ignore.all()
    second = pretrain(content, store, tmp_path / "second")
    assert list(read_run(second)["facts"]["labels"]) == [str(path)]

    path.write_text(path.read_text().replace(",0\n", ",1\n"))
    with pytest.raises(UserError, match="holds a run with another facts"):
        pretrain(content, store, second)
    path.unlink()
    with pytest.raises(UserError, match=r"clusters\.csv: no such table of labels; .*--clusters"):
        pretrain(content, store, tmp_path / "third")
    content["method"]["contrast"]["pairs"].pop("labels")
    with pytest.raises(UserError, match=r"cluster: the store has no column and no label of that name; .*pairs\.labels"):
        pretrain(content, store, tmp_path / "third")
