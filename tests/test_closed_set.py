"""The linear probe, and the closed-set report against hand-computed cases and scikit-learn."""

import json
import time

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_fscore_support

from evaluation import closed_set
from evaluation.bootstrap import Resampling, interval, mean_interval, number_particles, particle_weights, rows_per_class
from evaluation.closed_set import closed_set_report, confusion_matrix, linear_probe
from evaluation.figures import plain
from report.closed_set import format_closed_set


def clusters(n: int, seed: int, spread: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """`n` unit embeddings around three axes, and their classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    points = np.eye(8)[labels] + spread * rng.normal(size=(n, 8))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32), labels


def test_probe_separates_clusters_and_leaves_its_inputs_alone():
    train, valid, test = clusters(300, 0, 0.2), clusters(60, 1, 0.2), clusters(90, 2, 0.2)
    copies = [array.copy() for array in (*train, *valid, test[0])]
    probe = linear_probe(*train, *valid, test[0], seed=0)
    assert np.mean(probe.predictions == test[1]) > 0.97
    assert probe.regularisation in closed_set.REGULARISATIONS and probe.unfinished == ()
    assert (probe.fitted, probe.given) == (300, 300)
    for before, after in zip(copies, (*train, *valid, test[0]), strict=True):
        np.testing.assert_array_equal(before, after)


def test_probe_does_not_depend_on_the_scale_or_origin_of_the_embeddings():
    train, valid, test = clusters(150, 0), clusters(60, 1), clusters(60, 2)
    first = linear_probe(*train, *valid, test[0], seed=0)
    moved = linear_probe(train[0] * 50 + 3, train[1], valid[0] * 50 + 3, valid[1], test[0] * 50 + 3, seed=0)
    np.testing.assert_array_equal(first.predictions, moved.predictions)


def test_a_probe_that_does_not_converge_gives_its_best_and_says_so(monkeypatch):
    monkeypatch.setattr(closed_set, "MAX_STEPS", 2)
    train, valid = clusters(90, 0, 0.2), clusters(30, 1, 0.2)
    probe = linear_probe(*train, *valid, valid[0], seed=0)
    assert probe.unfinished == closed_set.REGULARISATIONS and np.mean(probe.predictions == valid[1]) > 0.9


def test_probe_agrees_with_fits_that_start_from_nothing():
    train, valid, test = clusters(300, 0), clusters(60, 1), clusters(200, 2)
    probe = linear_probe(*train, *valid, test[0], seed=0)
    center = train[0].mean(axis=0, dtype=float)
    scaled = [(part[0] - center) / (train[0] - center).std() for part in (train, valid, test)]
    fits = {
        strength: LogisticRegression(C=strength, max_iter=5000).fit(scaled[0], train[1])
        for strength in closed_set.REGULARISATIONS
    }
    accuracies = {strength: fit.score(scaled[1], valid[1]) for strength, fit in fits.items()}
    assert probe.regularisation == max(accuracies, key=accuracies.get)  # the first of the best
    assert np.mean(probe.predictions == fits[probe.regularisation].predict(scaled[2])) > 0.99


def test_probe_is_fitted_to_a_share_of_many_rows_as_many_of_each_class(monkeypatch):
    monkeypatch.setattr(closed_set, "MOST_PER_CLASS", 20)
    train, valid = clusters(900, 0, 0.2), clusters(90, 1, 0.2)
    probe = linear_probe(*train, *valid, valid[0], seed=0)
    assert (probe.fitted, probe.given) == (60, 900) and np.mean(probe.predictions == valid[1]) > 0.95
    monkeypatch.setattr(closed_set, "MOST_ROWS", 30)
    assert linear_probe(*train, *valid, valid[0], seed=0).fitted == 30


def test_rows_per_class_are_drawn_evenly_and_repeat_with_the_seed():
    classes = np.array(["a"] * 50 + ["b"] * 3)[np.random.default_rng(0).permutation(53)]
    rows = rows_per_class(classes, 5, seed=1)
    assert sorted(classes[rows]) == ["a"] * 5 + ["b"] * 3 and list(rows) == sorted(set(rows))
    np.testing.assert_array_equal(rows, rows_per_class(classes, 5, seed=1))
    counts = sum(np.bincount(rows_per_class(classes, 5, seed), minlength=53) for seed in range(400))
    assert (counts[classes == "b"] == 400).all() and abs(counts[classes == "a"] - 40).max() < 35


def test_probe_refuses_one_class_empty_sets_and_nan():
    (train, labels), (valid, valid_labels) = clusters(30, 0), clusters(9, 1)
    with pytest.raises(ValueError, match="fewer than two classes"):
        linear_probe(train, np.zeros(30, int), valid, valid_labels, valid, seed=0)
    with pytest.raises(ValueError, match="test embeddings are empty"):
        linear_probe(train, labels, valid, valid_labels, valid[:0], seed=0)
    with pytest.raises(ValueError, match="training embeddings are empty or not finite"):
        linear_probe(np.full_like(train, np.nan), labels, valid, valid_labels, valid, seed=0)


def test_report_of_a_case_computed_by_hand():
    labels, predictions = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 0])
    snr = np.array(["infinity", "003", "003", "infinity", "003", "003"])
    report = closed_set_report(labels, predictions, ["a", "b", "c"], snr, np.array(list("ppqrst")), Resampling(20))
    assert report.accuracy.value == pytest.approx(4 / 6)
    assert [*report.per_snr] == ["003", "infinity"]
    assert [level.accuracy.value for level in report.per_snr.values()] == [0.5, 1.0]
    assert [level.n for level in report.per_snr.values()] == [4, 2]
    assert report.mean_over_snrs.value == 0.75
    assert report.confusion_matrix == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert report.n_particles == 5 and report.floor == 0.5
    first, second, third = report.per_class.values()
    assert (first.precision.value, first.recall.value, first.support) == (pytest.approx(2 / 3), pytest.approx(2 / 3), 3)
    assert (second.precision.value, second.recall.value) == (pytest.approx(2 / 3), 1.0)
    assert (third.precision.value, third.recall.value, third.f1.value) == (None, 0.0, 0.0)
    json.dumps(plain(report), allow_nan=False)


def test_report_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(5, size=400), rng.integers(5, size=400)
    report = closed_set_report(labels, predictions, list("abcde"), np.repeat("003", 400), np.arange(400), Resampling(5))
    precision, recall, f1, support = precision_recall_fscore_support(labels, predictions)
    for key, expected in (("precision", precision), ("recall", recall), ("f1", f1), ("support", support)):
        np.testing.assert_allclose([entry[key] for entry in plain(report)["per_class"]], expected)
    assert report.macro_f1.value == pytest.approx(f1.mean())


def test_report_does_not_depend_on_the_order_of_rows_and_repeats_with_its_seed():
    rng = np.random.default_rng(1)
    labels, predictions = rng.integers(3, size=60), rng.integers(3, size=60)
    snr, particles = np.tile(["003", "005"], 30), np.arange(60) // 2
    order = rng.permutation(60)
    report = closed_set_report(labels, predictions, list("abc"), snr, particles, Resampling(50, 4))
    again = closed_set_report(
        labels[order], predictions[order], list("abc"), snr[order], particles[order], Resampling(50, 4)
    )
    assert report == again


def test_report_as_text_shows_every_class_and_count():
    labels = np.array([0, 1, 1])
    report = closed_set_report(
        labels, labels, ["1bxn", "a_longer_name"], np.repeat("003", 3), np.arange(3), Resampling(10)
    )
    text = format_closed_set(report)
    assert "SNR 0.03" in text and "a_longer_name" in text and "n = 3" in text and "column: predicted" in text


def test_report_survives_a_class_without_rows():
    report = closed_set_report(
        np.zeros(4, int), np.zeros(4, int), ["a", "b"], np.repeat("1", 4), np.arange(4), Resampling(5)
    )
    assert plain(report)["per_class"][1] == {
        "class": "b",
        **dict.fromkeys(["precision", "recall", "f1"]),
        **dict.fromkeys(["precision_interval", "recall_interval", "f1_interval"]),
        "support": 0,
    }
    assert "-" in format_closed_set(report)


def test_confusion_matrix_refuses_an_index_out_of_range():
    with pytest.raises(ValueError, match="expected 0 to 1"):
        confusion_matrix(np.array([0, 2]), np.array([0, 1]), 2)


def test_copies_of_a_particle_are_resampled_together():
    particles = np.array(["x", "y", "x", "z"])
    for weights in particle_weights(particles, Resampling(20)):
        assert weights[0] == weights[2] and weights[0] + weights[1] + weights[3] == 3


def test_interval_over_particles_is_wider_than_over_rows():
    values = np.repeat(np.random.default_rng(0).random(50), 4)
    low, high = mean_interval(values, np.arange(200) // 4, Resampling(400))
    row_low, row_high = mean_interval(values, np.arange(200), Resampling(400))
    assert low < values.mean() < high and high - low > 1.5 * (row_high - row_low)
    assert interval([np.nan, 1.0]) is None


def test_numbers_of_particles_are_shared_by_sets_and_resample_as_their_names_do():
    first, second = np.array(["p9", "p10", "p9"]), np.array(["p1", "p10"])
    numbers = number_particles(first, second)
    assert [list(of_set) for of_set in numbers] == [[2, 1, 2], [0, 1]]
    for names, of_set in zip((first, second), numbers, strict=True):
        drawn = [list(particle_weights(given, Resampling(5))) for given in (names, of_set)]
        np.testing.assert_array_equal(*drawn)


def test_particles_that_are_numbered_once_resample_much_faster_than_names():
    names = np.array([f"tomogram_7/particle_{row // 3:07d}.mrc" for row in range(60_000)])
    (numbers,) = number_particles(names)
    times = {}
    for given in (names, numbers):
        start = time.process_time()
        next(iter(particle_weights(given, Resampling(1))))
        times[given.dtype.kind] = time.process_time() - start
    assert times["i"] < times["U"] / 3


def test_a_report_of_very_many_classes_has_no_matrix_on_the_terminal():
    labels = np.arange(80)
    names = [f"class{number}" for number in labels]
    report = closed_set_report(labels, labels, names, np.repeat("003", 80), labels, Resampling(2))
    assert "confusion matrix" not in format_closed_set(report) and "class79" in format_closed_set(report)
