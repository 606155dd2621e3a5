"""Particle or junk, by cosines to directions of both."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evaluation import sections
from evaluation.bootstrap import Resampling
from evaluation.embedded import Embedded
from evaluation.figures import plain
from evaluation.junk import JunkCalibration, calibrate_junk, junk_of_loss, junk_score
from evaluation.ranking import auroc
from evaluation.rejection import prototypes
from report.junk import junk_tables
from report.terms import TERMS


def test_the_score_is_the_nearest_junk_less_the_nearest_particle():
    particles, junk = np.array([[2.0, 0, 0], [0, 1, 0]]), np.array([[0, 0, 3.0]])
    found = junk_score(np.array([[1.0, 0, 0], [0, 0, 5], [0, 3, 4]]), particles, junk)
    assert found == pytest.approx([-1.0, 1.0, 0.8 - 0.6])


def test_the_threshold_leaves_the_stated_share_of_knowns_and_finds_junk():
    generator = np.random.default_rng(0)
    axes = np.eye(6)
    particles = axes[:4]
    known = axes[generator.integers(4, size=1000)] + 0.3 * generator.normal(size=(1000, 6))
    kinds = np.arange(200) % 2
    junk = axes[4 + kinds] + 0.3 * generator.normal(size=(200, 6))
    calibration = calibrate_junk(2 * particles, prototypes(junk, kinds, 2), known, 0.02)
    assert calibration.particles == pytest.approx(particles) and calibration.junk == pytest.approx(axes[4:], abs=0.1)
    assert calibration.is_junk(known).mean() == pytest.approx(0.02, abs=0.002)
    assert calibration.is_junk(junk).mean() > 0.95
    assert np.array_equal(calibration.score(known), junk_score(known, particles, calibration.junk))


def test_a_checkpoints_record_gives_the_calibration_again_and_an_empty_one_none():
    generator = np.random.default_rng(1)
    made = calibrate_junk(*(generator.normal(size=(n, 4)).astype(np.float32) for n in (5, 2, 30)))
    read = JunkCalibration.read(made.content())
    volumes = generator.normal(size=(9, 4))
    assert np.array_equal(read.score(volumes), made.score(volumes)) and read.threshold == made.threshold
    assert JunkCalibration.read({}) is None


def test_the_last_classes_of_a_loss_are_junk():
    weights = {"head.bias": torch.zeros(5), "head.weight": torch.eye(5), "center.centers": torch.ones(5, 5)}
    found = junk_of_loss(weights, 2, np.eye(5)[:3])
    assert np.array_equal(found.particles, np.eye(5)[:3]) and np.array_equal(found.junk, np.eye(5)[3:])
    assert junk_of_loss({"weight": torch.eye(5)}, 2, np.eye(5)[:3]).score(np.eye(5)[4:]) == pytest.approx([1.0])
    assert junk_of_loss({"center.centers": torch.ones(5, 5)}, 2, np.eye(5)[:3]) is None


def test_particles_of_each_set_are_told_from_junk():
    generator, axes = np.random.default_rng(2), np.eye(6)

    def about(axis: int, n: int) -> np.ndarray:
        return axes[axis] + 0.2 * generator.normal(size=(n, 6))

    def rows(axis: int, first: int) -> Embedded:
        particles = first + np.arange(30) // 2
        return Embedded(about(axis, 30), np.full(30, "a"), particles, np.full(30, "003"))

    calibration = JunkCalibration(axes[:3], axes[4:], -0.2)
    volumes, kinds = np.concatenate([about(4, 20), about(0, 5)]), ["junk_bead"] * 20 + ["junk_off_centre"] * 5
    sets = {"test": rows(0, 0), "unseen": rows(5, 15)}  # the unseen class looks like junk
    found = sections.junk(calibration, volumes, kinds, sets, Resampling(5))
    json.dumps(plain(found), allow_nan=False)
    assert {kind: one.found for kind, one in found.per_kind.items()} == {"junk_bead": 1.0, "junk_off_centre": 0.0}
    assert found.found.value == 0.8 and found.n == 25
    known, unseen = found.sets["test"], found.sets["unseen"]
    score = {name: -junk_score(part.embeddings, axes[:3], axes[4:]) for name, part in sets.items()}
    assert known.auroc.value == auroc(score["test"], -calibration.score(volumes)) > 0.8 > unseen.auroc.value
    assert known.called_junk.value == 0 and unseen.called_junk.value == 1
    (table,) = junk_tables(SimpleNamespace(junk=found))
    assert "bead 100%, off centre 0%" in table.note and set(table.terms) <= set(TERMS)
    assert [label for label, _ in table.rows] == ["known classes (test.csv)", "unseen.csv"]
    assert junk_tables(SimpleNamespace(junk=None)) == []
