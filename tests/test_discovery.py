"""Clusters of unknown particles: found where they are, judged right, and stable."""

import json

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from evaluation.bootstrap import Resampling
from evaluation.communities import NOISE
from evaluation.discovery import _agreement_figures, agreement, discover, one_per_particle, purity
from evaluation.figures import plain
from tests.test_clusters import clusters


def test_the_number_of_clear_clusters_is_found():
    embeddings, classes = clusters(5, 40, 0.05)
    found = discover(embeddings, classes, np.arange(200), Resampling(4), reclusterings=4).found
    assert found.clusters.value == found.true_classes == found.stable_clusters == 5
    assert found.ari.value > 0.97 and found.nmi.value > 0.97 and found.purity.value > 0.99 and found.purity_floor == 0.2
    for entry in found.per_cluster:
        assert classes[entry.medoid] == entry.class_ and 38 <= entry.n <= 40 and entry.stability > 0.9
    json.dumps(plain(found), allow_nan=False)


def test_noise_has_no_stable_clusters_and_no_agreement():
    embeddings = np.random.default_rng(0).normal(size=(150, 32))
    classes = np.array(list("abc"))[np.arange(150) % 3]
    found = discover(embeddings, classes, np.arange(150), Resampling(4), reclusterings=4).found
    assert abs(found.ari.value) < 0.05 and found.stable_clusters <= 1


def test_intervals_hold_the_figures_and_narrow_with_more_particles():
    def width(size: int) -> float:
        embeddings, classes = clusters(4, size, 0.2)
        classes = np.where(np.arange(len(classes)) % 5 == 0, "x", classes)  # a fifth is named wrongly
        found = discover(embeddings, classes, np.arange(4 * size), Resampling(100), reclusterings=4).found
        low, high = found.ari.interval
        assert low < found.ari.value < high and found.nmi.interval and found.purity.interval
        assert found.clusters.interval[0] <= found.clusters.value <= found.clusters.interval[1]
        return high - low

    assert width(120) < 0.7 * width(30)


@pytest.mark.parametrize(("size", "number"), [(60, 10), (500, 30)])
def test_intervals_of_clusters_that_have_nothing_to_do_with_the_classes_hold_chance(size, number):
    rng = np.random.default_rng(0)
    found, classes = rng.integers(number, size=size), rng.integers(6, size=size)
    figures = _agreement_figures(found, classes, Resampling(100))
    for key, figure in figures.items():
        low, high = figure.interval
        assert low < figure.value == getattr(agreement(found, classes), key) < high, key
    low, high = figures["ari"].interval
    assert low < 0 < high


def test_an_interval_is_as_wide_as_the_figure_varies_from_sample_to_sample():
    def sample(seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        classes = rng.integers(4, size=200)
        return np.where(rng.random(200) < 0.3, rng.integers(4, size=200), classes), classes

    figures = [agreement(*sample(seed)).ari for seed in range(200)]
    low, high = np.percentile(figures, [2.5, 97.5])
    drawn = _agreement_figures(*sample(0), Resampling(200))["ari"].interval
    assert 0.6 < (drawn[1] - drawn[0]) / (high - low) < 1.5


def test_small_clear_classes_are_stable_and_their_number_is_certain():
    embeddings, classes = clusters(6, 15, 0.02)
    found = discover(embeddings, classes, np.arange(90), Resampling(4), reclusterings=10).found
    assert found.clusters.value == found.stable_clusters == 6
    assert found.clusters.interval == [6, 6]


def test_of_very_many_particles_some_are_clustered_and_the_report_says_so(monkeypatch):
    monkeypatch.setattr("evaluation.discovery.MOST_PARTICLES", 100)
    embeddings, classes = clusters(5, 400, 0.05)
    found = discover(embeddings, classes, np.arange(2000), Resampling(2), reclusterings=2)
    assert (found.n, found.n_there) == (100, 2000) and found.found.clusters.value == 5
    assert sum(entry.n for entry in found.found.per_cluster) <= 100
    for entry in found.found.per_cluster:
        assert classes[entry.medoid] == entry.class_


def test_copies_of_a_particle_are_clustered_once():
    particles = np.repeat(np.arange(50), 3)
    rows = one_per_particle(particles, seed=0)
    assert sorted(particles[rows]) == list(range(50)) and len(set(rows % 3)) == 3
    embeddings, classes = clusters(2, 30, 0.05)
    assert discover(embeddings, classes, np.arange(60) // 2, Resampling(2), reclusterings=2).n == 30


def test_too_few_particles_are_said_not_clustered():
    result = discover(*clusters(2, 5, 0.1), np.arange(10), Resampling())
    assert result.found is None and "10 particles; 20 are needed" in result.reason


def test_purity_agrees_with_scikit_learn_and_leaves_noise_out():
    rng = np.random.default_rng(0)
    found, classes = rng.integers(-1, 4, size=100), rng.integers(3, size=100)
    kept = found != NOISE
    expected = contingency_matrix(classes[kept], found[kept]).max(axis=0).sum() / kept.sum()
    assert purity(found, classes) == pytest.approx(expected)
    assert purity(np.full(3, NOISE), np.arange(3)) is None


def test_agreement_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    cases = [(rng.integers(-1, 4, size=100), rng.integers(3, size=100)) for _ in range(5)]
    cases += [(np.zeros(9, int), np.arange(9) % 3), (np.arange(9) % 3, np.zeros(9, int)), (np.arange(9) % 3,) * 2]
    cases += [(np.zeros(9, int), np.zeros(9, int)), (np.arange(9), np.arange(9)), (np.arange(9), np.zeros(9, int))]
    for found, classes in cases:
        figures = agreement(found, classes)
        assert figures.ari == pytest.approx(adjusted_rand_score(classes, found))
        assert figures.nmi == pytest.approx(normalized_mutual_info_score(classes, found), abs=1e-12)


def test_a_collapsed_embedding_is_one_cluster():
    result = discover(
        np.ones((60, 8)), np.array(list("ab"))[np.arange(60) % 2], np.arange(60), Resampling(2), reclusterings=2
    )
    assert result.found.clusters.value == 1 and result.found.ari.value == 0


def test_result_repeats_with_its_seed_and_inputs_stay():
    embeddings, classes = clusters(3, 30, 0.2)
    copy = embeddings.copy()
    results = [discover(embeddings, classes, np.arange(90), Resampling(2, 1), reclusterings=2) for _ in range(2)]
    assert results[0] == results[1]
    np.testing.assert_array_equal(embeddings, copy)
