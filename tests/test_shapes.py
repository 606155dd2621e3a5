"""Measures of shape have their known values on shapes that one can compute by hand."""

import numpy as np
import pytest

from benchmarks.shapes import compare, measure, rotational_power

VOXEL = 10.0


def grid(side=32):
    place = (np.arange(side) - (side - 1) / 2) * VOXEL
    return np.meshgrid(place, place, place, indexing="ij")  # z, y, x in A


def smooth(inside):
    """1 inside, 0 outside, with an edge of a voxel."""
    return (1 / (1 + np.exp(inside / 4))).astype(np.float32)


def ball(radius):
    z, y, x = grid()
    return smooth(np.sqrt(x**2 + y**2 + z**2) - radius)


def propeller(n):
    """n balls in a ring about z, with a smaller one above each, a little further on: no other symmetry."""
    z, y, x = grid()
    distances = []
    for angle in 2 * np.pi * np.arange(n) / n:
        for radius, size, height, further in ((60.0, 25.0, -15.0, 0.0), (60.0, 15.0, 30.0, 0.5)):
            centre = radius * np.cos(angle + further), radius * np.sin(angle + further)
            distances.append(np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - height) ** 2) - size)
    return smooth(np.min(distances, axis=0))


def test_a_ball_is_as_compact_as_can_be_and_has_power_in_degree_0_alone():
    values = measure(ball(60.0), VOXEL)
    assert values["residues"] == pytest.approx(4 / 3 * np.pi * 60**3 / 133, rel=0.05)
    assert values["radius of gyration over that of a ball"] == pytest.approx(1, abs=0.05)  # the edge is soft
    assert values["longest over middle axis"] == pytest.approx(1, abs=0.01)
    assert values["occupied share of the shell at 0.5 radius"] == 1
    assert sum(values[f"rotational power, degree {degree}"] for degree in range(1, 9)) < 0.01
    assert values["best agreement after a turn by 1/3"] > 0.99


def test_an_ellipsoid_has_its_axes():
    z, y, x = grid()
    values = measure(smooth(60 * (np.sqrt((x / 90) ** 2 + (y / 60) ** 2 + (z / 40) ** 2) - 1)), VOXEL)
    assert values["longest over middle axis"] == pytest.approx(90 / 60, rel=0.05)
    assert values["middle over shortest axis"] == pytest.approx(60 / 40, rel=0.05)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_propeller_of_n_blades_agrees_with_itself_after_a_turn_by_1_over_n_and_not_after_others(n):
    values = measure(propeller(n), VOXEL)
    assert values[f"best agreement after a turn by 1/{n}"] > 0.98
    for other in {2, 3, 4} - {n}:
        if n % other:
            assert values[f"best agreement after a turn by 1/{other}"] < 0.9


def test_a_harmonic_has_all_its_power_in_its_degree():
    z, y, x = grid()
    length = np.sqrt(x**2 + y**2 + z**2)
    power = rotational_power((np.exp(-((length / 80) ** 2)) * (3 * (z / length) ** 2 - 1)).astype(np.float32), 8.0)
    assert power[2] > 0.95
    assert power.sum() == pytest.approx(1)


def test_the_distance_of_two_samples_is_that_of_their_distribution_functions():
    row = compare("size", [1.0, 2.0, 3.0, 4.0], [3.5, 4.5, 5.5, 6.5])
    assert row["distance"] == 0.75  # below 3.5: three of four, and none
    assert row["real"] == [1.75, 2.5, 3.25]
