"""Scores and metrics of known against unknown, against hand-computed cases, naive loops and scikit-learn."""

from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis as scipy_mahalanobis
from sklearn.covariance import LedoitWolf
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from evaluation import rejection
from evaluation.ranking import aupr, auroc, fpr95, measures, oscr, rank, roc
from evaluation.rejection import (
    Calibration,
    all_scores,
    calibrate,
    calibrated_score,
    class_knn_cosine,
    class_neighbours,
    class_rates,
    classify,
    energy,
    fit_gaussian,
    fit_threshold,
    knn_cosine,
    mahalanobis,
    max_logit,
    prototypes,
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
    assert asdict(measures(rank(known, unknown, correct), weights)) == pytest.approx(asdict(measures(repeated)))


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


def test_a_cohort_takes_away_what_is_as_near_to_other_shapes():
    """The score is that of the classes less that of the cohort's shapes, each by a plain loop."""
    rng = np.random.default_rng(0)
    labels, shapes = np.arange(40) % 2, np.arange(30) % 3
    train, others, tested = (rng.normal(size=(n, 6)) for n in (40, 30, 12))
    found = calibrate((train, labels), (train, labels), 2, score="knn_less_cohort", cohort=(others, shapes))
    plain = replace(found, score="knn_cosine")
    loop = []
    for row in rejection.unit(tested):
        nearest = [sorted(rejection.unit(others)[shapes == shape] @ row)[-1] for shape in range(3)]  # k = 1 of ten
        loop.append(max(nearest))
    expected = rejection.calibrated_score(tested, plain) - np.array(loop)
    assert rejection.calibrated_score(tested, found) == pytest.approx(expected)
    assert rejection.class_scores(tested, found) == pytest.approx(
        rejection.class_scores(tested, plain) - np.array(loop)[:, None]
    )
    again = rejection.Calibration.read(found.content())
    assert rejection.calibrated_score(tested, again) == pytest.approx(expected)
    without = calibrate((train, labels), (train, labels), 2)
    assert {*all_scores(tested, found, None)} - {*all_scores(tested, without, None)} == {"knn_less_cohort"}
    with pytest.raises(ValueError, match="has no cohort, cohort_labels"):
        calibrate((train, labels), (train, labels), 2, score="knn_less_cohort")


def test_every_score_is_higher_for_the_known_and_leaves_its_inputs_alone():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    train = np.eye(8)[labels] + 0.1 * rng.normal(size=(300, 8))
    known = np.eye(8)[labels[:60]] + 0.1 * rng.normal(size=(60, 8))
    unknown = np.eye(8)[3 + labels[:60]] + 0.1 * rng.normal(size=(60, 8))
    copies = [array.copy() for array in (train, known, unknown)]
    reference = calibrate((train, labels), (train, labels), 3)
    of_known = all_scores(known, reference, 9 * known[:, :3])
    of_unknown = all_scores(unknown, reference, 9 * unknown[:, :3])
    without_cohort = {name for name, needs in rejection.CALIBRATED.items() if "cohort" not in needs}
    assert set(of_known) == without_cohort | {"max_logit", "energy"} and len(without_cohort) > 1
    assert rejection.DEFAULT_SCORE in of_known
    for name in of_known:
        assert auroc(of_known[name], of_unknown[name]) > 0.99, name
    assert set(all_scores(known, reference, None)) == without_cohort
    for before, after in zip(copies, (train, known, unknown), strict=True):
        np.testing.assert_array_equal(before, after)


def test_class_knn_cosine_is_that_of_a_loop_over_classes():
    rng = np.random.default_rng(0)
    rows, reference, labels = rng.normal(size=(7, 5)), rng.normal(size=(30, 5)), np.arange(30) % 3
    neighbours = np.array([1, 4, 10])
    found = class_knn_cosine(rows, reference, labels, neighbours)
    for row, score in zip(unit(rows), found, strict=True):
        of_class = [np.sort(unit(reference[labels == c]) @ row)[-neighbours[c]] for c in range(3)]
        assert score == pytest.approx(max(of_class))


def test_k_is_a_tenth_of_the_class_and_never_none():
    labels = np.repeat(np.arange(6), [300, 100, 11, 10, 7, 1])
    assert class_neighbours(labels).tolist() == [30, 10, 2, 1, 1, 1]


def test_a_reference_that_holds_every_row_twice_gives_the_same_scores():
    """As the copies of a particle at several SNR nearly do."""
    rng = np.random.default_rng(0)
    rows, reference, labels = rng.normal(size=(50, 8)), rng.normal(size=(120, 8)), np.repeat([0, 1], [100, 20])
    twice, labels_twice = np.repeat(reference, 2, axis=0), np.repeat(labels, 2)
    once = class_knn_cosine(rows, reference, labels, class_neighbours(labels))
    np.testing.assert_allclose(class_knn_cosine(rows, twice, labels_twice, class_neighbours(labels_twice)), once)


def clusters(counts: list[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings around the axes of 16 dimensions, so many in each class; and their labels."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.eye(16)[labels] + 0.15 * np.random.default_rng(seed).normal(size=(len(labels), 16)), labels


def old(calibration: Calibration) -> Calibration:
    """As checkpoints were before k followed the classes: the tenth neighbour among all rows."""
    return replace(calibration, neighbours=None)


def test_a_class_of_few_training_volumes_is_not_refused():
    """Of a class with fewer rows than k, the k-th neighbour is of another class: all of it was called unknown."""
    training, validation = clusters([100, 100, 100, 7], 0), clusters([100, 100, 100, 20], 1)
    found = calibrate(training, validation, 4)
    by_prototype = calibrate(training, validation, 4, score="max_cosine")
    assert found.class_false_rejection[3] <= by_prototype.class_false_rejection[3] + 0.1 <= 0.4
    before = calibrated_score(validation[0], old(found))
    refused = class_rates(before < rejection.fit_threshold(before, 0.05), validation[1], 4)
    assert refused[3] > 0.7


def test_few_volumes_in_every_class_tell_known_from_unknown_as_well_as_prototypes():
    training, validation = clusters([6] * 6, 0), clusters([50] * 6, 1)
    unknown = clusters([0] * 6 + [50] * 6, 2)[0]
    found = calibrate(training, validation, 6)
    variants = found, replace(found, score="max_cosine"), old(found)
    by_class, by_prototype, of_all = (
        auroc(calibrated_score(validation[0], each), calibrated_score(unknown, each)) for each in variants
    )
    assert by_class > by_prototype - 0.02
    assert of_all < by_class - 0.05


def test_the_false_rejection_rate_of_each_class_is_that_of_its_validation_volumes():
    training, (embeddings, labels) = clusters([20] * 4, 0), clusters([10, 20, 30, 40], 1)
    found = calibrate(training, (embeddings, labels), 4, 0.3)
    rejected = calibrated_score(embeddings, found) < found.threshold
    assert rejected.mean() == pytest.approx(0.3) and found.n == 100
    assert found.class_false_rejection.tolist() == [rejected[labels == label].mean() for label in range(4)]
    assert np.isnan(class_rates(rejected, labels, 5)[4])


def test_a_calibration_reads_back_from_a_checkpoint_and_older_ones_score_as_before(tmp_path):
    training, validation = clusters([30, 12], 0), clusters([9, 9], 1)
    found = calibrate(training, validation, 2)
    torch.save(found.content(), tmp_path / "c.pt")
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    read = Calibration.read(content)
    assert (read.score, read.threshold, read.n) == ("knn_cosine", found.threshold, 18)
    for name in ("prototypes", "reference", "reference_labels", "neighbours", "class_false_rejection"):
        np.testing.assert_array_equal(getattr(read, name), getattr(found, name))
    before = {key: value for key, value in content.items() if key not in ("neighbours", "class_false_rejection")}
    scores = calibrated_score(validation[0], Calibration.read(before))
    np.testing.assert_allclose(scores, knn_cosine(validation[0], training[0], 10))
    assert Calibration.read(before).class_false_rejection is None


def test_a_calibration_is_scored_by_the_name_of_its_score():
    rng = np.random.default_rng(0)
    embeddings, class_means, training = (rng.normal(size=(count, 5)).astype(np.float32) for count in (7, 3, 40))
    labels = np.arange(40) % 3
    plain = Calibration("max_cosine", 0.5, 0.05, 7, class_means)
    np.testing.assert_array_equal(calibrated_score(embeddings, plain), classify(embeddings, class_means)[1])
    nearest = replace(plain, score="knn_cosine", reference=training)
    np.testing.assert_array_equal(calibrated_score(embeddings, nearest), knn_cosine(embeddings, training, 10))
    assert calibrated_score(embeddings[:0], nearest).shape == (0,)
    gaussian = replace(nearest, score="mahalanobis", reference_labels=labels)
    expected = mahalanobis(unit(embeddings), fit_gaussian(unit(training), labels, 3))
    np.testing.assert_allclose(calibrated_score(embeddings, gaussian), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="'mahalanobis': the calibration has no reference, reference_labels"):
        replace(plain, score="mahalanobis")
    with pytest.raises(ValueError, match="'energy' of the calibration: expected one of max_cosine, knn_cosine"):
        replace(plain, score="energy")
    with pytest.raises(ValueError, match="the calibration has no score, false_rejection_rate, n, prototypes"):
        Calibration.read({"threshold": 0.5})
