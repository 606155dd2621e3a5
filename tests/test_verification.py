"""Verification against naive loops, hand-computed cases and scikit-learn."""

import json
import tracemalloc
from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from evaluation import verification
from evaluation.bootstrap import Resampling
from evaluation.figures import NO_FIGURE, plain
from evaluation.pair_pool import pair_pools
from evaluation.verification import (
    AUTHORS,
    SCALE,
    area,
    authors_protocol,
    best_threshold,
    center_and_normalise,
    equal_error_rate,
    pairs_at_scale,
    rank_pairs,
    similarity,
    validation_rate,
)


def clusters(n_particles: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings of four classes, three copies a particle; class names; particle names."""
    rng = np.random.default_rng(seed)
    classes = np.repeat(np.arange(n_particles) % 4, 3)
    embeddings = rng.normal(size=(4, 16))[classes] + spread * rng.normal(size=(3 * n_particles, 16))
    return embeddings.astype(np.float32), np.array(list("abcd"))[classes], np.repeat(np.arange(n_particles), 3)


def as_set(pairs: np.ndarray) -> set[tuple[int, int]]:
    return {(min(i, j), max(i, j)) for i, j in pairs.tolist()}


def naive_pairs(labels: np.ndarray, particles: np.ndarray, same: bool) -> set[tuple[int, int]]:
    return {
        (i, j)
        for i, j in combinations(range(len(labels)), 2)
        if (labels[i] == labels[j]) == same and particles[i] != particles[j]
    }


def test_pools_hold_every_pair_once_and_none_that_shares_a_particle():
    _, labels, particles = clusters(10, 1)
    for pool, same in zip(pair_pools(labels, particles), (True, False), strict=True):
        expected = naive_pairs(labels, particles, same)
        drawn = pool.draw(10**6, np.random.default_rng(0))
        assert pool.count == len(drawn) == len(expected) and as_set(drawn) == expected


def test_pools_count_right_when_classes_share_a_particle_name():
    labels, particles = np.array(list("aaabbb")), np.array([0, 0, 1, 0, 1, 2])
    same, different = pair_pools(labels, particles)
    assert (same.count, different.count) == (5, 6)
    assert as_set(different.draw(99, np.random.default_rng(0))) == naive_pairs(labels, particles, False)


@pytest.mark.parametrize("wanted", [50, 700])
def test_draws_are_distinct_valid_and_repeat_with_the_seed(wanted):
    _, labels, particles = clusters(40, 1)
    for pool, same in zip(pair_pools(labels, particles), (True, False), strict=True):
        drawn = pool.draw(wanted, np.random.default_rng(3))
        assert len(as_set(drawn)) == wanted and as_set(drawn) <= naive_pairs(labels, particles, same)
        np.testing.assert_array_equal(drawn, pool.draw(wanted, np.random.default_rng(3)))


def test_draws_are_even_over_pairs_whatever_the_class_sizes():
    labels, particles = np.array(["a"] * 12 + ["b"] * 4 + ["c"] * 2), np.arange(18)
    same, _ = pair_pools(labels, particles)
    counts = np.zeros((18, 18))
    for seed in range(600):
        first, second = same.draw(10, np.random.default_rng(seed)).T
        np.add.at(counts, (np.minimum(first, second), np.maximum(first, second)), 1)
    met = counts[counts > 0]
    assert len(met) == same.count == 66 + 6 + 1
    assert abs(met - met.mean()).max() < 5 * np.sqrt(met.mean())


def test_pairs_between_sides_are_only_seen_against_unseen():
    labels, sides = np.array(list("aabbcc")), np.array([True] * 4 + [False] * 2)
    same, different = pair_pools(labels, np.arange(6), sides)
    assert as_set(same.draw(9, np.random.default_rng(0))) == {(0, 1), (2, 3), (4, 5)}
    assert as_set(different.draw(99, np.random.default_rng(0))) == {(i, j) for i in range(4) for j in (4, 5)}
    with pytest.raises(ValueError, match="both sides"):
        pair_pools(np.array(list("aa")), np.arange(2), np.array([True, False]))


def test_preparation_is_the_authors():
    embedding = np.array([[1.0, 2.0, 6.0]])
    np.testing.assert_allclose(center_and_normalise(embedding), np.array([[-2, -1, 3]]) / np.sqrt(14))
    np.testing.assert_allclose(center_and_normalise(7 * embedding + 5), center_and_normalise(embedding))


@pytest.mark.parametrize(("products", "chunk"), [(4, 16384), (0, 16384), (0, 5)], ids=["products", "rows", "chunks"])
def test_similarity_is_minus_the_squared_distance_by_products_or_rows(monkeypatch, products, chunk):
    monkeypatch.setattr(verification, "MOST_PRODUCTS", products)
    monkeypatch.setattr(verification, "CHUNK", chunk)
    features = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    features[1] = features[0]
    pairs = np.array(list(combinations(range(9), 2)))
    expected = [-np.sum((features[i] - features[j]).astype(float) ** 2) for i, j in pairs]
    np.testing.assert_allclose(similarity(features, pairs), expected, rtol=1e-5)
    assert similarity(features, pairs).max() <= 0


def test_curve_figures_of_a_case_computed_by_hand():
    features = np.array([0.0, 1.0, 3.0, 6.0])[:, None]
    curve = rank_pairs(features, np.array([[0, 1], [1, 3]]), np.array([[1, 2], [0, 2]])).curve()
    # squared distances: same 1, 25; different 4, 9: the order is same, different, different, same
    np.testing.assert_allclose(curve, [[0, 0, 0.5, 1, 1], [0, 0.5, 0.5, 0.5, 1]])
    assert area(curve) == 0.5
    assert equal_error_rate(curve) == 0.5
    assert validation_rate(curve, 0.4) == 0.5 and validation_rate(curve, 1) == 1


def test_ties_count_one_half():
    curve = rank_pairs(np.zeros((4, 1)), np.array([[0, 1]]), np.array([[2, 3], [0, 3]])).curve()
    assert area(curve) == 0.5 and equal_error_rate(curve) == 0.5 and validation_rate(curve, 0.9) == 0


def test_curve_agrees_with_scikit_learn_and_weights_are_repeats():
    rng = np.random.default_rng(0)
    features = rng.integers(4, size=(30, 2)).astype(float)  # many ties
    pairs = np.array(list(combinations(range(30), 2)))
    truth = rng.random(len(pairs)) < 0.4
    ranked = rank_pairs(features, pairs[truth], pairs[~truth])
    scores = similarity(features, pairs)
    assert area(ranked.curve()) == pytest.approx(roc_auc_score(truth, scores))
    far, val, _ = roc_curve(truth, scores, drop_intermediate=False)
    np.testing.assert_allclose(ranked.curve(), [far, val])
    weights = rng.integers(3, size=30)
    repeats = weights[pairs].prod(axis=1)
    expected = roc_auc_score(np.repeat(truth, repeats), np.repeat(scores, repeats))
    assert area(ranked.curve(weights)) == pytest.approx(expected)


def test_best_threshold_beats_every_other_and_knows_the_extremes():
    rng = np.random.default_rng(0)
    same, different = rng.normal(1, 1, 40).round(1), rng.normal(0, 1, 60).round(1)

    def right(threshold: float) -> int:
        return np.sum(same >= threshold) + np.sum(different < threshold)

    assert right(best_threshold(same, different)) == max(right(t) for t in np.arange(-5, 5, 0.05))
    assert best_threshold(np.array([1.0]), np.array([2.0, 3.0])) == np.inf
    assert best_threshold(np.array([1.0, 2.0]), np.array([2.0])) == -np.inf
    assert best_threshold(np.array([3.0]), np.array([1.0])) == 2


def test_authors_protocol_is_perfect_on_clusters_and_at_its_floor_on_noise():
    embeddings, labels, particles = clusters(200, 0.01)
    result = authors_protocol(embeddings, labels, particles, AUTHORS, Resampling(seed=1))
    assert (result.accuracy.value, result.std, result.auc, result.eer) == (1, 0, 1, 0)
    assert (result.n_same, result.n_different, result.floor) == (600, 1200, pytest.approx(2 / 3))
    noise = np.random.default_rng(0).normal(size=embeddings.shape)
    noise[1::3], noise[2::3] = noise[::3], noise[::3]
    result = authors_protocol(noise, labels, particles, AUTHORS, Resampling(seed=1))
    assert abs(result.accuracy.value - result.floor) < 0.03 and abs(result.auc - 0.5) < 0.05


def test_authors_protocol_repeats_with_its_seed_and_leaves_its_inputs_alone():
    inputs = clusters(40, 2.0)
    copies = [array.copy() for array in inputs]
    first, again, other = (authors_protocol(*inputs, AUTHORS, Resampling(seed=seed)) for seed in (0, 0, 1))
    assert first == again and first != other
    for before, after in zip(copies, inputs, strict=True):
        np.testing.assert_array_equal(before, after)


def test_authors_protocol_says_when_there_are_too_few_pairs():
    embeddings, labels, particles = clusters(4, 1)
    result = authors_protocol(embeddings, labels, particles, AUTHORS, Resampling())
    assert result.accuracy == NO_FIGURE and result.reason == "0 same and 54 different pairs for 10 folds"


def test_scale_agrees_with_all_pairs_and_gives_the_figures_of_each_class():
    embeddings, labels, particles = clusters(60, 1.5)
    result = pairs_at_scale(embeddings, labels, particles, SCALE, Resampling(30))
    pairs = np.array(sorted(naive_pairs(labels, particles, True) | naive_pairs(labels, particles, False)))
    truth = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    scores = similarity(center_and_normalise(embeddings), pairs)
    assert result.auc.value == pytest.approx(roc_auc_score(truth, scores))
    assert result.auc.interval[0] < result.auc.value < result.auc.interval[1]
    assert result.n_same + result.n_different == len(pairs)
    assert [*result.per_class] == list("abcd")
    mine = (labels[pairs] == "c").any(axis=1)
    assert result.per_class["c"].auc.value == pytest.approx(roc_auc_score(truth[mine], scores[mine]))
    json.dumps(plain(result), allow_nan=False)


def test_a_validation_rate_that_the_pairs_cannot_resolve_is_refused():
    embeddings, labels, particles = clusters(60, 1)
    result = pairs_at_scale(embeddings, labels, particles, SCALE, Resampling(5))
    assert result.n_different < 1e5 and result.val_at_far["0.01"].value > 0
    assert result.val_at_far["0.001"].value is None
    assert "100000 are needed" in result.val_at_far["0.001"].reason


def test_scale_says_when_one_kind_of_pair_is_missing():
    embeddings, labels, particles = clusters(4, 1)
    assert "0 same" in pairs_at_scale(embeddings, labels, particles, SCALE, Resampling()).reason


def test_a_million_pairs_of_many_rows_are_drawn_in_bounded_memory():
    rng = np.random.default_rng(0)
    labels = rng.integers(8, size=100_000).astype(str)  # 5e9 pairs exist
    features = rng.normal(size=(100_000, 64))
    pool = pair_pools(labels, np.arange(100_000))[1]
    tracemalloc.start()
    try:
        pairs = pool.draw(1_000_000, rng)
        drawing = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        scores = similarity(features, pairs)
        scoring = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert pairs.shape == (1_000_000, 2) and (labels[pairs[:, 0]] != labels[pairs[:, 1]]).all()
    assert scores.shape == (1_000_000,)
    assert drawing < 400e6  # all pairs that exist would be 8e10 bytes
    assert scoring < 100e6  # the offsets of all drawn pairs would be 5e8
