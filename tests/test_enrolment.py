"""Few-shot enrolment of unseen classes."""

import json

import numpy as np
import pytest

from evaluation import enrolment
from evaluation.bootstrap import Resampling
from evaluation.enrolment import Enrolment, few_shot
from evaluation.figures import NO_FIGURE, plain


def clusters(n_particles: int, spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings of three classes, two copies a particle; class names; particle names."""
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(n_particles) % 3, 2)
    embeddings = np.eye(6)[classes] + spread * rng.normal(size=(2 * n_particles, 6))
    return embeddings, np.array(["a", "b", "c"])[classes], np.repeat(np.arange(n_particles), 2)


def test_tight_clusters_are_recognised_from_one_shot():
    result = few_shot(*clusters(30, 0.01), Enrolment(1, 10), Resampling())
    assert result.accuracy.value == 1 and result.chance == pytest.approx(1 / 3) and result.n == 60
    assert [one.accuracy.value for one in result.per_class.values()] == [1, 1, 1]
    json.dumps(plain(result), allow_nan=False)


def test_more_shots_help_and_known_classes_in_the_gallery_hurt():
    data = clusters(120, 0.8)
    one, twenty = (few_shot(*data, Enrolment(shots, 30), Resampling()).accuracy.value for shots in (1, 20))
    crowded = few_shot(*data, Enrolment(20, 30), Resampling(), np.random.default_rng(1).normal(size=(10, 6)))
    assert one + 0.1 < twenty and crowded.accuracy.value < twenty
    assert crowded.chance == pytest.approx(1 / 13) and crowded.gallery == 13


def test_one_class_alone_leaves_nothing_to_choose():
    embeddings, labels, particles = clusters(30, 0.01)
    mine = labels == "a"
    of_class = embeddings[mine], labels[mine], particles[mine], Enrolment(1), Resampling()
    alone = few_shot(*of_class)
    assert alone.accuracy == NO_FIGURE and "nothing to choose" in alone.reason
    assert few_shot(*of_class, np.eye(6)[1:2]).accuracy.value == 1


def test_a_query_nearest_to_a_known_prototype_is_wrong():
    embeddings, labels, particles = clusters(30, 0.01)
    result = few_shot(
        embeddings, labels, particles, Enrolment(1, 5), Resampling(), np.eye(6)[:1] + 0.001 * np.eye(6)[1]
    )
    assert result.per_class["b"].accuracy.value == 1 and result.per_class["a"].accuracy.value < 1


def test_a_copy_of_a_shot_is_never_a_query():
    rng = np.random.default_rng(0)
    particles = np.repeat(np.arange(40), 2)
    embeddings = np.repeat(rng.normal(size=(40, 64)), 2, axis=0)  # copies are alike, nothing else is
    labels = np.array(["a", "b"])[particles % 2]
    assert abs(few_shot(embeddings, labels, particles, Enrolment(1), Resampling()).accuracy.value - 0.5) < 0.06


def test_accuracy_of_a_fixed_draw_agrees_with_a_loop(monkeypatch):
    embeddings, labels, particles = clusters(9, 0.7)
    monkeypatch.setattr(enrolment, "_draw_shots", lambda rows, names, shots, rng: rows[[0, 2]])  # particles k and k + 3
    result = few_shot(embeddings, labels, particles, Enrolment(2, 3), Resampling())
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    shots = {name: np.flatnonzero(labels == name)[[0, 2]] for name in "abc"}
    right = []
    for row in range(12, 18):  # the rows of particles 6, 7, 8
        cosines = {
            name: unit[row] @ unit[rows].mean(0) / np.linalg.norm(unit[rows].mean(0)) for name, rows in shots.items()
        }
        right.append(max(cosines, key=cosines.get) == labels[row])
    assert result.accuracy.value == pytest.approx(np.mean(right)) and result.std == 0


def test_too_few_particles_are_said_not_guessed():
    result = few_shot(*clusters(15, 0.1), Enrolment(5), Resampling())
    assert result.accuracy == NO_FIGURE and "has 5 particles; more than 5" in result.reason


def test_result_repeats_with_its_seed_and_inputs_stay():
    data = clusters(30, 0.5)
    copies = [array.copy() for array in data]
    first, again, other = (few_shot(*data, Enrolment(5, 5), Resampling(seed=seed)) for seed in (0, 0, 1))
    assert first == again and first.accuracy != other.accuracy
    for before, after in zip(copies, data, strict=True):
        np.testing.assert_array_equal(before, after)
