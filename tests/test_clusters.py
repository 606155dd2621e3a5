"""Clusters of few and of many particles: found where they are, named by size, stable; copies count once."""

import numpy as np
import pytest

from evaluation import clusters as module
from evaluation import communities
from evaluation.bootstrap import Resampling
from evaluation.clusters import (
    DIMENSIONS,
    best_jaccard,
    find_clusters,
    largest_first,
    mean_directions,
    medoid,
    nearest_classes,
    project,
    stability,
    unit_chunks,
)
from evaluation.communities import NOISE
from evaluation.discovery import agreement
from evaluation.rejection import unit


def clusters(number: int, size: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of `number` classes and their names."""
    rng = np.random.default_rng(seed)
    classes = np.repeat(np.arange(number), size)
    return np.eye(32)[classes] + spread * rng.normal(size=(number * size, 32)), np.array(list("abcdefgh"))[classes]


def mixture(count: int, spread: float = 0.15, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (count, 64) about eight directions, of unequal shares, and their classes."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(8, count, p=np.arange(1, 9.0) / 36)
    directions = unit(rng.normal(size=(8, 64)))
    return (directions[classes] + spread * unit(rng.normal(size=(count, 64)))).astype(np.float32), classes


def test_clusters_are_those_of_the_rows_that_are_asked_for_and_the_largest_is_the_first():
    sizes = (30, 70, 50)
    embeddings, classes = clusters(4, 100, 0.05)
    rows = np.concatenate([np.arange(size) + 100 * index for index, size in enumerate(sizes)])
    found = find_clusters(embeddings, rows, seed=0, reclusterings=3)
    assert len(found) == 3 and not found.by_centres
    assert found.sizes().tolist() == sorted(found.sizes(), reverse=True)
    for index, name in enumerate("bca"):
        mine = rows[found.numbers == index]
        assert set(classes[mine]) == {name} and len(mine) > 0.9 * sizes["abc".index(name)]
        assert classes[rows[found.medoids[index]]] == name and found.stability[index] > 0.9


def test_a_particle_in_none_is_told_its_nearest_cluster():
    embeddings, classes = clusters(3, 60, 0.03)
    outlier = -np.eye(32)[0] - 0.1 * np.eye(32)[1] - np.eye(32)[2]  # farther from all than they are from each other
    found = find_clusters(np.vstack([embeddings, outlier]), np.arange(181), seed=0, reclusterings=2)
    assert found.numbers[-1] == NOISE
    (expected,) = np.unique(found.numbers[:180][(classes == "b") & (found.numbers[:180] != NOISE)])
    assert found.nearest[-1] == expected
    inside = found.numbers != NOISE
    np.testing.assert_array_equal(found.nearest[inside], found.numbers[inside])


def test_where_no_cluster_is_found_no_particle_has_a_nearest_one(monkeypatch):
    monkeypatch.setattr(module, "cluster", lambda points, seed, of=0: np.full(len(points), NOISE))
    found = find_clusters(np.random.default_rng(0).normal(size=(50, 8)), np.arange(50), seed=0, reclusterings=1)
    assert len(found) == 0 and (found.nearest == NOISE).all() and found.means.shape == (0, 8)
    assert [len(part) for part in nearest_classes(found, np.eye(8)[:3])] == [0, 0]


def test_fewer_particles_than_two_clusters_are_not_clustered():
    embeddings, _ = clusters(2, 30, 0.05)
    assert find_clusters(embeddings, np.arange(19), seed=0) is None
    assert find_clusters(embeddings, np.arange(0), seed=0) is None
    assert find_clusters(embeddings, np.arange(15, 45), seed=0, reclusterings=1) is not None


def test_a_collapsed_embedding_is_one_cluster():
    found = find_clusters(np.ones((60, 8)), np.arange(60), seed=0, reclusterings=2)
    assert len(found) == 1 and found.stability.tolist() == [1] and found.sizes().tolist() == [60]


def test_copies_of_a_particle_are_in_one_cluster_and_count_once():
    embeddings, classes = clusters(3, 20, 0.05)
    rows = np.repeat(np.arange(60), 3)
    rng = np.random.default_rng(0)
    copies = embeddings[rows] + 0.15 * rng.normal(size=(180, 32))
    found = find_clusters(copies, np.arange(180), 0, rows, reclusterings=2)
    assert len(found) == 3 and (found.numbers.reshape(60, 3) == found.numbers[::3, None]).all()
    assert all(len(set(classes[rows[found.numbers == index]])) == 1 for index in range(3))
    few = np.arange(30)  # volumes, of ten particles
    assert find_clusters(copies, few, 0, few // 3) is None and find_clusters(copies, few, 0, None, 1) is not None


@pytest.fixture
def few_centres(monkeypatch):
    """Centres for few particles."""
    monkeypatch.setattr(communities.cluster, "__defaults__", (0, 400))
    monkeypatch.setattr(module, "CENTRES", 400)


def test_many_particles_are_gathered_around_centres_with_the_classes_of_a_mixture(few_centres):
    embeddings, classes = mixture(2000)
    found = find_clusters(embeddings, np.arange(2000), seed=0, reclusterings=1)
    assert found.by_centres and len(found) == 8 and found.stability.min() > 0.9
    kept = found.numbers != NOISE
    assert kept.mean() > 0.95 and agreement(found.numbers[kept], classes[kept]).ari > 0.99
    assert np.all(np.diff(found.sizes()) <= 0)


def test_clusters_by_centres_repeat_with_their_seed_and_leave_embeddings_as_they_are(few_centres):
    embeddings, _ = mixture(1000)
    copy = embeddings.copy()
    first, second = (find_clusters(embeddings, np.arange(1000), seed=3, reclusterings=1) for _ in range(2))
    for name in ("numbers", "nearest", "means", "medoids", "stability"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    np.testing.assert_array_equal(embeddings, copy)


def test_a_mapped_file_gives_what_the_array_gives_in_any_number_of_chunks(tmp_path, monkeypatch, few_centres):
    embeddings, _ = mixture(1000)
    np.save(tmp_path / "e.npy", embeddings)
    rows = np.arange(100, 1000)
    expected = find_clusters(embeddings, rows, seed=0, reclusterings=1)
    monkeypatch.setattr(module, "CHUNK", 128)
    found = find_clusters(np.load(tmp_path / "e.npy", mmap_mode="r"), rows, seed=0, reclusterings=1)
    np.testing.assert_array_equal(found.numbers, expected.numbers)
    np.testing.assert_allclose(found.means, expected.means, atol=1e-9)


def test_of_a_mapped_file_no_more_than_a_chunk_is_in_memory_at_once(tmp_path, monkeypatch, mapped_mb):
    np.save(tmp_path / "e.npy", np.ones((40_000, 256), dtype=np.float32))  # 41 MB
    monkeypatch.setattr(module, "CHUNK", 2000)
    mapped, before = np.load(tmp_path / "e.npy", mmap_mode="c"), mapped_mb()
    seen = [(len(chunk), mapped_mb() - before) for chunk in unit_chunks(mapped, np.arange(40_000))]
    assert sum(count for count, _ in seen) == 40_000 and max(more for _, more in seen) < 10


def test_principal_components_keep_distances_of_few_dimensions_and_a_sample_gives_those_of_all(monkeypatch):
    embeddings, _ = clusters(3, 20, 0.0)
    points = project(embeddings, np.arange(60), 0)
    np.testing.assert_allclose(np.linalg.norm(points[0] - points[20]), np.sqrt(2), rtol=1e-6)
    assert project(np.random.default_rng(0).normal(size=(50, 64)), np.arange(50), 0).shape == (50, DIMENSIONS)
    embeddings, _ = mixture(2000, 0.05)
    expected = project(embeddings, np.arange(2000), 0)
    monkeypatch.setattr(module, "FITTED_ROWS", 1000)
    points = project(embeddings, np.arange(2000), 0)
    distances = [np.linalg.norm(each[:200, None, :7] - each[:200, :7], axis=2) for each in (points, expected)]
    assert np.corrcoef(*(each.ravel() for each in distances))[0, 1] > 0.99


def test_the_largest_is_first_and_noise_stays():
    assert largest_first(np.array([0, 1, 1, NOISE, 2, 2, 2])).tolist() == [2, 1, 1, NOISE, 0, 0, 0]
    assert largest_first(np.full(3, NOISE)).tolist() == [NOISE] * 3


def test_mean_directions_and_medoids_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    embeddings, found = rng.normal(size=(50, 6)), rng.integers(-1, 3, size=30)
    rows = np.arange(10, 40)
    means = mean_directions(embeddings, rows, found, 3)
    for index in range(3):
        mine = unit(embeddings[rows[found == index]])
        np.testing.assert_allclose(means[index], mine.mean(axis=0) / np.linalg.norm(mine.mean(axis=0)))
        points = embeddings[rows]
        middle = points[found == index].mean(axis=0)
        nearest = min(np.flatnonzero(found == index), key=lambda row: np.linalg.norm(points[row] - middle))
        assert medoid(points, found == index) == nearest


def test_the_nearest_known_class_is_that_of_the_highest_cosine():
    embeddings, classes = clusters(3, 40, 0.02)
    found = find_clusters(embeddings, np.arange(120), seed=0, reclusterings=1)
    numbers, cosines = nearest_classes(found, 5 * np.eye(32)[[2, 0, 1, 9]])
    for index in range(3):
        assert "cab"[numbers[index]] == classes[found.medoids[index]] and cosines[index] > 0.99


def test_best_jaccard_agrees_with_a_loop():
    rng = np.random.default_rng(0)
    found, again = rng.integers(-1, 4, size=60), rng.integers(-1, 3, size=60)
    for index, value in enumerate(best_jaccard(found, again, 4)):
        of_pairs = [
            np.sum((found == index) & (again == other)) / np.sum((found == index) | (again == other))
            for other in range(3)
        ]
        assert value == pytest.approx(max(of_pairs))
    assert best_jaccard(found, np.full(60, NOISE), 4).tolist() == [0] * 4


def test_stability_is_high_for_clear_clusters_and_low_for_halves_of_one():
    embeddings, classes = clusters(2, 40, 0.05)
    points = project(embeddings, np.arange(80), 0)
    stable, numbers = stability(points, (classes == "b").astype(int), Resampling(5))
    assert stable.min() > 0.9 and numbers.tolist() == [2] * 5
    one = np.random.default_rng(0).normal(size=(80, 2))
    assert stability(one, (one[:, 0] > 0).astype(int), Resampling(5))[0].max() < 0.75
