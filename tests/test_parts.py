import itertools

import numpy as np
import pandas as pd
import pytest

from common.cli import InputError
from loader.columns import LABEL, PARTICLE, TOMOGRAM
from loader.parts import PARTS, deal, reached, split_particles, split_tomograms


def particles(counts):
    """One row a particle: `counts` (T, C) of each class in each tomogram."""
    rows = [
        (f"p{tomogram}-{label}-{number}", f"c{label}", f"t{tomogram}")
        for tomogram, label in np.ndindex(np.shape(counts))
        for number in range(counts[tomogram][label])
    ]
    return pd.DataFrame(rows, columns=[PARTICLE, LABEL, TOMOGRAM])


def fractions_of(table, part_of):
    return pd.crosstab(table[LABEL], table[PARTICLE].map(part_of), normalize="index")[list(PARTS)].to_numpy()


@pytest.mark.parametrize("wished", [(0.7, 0.15, 0.15), (0.6, 0.1, 0.3), (0.34, 0.33, 0.33), (0.05, 0.05, 0.9)])
def test_whole_tomograms_reach_the_wished_fractions_where_there_are_enough(wished):
    table = particles(np.full((40, 3), 5))
    part_of = split_tomograms(table, wished, 9, "x")
    assert table.groupby(TOMOGRAM)[PARTICLE].agg(lambda names: len({part_of[name] for name in names})).eq(1).all()
    np.testing.assert_allclose(fractions_of(table, part_of), np.tile(wished, (3, 1)), atol=1 / 40)


@pytest.mark.parametrize(("groups", "worse"), [(4, 0), (7, 0), (9, 0.01)])
def test_few_tomograms_are_dealt_out_as_well_as_any_way_of_dealing(groups, worse):
    """Against every way; of more tomograms than are tried so, nearly."""
    counts = np.random.default_rng(3).integers(1, 30, (groups, 3))
    wished = np.array([0.6, 0.1, 0.3])
    shares = counts / counts.sum(axis=0)

    def cost(parts):
        return sum(((shares[parts == part].sum(axis=0) - wished[part]) ** 2).sum() for part in range(3))

    ways = itertools.product(range(3), repeat=groups)
    assert (
        cost(deal(counts, wished, 0)) <= min(cost(np.array(way)) for way in ways if len(set(way)) == 3) + worse + 1e-9
    )


def test_a_rare_class_has_a_particle_in_every_part():
    counts = np.full((12, 2), 10)
    counts[:, 1] = 0
    counts[[2, 5, 7], 1] = 1  # three tomograms hold the one particle each of a class
    found = fractions_of(particles(counts), split_tomograms(particles(counts), (0.6, 0.1, 0.3), 1, "x"))
    assert (found[1] > 0).all()
    np.testing.assert_allclose(found[0], [0.6, 0.1, 0.3], atol=0.1)


def test_the_same_seed_deals_alike_and_another_seed_not():
    table = particles(np.full((20, 2), 4))
    first, second, other = (split_tomograms(table, (0.6, 0.1, 0.3), seed, "x") for seed in (1, 1, 2))
    assert first == second != other


def test_a_class_in_too_few_tomograms_is_named():
    counts = np.full((6, 2), 3)
    counts[2:, 1] = 0
    with pytest.raises(
        InputError, match=r"^x: class c1 is in 2 of 6 tomograms; expected at least 3 with --by-tomogram"
    ):
        split_tomograms(particles(counts), (0.6, 0.1, 0.3), 9, "x")


def test_what_was_reached_is_said_beside_what_was_wished():
    table = particles([[4, 2], [1, 2], [1, 2]])
    part_of = {name: PARTS[int(name[1])] for name in table[PARTICLE]}
    assert reached(table, part_of, (0.6, 0.2, 0.2)) == (
        "fractions with whole tomograms: train 0.5, valid 0.25, test 0.25; wished: train 0.6, valid 0.2, test 0.2; "
        "furthest off: class c1, train 0.333, valid 0.333, test 0.333"
    )


@pytest.mark.parametrize("wished", [(0.01, 0.98, 0.01), (0.98, 0.01, 0.01), (0.01, 0.01, 0.98)])
@pytest.mark.parametrize("count", [3, 4, 50])
def test_extreme_fractions_leave_one_particle_at_least_in_each_part(wished, count):
    table = particles([[count]])
    found = pd.Series(split_particles(table, wished, 9)).value_counts()
    assert found.sum() == count and set(found.index) == set(PARTS)
    assert found[PARTS[int(np.argmax(wished))]] == count - 2
