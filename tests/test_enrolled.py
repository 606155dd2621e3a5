"""Thresholds and figures of enrolled classes, against naive loops and cases whose answer is known."""

import math
from dataclasses import replace

import numpy as np
import pytest

from evaluation.enrolled import NewClass, enrol, left_out_means, spread, threshold_between, with_prototypes
from evaluation.junk import JunkCalibration
from evaluation.rejection import (
    CALIBRATED,
    Calibration,
    calibrate,
    calibrated_score,
    class_knn_cosine,
    class_scores,
    classify,
    unit,
)

AXES = np.eye(8)


def around(axis: int, n: int, seed: int, scatter: float = 0.2) -> np.ndarray:
    return AXES[axis] + scatter * np.random.default_rng(seed).normal(size=(n, 8))


def new_class(name: str, axis: int, n: int = 40, cohort: int = 60, towards: float = 0.0) -> NewClass:
    """Examples about an axis; a cohort about the next one, drawn towards the class's."""
    others = unit(around(axis + 1, cohort, 7) + towards * AXES[axis]) if cohort else np.empty((0, 8))
    return NewClass(name, "examples", around(axis, n, axis), np.arange(n), others, "shapes")


@pytest.fixture(scope="module")
def known() -> Calibration:
    """Three known classes, about the first axes."""
    labels = np.repeat(np.arange(3), 30)
    sets = [np.concatenate([around(axis, 30, seed + axis) for axis in range(3)]) for seed in (20, 40)]
    return calibrate((sets[0], labels), (sets[1], labels), 3)


def test_the_spread_is_the_score_against_the_others_without_copies_of_the_same_particle():
    rows, particles = around(0, 23, 3), np.arange(23) // 2  # copies in pairs, the last one alone
    found = spread(rows, particles)
    for row in range(23):
        others = unit(rows)[particles != particles[row]]
        k = math.ceil(0.1 * len(others) - 1e-9)
        assert found[row] == pytest.approx(np.sort(others @ unit(rows)[row])[::-1][k - 1])


def test_left_out_means_are_those_of_the_others():
    rows, particles = around(0, 9, 3), np.arange(9) % 4
    for row, mean in enumerate(left_out_means(rows, particles)):
        np.testing.assert_allclose(mean, unit(rows)[particles != particles[row]].mean(axis=0))


def test_the_threshold_is_halfway_where_nothing_overlaps_and_the_cohorts_where_it_does():
    own, others = np.linspace(0.8, 1.0, 101), np.linspace(0.0, 0.4, 101)
    assert threshold_between(own, others, 0.1) == pytest.approx((0.81 + 0.36) / 2, abs=0.002)
    crossing = np.linspace(0.5, 1.0, 101)
    threshold = threshold_between(own, crossing, 0.1)
    assert np.mean(crossing >= threshold) <= 0.1 < np.mean(crossing >= threshold - 0.01)
    assert threshold_between(own, others[:0], 0.1) == pytest.approx(0.81)  # 5 of 101 lie below
    alone = threshold_between(None, crossing, 0.1)
    assert alone == threshold and np.isfinite(threshold_between(None, np.array([0.3]), 0.1))
    with pytest.raises(ValueError, match="one particle, and no other shapes"):
        threshold_between(None, others[:0], 0.1)


@pytest.mark.parametrize("score", CALIBRATED)
def test_enrolled_classes_stand_beside_the_known_ones_whose_answers_stay(known, score):
    shapes = np.concatenate([around(axis, 10, 92 + axis) for axis in (3, 5, 7)])
    known = replace(known, cohort=shapes, cohort_labels=np.repeat(np.arange(3), 10))
    before = replace(known, score=score, threshold=calibrated_threshold(known, score))
    found = enrol(before, ["a", "b", "c"], [new_class("d", 4), new_class("e", 6)])
    assert found.classes == ["a", "b", "c", "d", "e"] and found.known_before == found.known_after == 1
    volumes = np.concatenate([around(axis, 20, 90) for axis in (0, 1, 2, 4, 6)])
    named = classify(volumes, found.calibration.prototypes)[0]
    accepted = calibrated_score(volumes, found.calibration) >= found.calibration.threshold
    assert (named == np.repeat(np.arange(5), 20)).mean() > 0.97 and accepted.mean() > 0.85
    strangers = around(3, 200, 91)
    assert np.mean(calibrated_score(strangers, found.calibration) >= found.calibration.threshold) < 0.1
    if score != "mahalanobis":  # whose covariance all classes share
        shared = named < 3
        np.testing.assert_allclose(
            calibrated_score(volumes[shared], found.calibration), calibrated_score(volumes[shared], before), atol=0.05
        )


