"""The spread between sites against statsmodels, closed forms and simulated sites; distances of scores against scipy."""

import numpy as np
import pytest
from scipy import stats
from scipy.stats.contingency import association
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.multitest import multipletests

from medssl.evaluate import distances as apart
from medssl.evaluate.confounding import cramers_v, empty_cells
from medssl.evaluate.distances import PERMUTATIONS, distances
from medssl.evaluate.heterogeneity import between


@pytest.mark.parametrize("sites", [3, 5, 12])
@pytest.mark.parametrize("tau", [0.0, 0.3, 1.5])
def test_mean_spread_and_errors_are_those_of_statsmodels(sites, tau):
    rng = np.random.default_rng(sites + int(10 * tau))
    errors = rng.uniform(0.1, 0.6, sites)
    values = 1.5 + tau * rng.normal(size=sites) + errors * rng.normal(size=sites)
    ours = between(values, errors)
    theirs = combine_effects(values, errors**2, method_re="iterated", use_t=True)
    assert ours.variance == pytest.approx(theirs.tau2, abs=1e-5)
    assert ours.mean == pytest.approx(theirs.mean_effect_re, abs=1e-5)
    assert ours.chance == pytest.approx(float(theirs.test_homogeneity().pvalue), abs=1e-8)
    # Hartung and Knapp's error, but never below that of the weights.
    error = np.sqrt(max(theirs.var_hksj_re, 1 / theirs.weights_re.sum()))
    half = stats.t.ppf(0.975, sites - 1) * error
    assert ours.mean_ends == pytest.approx((ours.mean - half, ours.mean + half), abs=1e-5)


def test_a_new_site_of_sites_that_are_known_exactly_is_one_of_a_normal_sample():
    values = np.array([0.2, 0.9, 1.4, 2.6, 3.1])
    half = stats.t.ppf(0.975, 4) * values.std(ddof=1) * np.sqrt(1 + 1 / 5)
    wanted = (values.mean() - half, values.mean() + half)
    assert between(values, np.full(5, 1e-4)).new == pytest.approx(wanted, abs=0.003 * half)


def test_equal_errors_have_closed_forms():
    values, error = np.array([0.2, 0.9, 1.4, 2.6, 3.1]), 0.4
    ours, square = between(values, np.full(5, error)), np.square(values - values.mean()).sum()
    assert ours.variance == pytest.approx(square / 4 - error**2)
    ends = [square / stats.chi2.ppf(p, 4) - error**2 for p in (0.975, 0.025)]
    assert ours.variance_ends == pytest.approx(ends)
    # I squared is then (Q - df) / Q, statsmodels'.
    assert ours.share == pytest.approx(combine_effects(values, np.full(5, error**2)).i2)
    assert ours.mean == pytest.approx(values.mean())


def test_sites_that_are_alike_have_no_spread_and_a_share_of_none():
    ours = between(np.array([1.0, 1.01, 0.99, 1.0]), np.full(4, 0.5))
    assert (ours.variance, ours.variance_ends[0], ours.share) == (0, 0, 0)
    assert ours.variance_ends[1] == 0 and ours.chance > 0.99
    assert ours.mean_ends[1] - ours.mean_ends[0] == pytest.approx(2 * stats.t.ppf(0.975, 3) * 0.25)


def test_intervals_hold_what_they_promise():
    """Sets of eight simulated sites: the mean, the spread, and the value of a ninth site."""
    rng, tau, held = np.random.default_rng(1), 0.3, []
    for _ in range(400):
        errors = rng.uniform(0.15, 0.5, 8)
        values = 2 + tau * rng.normal(size=8) + errors * rng.normal(size=8)
        ours, ninth = between(values, errors), 2 + tau * rng.normal()
        held.append([
            ours.mean_ends[0] <= 2 <= ours.mean_ends[1],
            ours.variance_ends[0] <= tau**2 <= ours.variance_ends[1],
            ours.new[0] <= ninth <= ours.new[1],
        ])  # fmt: skip
    mean, spread, new = np.mean(held, axis=0)
    assert 0.93 < mean < 0.985 and 0.93 < spread < 0.97 and 0.93 < new < 0.985


