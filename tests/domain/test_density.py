"""How far a volume lies from the training volumes: against closed forms, scipy, and images of other kinds."""

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf

from medssl import checkpoint
from medssl.adapt import finetune
from medssl.domain import BOUND, Density, read_density
from medssl.domain.density import FOLDS, NAME, density_of, described, distances
from medssl.errors import UserError
from medssl.recipe import read_recipe


def test_distances_are_mahalanobis_and_without_correlation_z_scores(rng):
    features = rng.normal(size=(40, 6)) @ rng.normal(size=(6, 6))
    mean, covariance = described(features)
    wanted = [mahalanobis(one, features.mean(0), np.linalg.inv(covariance)) for one in features]
    assert distances(features, mean, covariance) == pytest.approx(wanted, rel=1e-9)
    assert covariance == pytest.approx(LedoitWolf().fit(features).covariance_, rel=1e-4)
    sides = distances(np.array([[3.0, 0, 0], [0, 8.0, 0], [3.0, 8.0, 0]]), np.zeros(3), np.diag([1.0, 4.0, 9.0]))
    assert sides == pytest.approx([3, 4, 5])


@pytest.mark.parametrize("features", [np.ones((1, 4)), np.ones((9, 4)), np.zeros((2, 4))])
def test_features_that_never_vary_leave_distances(features):
    found = distances(np.vstack([features, features[:1] + 1]), *described(features))
    assert np.isfinite(found).all()
    assert found[:-1] == pytest.approx(0, abs=1e-9)
    assert found[-1] > 100


def test_unlike_is_the_share_of_held_out_volumes_that_are_nearer():
    density = Density(np.zeros(1), np.eye(1), np.repeat([1.0, 2.0, 2.0, 4.0], 25), "val")
    assert density.unlike(np.array([[0.0], [-1.5], [2.0], [3.0], [9.0]])).tolist() == [0, 0.25, 0.25, 0.75, 1]


@pytest.mark.parametrize(("count", "chance"), [(100, 1 / 101), (200, 2 / 201)])
def test_a_newcomer_among_enough_volumes_is_marked_by_chance(count, chance):
    density = Density(np.zeros(1), np.eye(1), np.arange(1.0, count + 1), "val")
    assert density.by_chance == pytest.approx(chance)
    marked = density.unlike(np.arange(count + 1)[:, None] + 0.5) > BOUND  # a newcomer in each place among them
    assert marked.mean() == pytest.approx(chance)


@pytest.mark.parametrize("count", [2, 5, 30, 99])
def test_with_few_held_out_volumes_as_many_are_marked_as_is_told(count, rng):
    """Newcomers of the same law as the held-out ones: one in a hundred, where by rank it would be one in count + 1."""
    draws = np.exp(rng.normal(3, 0.2, (4000, count + 1)))
    marked = [
        Density(np.zeros(1), np.eye(1), np.sort(held), "val").unlike(np.array([[new]]))[0] > BOUND
        for *held, new in draws
    ]
    assert np.mean(marked) == pytest.approx(0.01, abs=0.006)
    assert Density(np.zeros(1), np.eye(1), np.sort(draws[0, 1:]), "val").by_chance == pytest.approx(0.01)
    assert Density(np.zeros(1), np.eye(1), np.sort(draws[0, 1:]), "val").unlike(np.array([[1e99]]))[0] > BOUND


@pytest.mark.parametrize("held", [[2.0], [2.0, 2.0, 2.0]])
def test_held_out_volumes_that_do_not_vary_mark_nothing_nearer(held):
    density = Density(np.zeros(1), np.eye(1), np.array(held), "val")
    near, same = density.unlike(np.array([[1.0], [2.0]]))
    assert not near > BOUND and not same > BOUND


def test_without_held_out_volumes_patients_are_judged_by_other_patients(rng):
    features, patients = rng.normal(size=(30, 3)), np.repeat([f"p{n}" for n in range(15)], 2)
    features[patients == "p3"] += 50  # near to each other, far from all others
    density = density_of(features, patients, None)
    parts = [np.isin(patients, [f"p{n}" for n in range(part, 15, FOLDS)]) for part in range(FOLDS)]
    wanted = np.concatenate([distances(features[one], *described(features[~one])) for one in parts])
    assert density.of == "train"
    assert density.held_out == pytest.approx(np.sort(wanted))
    assert (density.held_out > 20).sum() == 2
    held = density_of(features, patients, features[:4])
    assert (held.of, len(held.held_out)) == ("val", 4)
    assert np.isfinite(density_of(features[:2], patients[:2], None).held_out).all()


def test_a_run_keeps_it_until_its_weights_are_others(balls, tmp_path):
    recipe = read_recipe(balls / "recipe.yaml", ["finetune.steps=2"])
    run = finetune(recipe, balls / "store", tmp_path / "run")
    before = (run / NAME).read_bytes()
    (run / NAME).unlink()
    assert read_density(run) is None
    weights = (run / checkpoint.NAME).read_bytes()
    finetune(recipe, balls / "store", run)  # as a run of before is mended
    assert (run / NAME).read_bytes() == before
    assert (run / checkpoint.NAME).read_bytes() == weights
    (run / NAME).write_bytes(before[:100])
    with pytest.raises(UserError, match="damaged"):
        read_density(run)
    finetune(recipe, balls / "store", run)
    assert (run / NAME).read_bytes() == before
    other = finetune(read_recipe(balls / "recipe.yaml", ["finetune.steps=3"]), balls / "store", tmp_path / "other")
    (run / checkpoint.NAME).write_bytes((other / checkpoint.NAME).read_bytes())
    finetune(recipe, balls / "store", run)
    assert (run / NAME).read_bytes() == (other / NAME).read_bytes()
