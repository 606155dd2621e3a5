"""Groups among points: as many as there are, large beside small, and one where there is one."""

import numpy as np
import pytest

from evaluation.communities import (
    COMPARED_ROWS,
    FEWEST_NEIGHBOURS,
    NOISE,
    cluster,
    communities,
    fenced,
    gathered,
    joined,
    means,
    shared_neighbours,
    some,
    valley,
    without_small,
)
from evaluation.discovery import agreement


def blobs(sizes: list[int], apart: float = 8.0, seed: int = 0, dimensions: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian points of unit spread about places that are `apart`, and which group each is of."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return apart / np.sqrt(2) * np.eye(dimensions)[labels] + rng.normal(size=(len(labels), dimensions)), labels


@pytest.mark.parametrize("sizes", [[12, 12, 12], [40] * 6, [600, 60, 30, 15], [300, 300]])
def test_groups_are_found_whatever_their_sizes(sizes):
    points, labels = blobs(sizes)
    found = cluster(points, seed=0)
    assert found.max() + 1 == len(sizes) and agreement(found[found >= 0], labels[found >= 0]).ari > 0.95
    assert np.mean(found == NOISE) < 0.05


@pytest.mark.parametrize("count", [20, 200, 900])
def test_one_group_is_not_cut_in_pieces(count):
    points, _ = blobs([count])
    assert len(communities(points, np.ones(count, dtype=int), 0)) == count
    assert cluster(points, seed=0).max() == 0


def test_points_that_coincide_are_one_group():
    assert cluster(np.ones((40, 3)), seed=0).tolist() == [0] * 40


def test_centres_give_what_all_points_give():
    points, _ = blobs([500, 300, 200, 200, 100])
    direct, centred = cluster(points, 0, most_centres=len(points)), cluster(points, 0, most_centres=200)
    assert direct.max() == centred.max() == 4
    both = (direct != NOISE) & (centred != NOISE)
    assert both.mean() > 0.95 and agreement(direct[both], centred[both]).ari > 0.98


def test_centres_are_the_means_of_their_points():
    points, _ = blobs([100, 50])
    owner, middles = gathered(points, 20, seed=0)
    assert set(owner) == set(range(len(middles))) and len(middles) <= 20
    for number, middle in enumerate(middles):
        np.testing.assert_allclose(middle, points[owner == number].mean(axis=0))
    owner, middles = gathered(points, 150, seed=0)
    assert owner.tolist() == list(range(150)) and middles is points


def test_shared_neighbours_agree_with_a_loop():
    points = np.random.default_rng(0).normal(size=(30, 2))
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    near = np.argsort(distances, axis=1)[:, 1 : FEWEST_NEIGHBOURS + 1]
    links = np.zeros((30, 30))
    for row, others in enumerate(near):
        for other in others:
            links[row, other] += 1
            links[other, row] += 1
    expected = np.where(links > 0, links @ links, 0)
    np.fill_diagonal(expected, 0)
    np.testing.assert_array_equal(shared_neighbours(points).toarray(), expected)


def test_a_centre_counts_as_its_points_do():
    points, labels = blobs([40, 40], apart=6.0)
    counts = np.where(labels == 0, 50, 1)
    found = communities(points, counts, seed=0)
    assert all(len(set(labels[found == number])) == 1 for number in set(found))


def test_a_valley_is_seen_between_groups_and_not_within_one():
    points, labels = blobs([400, 400], apart=5.0)
    assert valley(points[labels == 0], points[labels == 1]) < 0.5
    one = points[labels == 0]
    halves = one[one[:, 0] > np.median(one[:, 0])], one[one[:, 0] <= np.median(one[:, 0])]
    assert valley(*halves) == 1.0


def test_few_points_in_many_dimensions_do_not_make_a_valley_by_chance():
    for seed in range(10):
        points, _ = blobs([24], seed=seed)
        assert valley(points[:12], points[12:]) > 0.9
    assert valley(points[:2], points[2:]) == 0.0


def test_pieces_are_joined_and_groups_stay_apart():
    points, labels = blobs([2 * COMPARED_ROWS, 300])
    pieces = np.where(labels == 1, 3, np.digitize(points[:, 1], [-0.5, 0.5]))
    np.testing.assert_array_equal(joined(points, pieces, seed=0), labels)


def test_a_point_far_outside_is_left_out():
    points, labels = blobs([100, 100])
    points[5] += 30
    found = fenced(points, labels)
    assert found[5] == NOISE and np.mean(found == NOISE) < 0.02
    assert fenced(np.zeros((20, 2)), np.zeros(20, dtype=int)).tolist() == [0] * 20


def test_small_groups_are_left_out_and_the_others_numbered_without_gaps():
    labels = np.array([3, 3, 3, 0, 2, 2, NOISE])
    assert without_small(labels, 2).tolist() == [1, 1, 1, NOISE, 0, 0, NOISE]
    assert without_small(np.full(3, NOISE), 2).tolist() == [NOISE] * 3


def test_of_a_sample_the_smallest_group_is_smaller_in_proportion():
    points, _ = blobs([40, 6])
    assert cluster(points, seed=0).max() == 0
    assert cluster(points, seed=0, of=92).max() == 1


def test_means_are_those_of_a_loop_and_some_rows_are_all_where_they_are_few():
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(30, 4)), np.arange(30) % 3
    np.testing.assert_allclose(means(points, labels), [points[labels == number].mean(axis=0) for number in range(3)])
    assert some(5, 5, 0).tolist() == [0, 1, 2, 3, 4]
    rows = some(100, 30, 0)
    assert len(set(rows)) == 30 and (np.diff(rows) > 0).all()