def scores(seed=0, patients=90, sites=3, moved=0.0):
    """Scores of patients with one to three rows, with ties; site 0 has `moved` more."""
    rng = np.random.default_rng(seed)
    home = rng.integers(0, sites, patients)
    patient = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    score = np.round(rng.beta(2, 3, patients)[patient] + moved * (home[patient] == 0), 2)
    return score, patient, home[patient]


def test_a_distance_is_that_of_kolmogorov_and_smirnov():
    score, patient, site = scores()
    for number, one in enumerate(distances(score, patient, site, 3)):
        wanted = stats.ks_2samp(score[site == number], score[site != number], method="asymp").statistic
        assert one.distance == pytest.approx(wanted, abs=1e-12)


def test_many_scores_are_compared_at_a_thousand_values(monkeypatch):
    rng = np.random.default_rng(3)
    score, site = rng.random(6000) + 0.0, np.arange(6000) % 2
    score[site == 1] **= 1.3
    monkeypatch.setattr(apart, "PERMUTATIONS", 19)
    one = distances(score, np.arange(6000), site, 2)[0]
    wanted = stats.ks_2samp(score[site == 0], score[site == 1]).statistic
    assert wanted - 0.0015 <= one.distance <= wanted + 1e-12


def test_chance_deals_whole_patients():
    """A slow twin deals sites to patients by name; rows of one patient that agree are no evidence."""
    score, patient, site = scores(seed=4)
    home = {who: site[patient == who][0] for who in np.unique(patient)}
    rng, drawn = np.random.default_rng(9), []
    for _ in range(600):
        dealt = dict(zip(home, rng.permutation(list(home.values())), strict=True))
        new = np.array([dealt[who] for who in patient])
        drawn.append([stats.ks_2samp(score[new == k], score[new != k], method="asymp").statistic for k in range(3)])
    found = distances(score, patient, site, 3)
    assert [one.by_chance for one in found] == pytest.approx(np.quantile(drawn, 0.95, axis=0), abs=0.025)
    raw = [(1 + sum(d[k] >= found[k].distance - 1e-12 for d in drawn)) / 601 for k in range(3)]
    assert [one.p for one in found] == pytest.approx(multipletests(raw, method="holm")[1], abs=0.12)


def test_p_values_are_rare_by_chance_and_small_where_scores_moved():
    small = [min(one.p for one in distances(*scores(seed, 40), 3)) <= 0.05 for seed in range(60)]
    assert sum(small) <= 8  # 3 expected, more than 8 once in 400
    assert distances(*scores(1, moved=0.3), 3)[0].p == pytest.approx(3 / (1 + PERMUTATIONS))


def test_a_site_of_nobody_of_everybody_and_the_others():
    score, patient, site = scores()
    alone = distances(score, patient, np.zeros_like(site), 2)
    assert np.isnan([value for one in alone for value in one]).all()
    same = distances(np.full(30, 0.5), np.arange(30), np.arange(30) % 2, 2)
    assert all((one.distance, one.p) == (0, 1) for one in same)
    # What is not shown is still "elsewhere".
    pair = distances(score, patient, site, 2)
    assert [one.distance for one in pair] == [one.distance for one in distances(score, patient, site, 3)][:2]


def test_cramers_v_is_that_of_scipy():
    rng = np.random.default_rng(0)
    for shape in ((2, 2), (3, 5), (4, 2)):
        counts = rng.integers(1, 30, shape)
        assert cramers_v(counts) == pytest.approx(association(counts, method="cramer"))
    assert cramers_v(np.diag([5, 9, 2])) == pytest.approx(1)
    assert cramers_v(np.outer([10, 20], [3, 5])) == pytest.approx(0, abs=1e-7)
    assert np.isnan(cramers_v(np.array([[3, 4]]))) and np.isnan(cramers_v(np.array([[3, 0], [4, 0]])))


def test_only_cells_where_somebody_would_be_expected_are_empty():
    assert empty_cells(np.array([[40, 0], [40, 20]])) == 1
    assert empty_cells(np.array([[40, 0], [40, 2]])) == 0
    assert empty_cells(np.zeros((2, 2), int)) == 0
