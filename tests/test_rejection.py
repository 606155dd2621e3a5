"""Scores and metrics of known against unknown, against hand-computed cases, naive loops and scikit-learn."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis as scipy_mahalanobis
from sklearn.covariance import LedoitWolf
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from evaluation import rejection
from evaluation.rejection import (
    all_scores,
    aupr,
    auroc,
    calibrate,
    calibrated_score,
    classify,
    energy,
    fit_gaussian,
    fit_threshold,
    fpr95,
    knn_cosine,
    mahalanobis,
    max_logit,
    measures,
    oscr,
    prototypes,
    rank,
    roc,
    unit,
)


def tied_scores(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """40 known and 60 unknown scores with many ties."""
    rng = np.random.default_rng(seed)
    return rng.integers(2, 8, size=40) / 4, rng.integers(0, 6, size=60) / 4


def naive_oscr(known: np.ndarray, correct: np.ndarray, unknown: np.ndarray) -> float:
    points = [(0.0, 0.0)]
    for threshold in sorted({*known, *unknown}, reverse=True):
        points.append((np.mean(unknown >= threshold), np.mean((known >= threshold) & correct)))
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))


@pytest.mark.parametrize("seed", range(4))
def test_auroc_aupr_and_roc_agree_with_scikit_learn_on_ties(seed):
    known, unknown = tied_scores(seed)
    truth, scores = np.repeat([1, 0], [40, 60]), np.concatenate([known, unknown])
    assert auroc(known, unknown) == pytest.approx(roc_auc_score(truth, scores))
    assert aupr(known, unknown) == pytest.approx(average_precision_score(truth, scores))
    np.testing.assert_allclose(roc(known, unknown), roc_curve(truth, scores, drop_intermediate=False)[:2])


@pytest.mark.parametrize("seed", range(4))
def test_weights_count_rows_as_often_as_repeats_do(seed):
    known, unknown = tied_scores(seed)
    rng = np.random.default_rng(seed)
    correct, weights = rng.random(40) < 0.8, rng.integers(0, 4, size=100)
    known_rows, unknown_rows = np.repeat(np.arange(40), weights[:40]), np.repeat(np.arange(60), weights[40:])
    repeated = rank(known[known_rows], unknown[unknown_rows], correct[known_rows])
    assert measures(rank(known, unknown, correct), weights) == pytest.approx(measures(repeated))


def test_auroc_is_the_chance_that_a_known_scores_higher():
    known, unknown = tied_scores(0)
    wins = np.mean([(a > b) + 0.5 * (a == b) for a in known for b in unknown])
    assert auroc(known, unknown) == pytest.approx(wins)
    assert auroc(unknown, known) == pytest.approx(1 - wins)
    assert auroc(np.exp(known), np.exp(unknown)) == pytest.approx(wins)


def test_metrics_of_separated_reversed_and_constant_scores():
    high, low, flat = np.array([3.0, 4.0]), np.array([1.0, 2.0]), np.ones(3)
    right = np.array([True, True])
    assert (auroc(high, low), aupr(high, low), fpr95(high, low), oscr(high, right, low)) == (1, 1, 0, 1)
    assert (auroc(low, high), fpr95(low, high), oscr(low, right, high)) == (0, 1, 0)
    assert (auroc(flat, flat), aupr(flat, flat), fpr95(flat, flat)) == (0.5, 0.5, 1)


def test_fpr95_accepts_at_least_95_percent_of_knowns():
    known = np.arange(20.0)  # 95 % of 20 is 19: the threshold is 1
    assert fpr95(known, np.array([0.0, 0.5, 1.0, 2.0])) == 0.5
    tied = np.concatenate([np.zeros(2), np.ones(18)])  # only 90 % lie at 1 or above, so the threshold is 0
    assert fpr95(tied, np.array([0.0, -1.0])) == 0.5


def test_oscr_of_a_case_computed_by_hand():
    known, correct, unknown = np.array([0.9, 0.6, 0.3]), np.array([True, False, True]), np.array([0.6, 0.1])
    # thresholds .9 (0, 1/3), .6 (1/2, 1/3), .3 (1/2, 2/3), .1 (1, 2/3)
    assert oscr(known, correct, unknown) == pytest.approx(0.5 / 3 + 0.5 * 2 / 3)


@pytest.mark.parametrize("seed", range(4))
def test_oscr_agrees_with_a_loop_and_is_bounded_by_accuracy(seed):
    known, unknown = tied_scores(seed)
    correct = np.random.default_rng(seed).random(40) < 0.7
    assert oscr(known, correct, unknown) == pytest.approx(naive_oscr(known, correct, unknown))
    assert oscr(known, correct, unknown) <= correct.mean()
    assert oscr(known, correct, unknown - 9) == pytest.approx(correct.mean())
    assert oscr(known, np.full(40, True), unknown) == pytest.approx(auroc(known, unknown))


@pytest.mark.parametrize(("rate", "expected"), [(0, 0), (0.05, 1), (0.29, 5), (0.5, 10)])
def test_threshold_is_the_highest_that_keeps_the_false_rejection_rate(rate, expected):
    scores = np.random.default_rng(0).permutation(20).astype(float)
    assert fit_threshold(scores, rate) == expected
    assert np.mean(scores < fit_threshold(scores, rate)) <= rate


def test_threshold_on_ties_rejects_fewer_rather_than_more():
    scores = np.array([0.0] * 10 + [1.0] * 90)
    assert fit_threshold(scores, 0.05) == 0.0
    assert fit_threshold(np.ones(3)) == 1.0


def test_empty_and_non_finite_scores_are_refused():
    for bad in (np.array([]), np.array([1.0, np.nan]), np.ones((2, 2))):
        with pytest.raises(ValueError, match="known scores have shape"):
            auroc(bad, np.ones(2))
        with pytest.raises(ValueError, match="known scores have shape"):
            fit_threshold(bad)
    with pytest.raises(ValueError, match="expected 0 <= rate < 1"):
        fit_threshold(np.ones(3), 1.0)


def test_prototypes_are_mean_directions_and_ignore_length():
    embeddings = np.array([[1.0, 0], [0, 5], [-2, 0]])
    expected = [[np.sqrt(0.5), np.sqrt(0.5)], [-1, 0]]
    np.testing.assert_allclose(prototypes(embeddings, np.array([0, 0, 1]), 2), expected, rtol=1e-6)


def test_prototypes_refuse_an_empty_class_and_an_unknown_one():
    for labels in ([0, 0, 0], [0, 1, 2]):
        with pytest.raises(ValueError, match="expected 2 classes, none empty"):
            prototypes(np.eye(3), np.array(labels), 2)
    with pytest.raises(ValueError, match="not finite"):
        prototypes(np.full((2, 3), np.nan), np.array([0, 1]), 2)


def test_an_embedding_of_length_0_is_like_no_class():
    _, cosines = classify(np.zeros((1, 2)), np.eye(2))
    assert cosines.tolist() == [0.0]


def test_classify_gives_nearest_prototype_and_its_cosine():
    labels, cosines = classify(np.array([[3.0, 4.0], [-1.0, 0.0]]), np.eye(2))
    np.testing.assert_array_equal(labels, [1, 1])
    np.testing.assert_allclose(cosines, [0.8, 0.0])


def test_knn_cosine_is_the_kth_largest_cosine_in_chunks_or_not(monkeypatch):
    rng = np.random.default_rng(0)
    rows, reference = rng.normal(size=(7, 5)), rng.normal(size=(20, 5))
    cosines = np.sort(rejection.unit(rows) @ rejection.unit(reference).T, axis=1)
    np.testing.assert_allclose(knn_cosine(rows, reference, 3), cosines[:, -3])
    monkeypatch.setattr(rejection, "CHUNK", 3)
    np.testing.assert_allclose(knn_cosine(rows, reference, 20), cosines[:, 0])
    with pytest.raises(ValueError, match="k = 21 with 20"):
        knn_cosine(rows, reference, 21)


def test_mahalanobis_agrees_with_scipy_and_scikit_learn():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 50)
    train = rng.normal(size=(100, 4)) @ rng.normal(size=(4, 4)) + 5 * labels[:, None]
    gaussian = fit_gaussian(train, labels, 2)
    residuals = train - gaussian.means[labels]
    precision = np.linalg.inv(LedoitWolf(assume_centered=True).fit(residuals).covariance_)
    row = rng.normal(size=4)
    expected = -min(scipy_mahalanobis(row, mean, precision) ** 2 for mean in (train[:50].mean(0), train[50:].mean(0)))
    assert mahalanobis(row[None], gaussian)[0] == pytest.approx(expected)


def test_max_logit_and_energy_of_a_case_computed_by_hand_and_at_large_values():
    logits = np.log([[1.0, 3.0], [2.0, 2.0]])
    np.testing.assert_allclose(max_logit(logits), np.log([3, 2]))
    np.testing.assert_allclose(energy(logits), np.log([4, 4]))
    np.testing.assert_allclose(energy(np.array([[1e4, 0.0]])), [1e4])


def test_every_score_is_higher_for_the_known_and_leaves_its_inputs_alone():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    train = np.eye(8)[labels] + 0.1 * rng.normal(size=(300, 8))
    known = np.eye(8)[labels[:60]] + 0.1 * rng.normal(size=(60, 8))
    unknown = np.eye(8)[3 + labels[:60]] + 0.1 * rng.normal(size=(60, 8))
    copies = [array.copy() for array in (train, known, unknown)]
    reference = calibrate(train, labels, 3)
    of_known = all_scores(known, reference, 9 * known[:, :3])
    of_unknown = all_scores(unknown, reference, 9 * unknown[:, :3])
    assert set(of_known) == {"max_cosine", "knn_cosine", "mahalanobis", "max_logit", "energy"}
    assert rejection.DEFAULT_SCORE in of_known
    for name in of_known:
        assert auroc(of_known[name], of_unknown[name]) > 0.99, name
    assert set(all_scores(known, reference, None)) == {"max_cosine", "knn_cosine", "mahalanobis"}
    for before, after in zip(copies, (train, known, unknown), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_calibration_is_scored_by_the_name_of_its_score():
    rng = np.random.default_rng(0)
    embeddings, class_means, training = (rng.normal(size=(count, 5)).astype(np.float32) for count in (7, 3, 40))
    calibration = {"score": "max_cosine", "prototypes": torch.from_numpy(class_means)}
    np.testing.assert_array_equal(calibrated_score(embeddings, calibration), classify(embeddings, class_means)[1])
    calibration |= {"score": "knn_cosine", "reference": torch.from_numpy(training)}
    np.testing.assert_array_equal(calibrated_score(embeddings, calibration), knn_cosine(embeddings, training))
    assert calibrated_score(embeddings[:0], calibration).shape == (0,)
    labels = np.arange(40) % 3
    calibration |= {"score": "mahalanobis", "reference_labels": torch.from_numpy(labels)}
    expected = mahalanobis(unit(embeddings), fit_gaussian(unit(training), labels, 3))
    np.testing.assert_allclose(calibrated_score(embeddings, calibration), expected, rtol=1e-5)
    del calibration["reference"]
    with pytest.raises(ValueError, match="'mahalanobis': the calibration has no reference"):
        calibrated_score(embeddings, calibration)
    with pytest.raises(ValueError, match="'energy' of the calibration: expected one of max_cosine, knn_cosine"):
        calibrated_score(embeddings, {**calibration, "score": "energy"})
