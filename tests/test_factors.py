"""What clusters follow: said where it is so, not said where it is chance."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from evaluation import factors
from evaluation.communities import NOISE
from evaluation.factors import distance, edge_distance, follow_groups, follow_number, followed, random_distances

SIZES = (60, 40, 30, 15)


def labels(noise: int = 50) -> np.ndarray:
    """Clusters of SIZES particles, and some particles in none."""
    return np.concatenate([np.repeat(np.arange(len(SIZES)), SIZES), np.full(noise, NOISE)])


def independent(seed: int) -> dict[str, np.ndarray]:
    """Factors that have nothing to do with the clusters."""
    rng, count = np.random.default_rng(seed), len(labels())
    return {
        "brightness": rng.normal(size=count),
        "SNR": rng.choice([0.03, 0.05, np.inf], count),
        "tomogram": rng.choice([f"t{number}" for number in range(12)], count),
        "border": rng.exponential(size=count),
    }


def test_a_cluster_of_one_tomogram_is_said_to_follow_it_and_no_other_is():
    values = independent(0)
    values["tomogram"][labels() == 2] = "t3"
    (found,) = followed(labels(), values, seed=0)
    assert (found.cluster, found.factor) == (2, "tomogram") and found.effect > 0.6 and found.p <= 0.05
    assert found.own == 1 and found.others < 0.2 and (found.groups, found.groups_there) == (("t3",), 12)


def test_a_cluster_of_a_few_tomograms_among_many_is_found_and_they_are_counted():
    rng, numbers = np.random.default_rng(0), labels(500)
    tomograms = rng.integers(60, size=len(numbers))
    tomograms[numbers == 0] = rng.integers(8, size=60)
    (found,) = followed(numbers, {"tomogram": tomograms.astype(str)}, seed=0)
    assert found.cluster == 0 and found.groups_there == 60
    assert 3 < len(found.groups) <= 8 and {*found.groups} <= {*map(str, range(8))}
    chosen = np.isin(tomograms.astype(str), found.groups)
    assert (found.own, found.others) == (chosen[numbers == 0].mean(), pytest.approx(chosen[numbers != 0].mean()))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_cluster_of_noisy_particles_is_said_to_follow_the_noise(sign):
    values = independent(1)
    values["noise"] = np.random.default_rng(1).normal(size=len(labels())) + sign * 2 * (labels() == 1)
    (found,) = followed(labels(), values, seed=0)
    assert (found.cluster, found.factor) == (1, "noise") and found.groups == ()
    assert (found.effect > 0.85) == (sign > 0)
    medians = [np.median(values["noise"][labels() == 1]), np.median(values["noise"][labels() != 1])]
    assert [found.own, found.others] == medians


def test_of_independent_factors_hardly_anything_is_said():
    said = [bool(followed(labels(), independent(seed), seed)) for seed in range(60)]
    assert np.mean(said) <= 0.05


def test_p_of_independent_groups_is_uniform_or_larger_where_the_limit_is_taken_off(monkeypatch):
    monkeypatch.setattr(factors, "LEAST_EXCESS", -np.inf)
    monkeypatch.setattr(factors, "PERMUTATIONS", 199)
    lowest = []
    for seed in range(150):
        found = follow_groups("tomogram", labels(), independent(seed)["tomogram"], seed)
        assert len(found) == len(SIZES)
        lowest.append(min(one.p for one in found))
    assert np.mean(np.array(lowest) <= 0.1) < 0.17  # two standard errors above 0.1, and a half


def test_p_of_independent_numbers_is_uniform_or_larger_where_the_limit_is_taken_off(monkeypatch):
    monkeypatch.setattr(factors, "LEAST_AUC", 0)
    lowest = []
    for seed in range(300):
        found = follow_number("brightness", labels(), independent(seed)["brightness"])
        lowest.append(min(one.p for one in found))
    assert np.mean(np.array(lowest) <= 0.1) < 0.14


def test_a_small_difference_is_not_said_however_sure_it_is():
    numbers = np.repeat([0, NOISE], 20_000)
    values = np.random.default_rng(0).normal(size=40_000) + 0.3 * (numbers == 0)
    assert followed(numbers, {"brightness": values}, seed=0) == []


def test_the_rank_test_is_that_of_scipy(monkeypatch):
    monkeypatch.setattr(factors, "LEAST_AUC", 0)
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(size=len(labels())) + 0.3 * (labels() == 0), 1)
    found = follow_number("brightness", labels(), values)
    assert [one.cluster for one in found] == [*range(len(SIZES))]
    for one in found:
        mine = labels() == one.cluster
        expected = mannwhitneyu(values[mine], values[~mine], use_continuity=False, method="asymptotic")
        assert one.effect == pytest.approx(expected.statistic / (mine.sum() * (~mine).sum()))
        assert one.p == pytest.approx(min(1, len(SIZES) * expected.pvalue))


def test_total_variation_is_that_of_a_loop():
    counts, inside = np.array([5, 7, 8]), np.array([4, 0, 2])
    expected = sum(abs(mine / 6 - (count - mine) / 14) for mine, count in zip(inside, counts, strict=True)) / 2
    assert distance(inside, counts) == pytest.approx(expected)
    drawn = random_distances(counts, 6, np.random.default_rng(0))
    assert drawn.shape == (factors.PERMUTATIONS,) and 0 <= drawn.min() < drawn.max() <= 1


def test_what_does_not_vary_or_is_not_known_is_left_out():
    numbers = labels()
    constant = np.full(len(numbers), 1.0)
    assert followed(numbers, {"a": constant, "b": np.full(len(numbers), "x"), "c": constant * np.nan}, seed=0) == []
    own = np.arange(len(numbers)).astype(str)  # each particle in a group of its own
    assert followed(numbers, {"tomogram": own}, seed=0) == []
    assert followed(np.zeros(40, int), {"noise": np.arange(40.0)}, seed=0) == []  # no others to compare with


def test_particles_of_unknown_value_are_left_out_of_the_comparison():
    values = independent(0)
    values["tomogram"][labels() == 2] = "t3"
    values["tomogram"][:20] = ""
    values["SNR"] = values["SNR"] * np.where(labels() == 1, np.nan, 1)
    assert [(found.cluster, found.factor) for found in followed(labels(), values, seed=0)] == [(2, "tomogram")]


def test_the_border_is_that_of_the_particles_of_a_tomogram():
    positions = np.array([[0, 0, 0], [10, 100, 200], [5, 30, 50], [9, 9, 9], [np.nan] * 3], dtype=float)
    border, middle = edge_distance(positions, np.array(["a", "a", "a", "b", "a"]))
    np.testing.assert_array_equal(border, [0, 0, 30, 0, np.nan])
    np.testing.assert_array_equal(middle, [5, 5, 0, 0, np.nan])