def test_the_score_of_enrolled_classes_is_not_less_a_cohorts(known):
    known = replace(known, score="knn_less_cohort", cohort=around(5, 30, 92), cohort_labels=np.arange(30) % 3)
    once = enrol(known, ["a", "b", "c"], [new_class("d", 4)])
    twice = enrol(once.calibration, once.classes, [new_class("e", 6)]).calibration
    volumes = np.concatenate([around(axis, 5, 93) for axis in (0, 4, 6)])
    plain, less = class_scores(volumes, replace(twice, score="knn_cosine")), class_scores(volumes, twice)
    nearest = class_knn_cosine(volumes, known.cohort, known.cohort_labels, np.ones(3, dtype=int))
    np.testing.assert_allclose(less[:, :3], plain[:, :3] - nearest[:, None])
    np.testing.assert_allclose(less[:, 3:], plain[:, 3:])
    alone = enrol(known, ["a", "b", "c"], [new_class("d", 4)], keep_known=False).calibration
    assert (alone.enrolled, once.calibration.enrolled, twice.enrolled) == (1, 1, 2)


def calibrated_threshold(known: Calibration, score: str) -> float:
    return float(np.quantile(calibrated_score(known.reference, replace(known, score=score)), 0.02))


def test_a_score_is_that_of_the_nearest_class_moved_by_its_threshold(known):
    found = enrol(known, ["a", "b", "c"], [new_class("d", 4)]).calibration
    volumes = np.concatenate([around(0, 5, 1), around(4, 5, 2)])
    for row, volume in enumerate(volumes):
        named = int(np.argmax(found.prototypes @ unit(volume[None])[0]))
        own = class_scores(volume[None], found)[0, named]
        expected = own - found.class_thresholds[named] + found.threshold
        assert calibrated_score(volumes, found)[row] == pytest.approx(expected)
    assert list(found.class_thresholds[:3]) == [known.threshold] * 3 and found.threshold == known.threshold


def test_how_sure_a_class_is_follows_from_how_alike_others_are(known):
    apart, close = (enrol(known, ["a", "b", "c"], [new_class("d", 4, towards=pull)]) for pull in (0.0, 4.0))
    (sure,), (unsure,) = apart.enrolled, close.enrolled
    assert sure.accuracy == 1 and sure.refused < 0.05 and sure.false_acceptance == 0 and sure.cohort_n == 60
    assert unsure.false_acceptance <= 0.1 and unsure.refused > 0.3
    twin = enrol(known, ["a", "b", "c"], [replace(new_class("twin", 0), embeddings=around(0, 40, 77))])
    (one,) = twin.enrolled
    assert one.rival == "a" and one.rival_cosine > 0.95 and one.accuracy < 0.8 and twin.known_after < twin.known_before


def test_enrolled_classes_alone_leave_the_known_ones_out(known):
    found = enrol(known, ["a", "b", "c"], [new_class("d", 4), new_class("e", 6)], keep_known=False)
    assert found.classes == ["d", "e"] and found.known_before is None
    assert found.calibration.prototypes.shape == (2, 8) and set(found.calibration.reference_labels) == {0, 1}
    assert found.calibration.threshold == pytest.approx(np.median(found.calibration.class_thresholds))
    again = Calibration.read(found.calibration.content())
    volumes = around(4, 9, 5)
    np.testing.assert_array_equal(calibrated_score(volumes, again), calibrated_score(volumes, found.calibration))


def test_classes_are_added_to_enrolled_ones_and_to_a_calibration_of_before(known):
    first = enrol(known, ["a", "b", "c"], [new_class("d", 4)])
    second = enrol(first.calibration, first.classes, [new_class("e", 6)])
    both = enrol(known, ["a", "b", "c"], [new_class("d", 4), new_class("e", 6)])
    assert second.classes == both.classes
    np.testing.assert_allclose(second.calibration.class_thresholds, both.calibration.class_thresholds)
    old = replace(known, neighbours=None, class_false_rejection=None)
    assert list(enrol(old, ["a", "b", "c"], [new_class("d", 4)]).calibration.neighbours) == [10, 10, 10, 4]
    plain = replace(known, score="max_cosine", reference=None, reference_labels=None, neighbours=None)
    assert enrol(plain, ["a", "b", "c"], [new_class("d", 4)]).calibration.reference is None


def test_one_example_rests_on_the_cohort_alone(known):
    (one,) = enrol(known, ["a", "b", "c"], [new_class("d", 4, n=1)]).enrolled
    assert one.accuracy is None and one.refused is None and one.false_acceptance <= 0.1
    with pytest.raises(ValueError, match="one particle"):
        enrol(known, ["a", "b", "c"], [new_class("d", 4, n=1, cohort=0)])


def test_enrolled_classes_are_particles_to_what_tells_junk(known):
    new = [new_class("d", 4), new_class("e", 6)]
    found = enrol(known, ["a", "b", "c"], new)
    junk = JunkCalibration(AXES[:3], unit(AXES[4:5] + 0.3 * AXES[5:6]), 0.0)
    assert junk.is_junk(new[0].embeddings).mean() > 0.9
    wider, told = with_prototypes(junk, found, new)
    assert len(wider.particles) == 5 and told.enrolled[0].junk < 0.5
    assert told.enrolled[0].junk == pytest.approx(wider.is_junk(new[0].embeddings).mean())
    assert with_prototypes(None, found, new) == (None, found)
