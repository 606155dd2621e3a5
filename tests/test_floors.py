"""Floors and confounds: features as embeddings, and warnings where "unknown" follows a nuisance."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from evaluation.floors import (
    auroc_within,
    blob_features,
    confounds,
    explained,
    feature_embedding,
    known_correct,
    size_features,
)
from evaluation.ranking import auroc


def test_near_features_have_a_high_cosine():
    features = np.random.default_rng(0).normal(100, 20, size=(50, 1))
    embeddings = feature_embedding(features, features)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1)
    nearest = np.argsort(-embeddings @ embeddings[0])
    assert spearmanr(nearest, np.argsort(np.abs(features[:, 0] - features[0, 0])))[0] > 0.99


def test_constant_features_and_empty_masks_do_no_harm():
    assert np.isfinite(feature_embedding(np.ones((3, 2)), np.ones((5, 2)))).all()
    np.testing.assert_allclose(size_features(np.array([0, 1, np.e])), [[0], [0], [1]])


def test_size_alone_names_classes_of_different_size():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=200)
    sizes = size_features(np.array([200, 400, 800])[labels] * rng.uniform(0.9, 1.1, 200))
    embeddings = feature_embedding(sizes, sizes)
    assert known_correct(embeddings[:100], labels[:100], embeddings[100:], labels[100:]).mean() > 0.97


def test_explained_is_rho_squared_for_numbers_and_eta_squared_for_groups():
    rng = np.random.default_rng(0)
    scores, number = rng.normal(size=200), rng.normal(size=200)
    assert explained(scores, number) == pytest.approx(spearmanr(scores, number)[0] ** 2)
    assert explained(scores, scores > 0) > 0.7
    groups = np.repeat(["a", "b"], 100)
    assert explained(np.repeat([0.0, 1.0], 100), groups) == pytest.approx(1)
    assert explained(scores, np.array([f"g{i % 20}" for i in range(200)])) < 0.1
    assert explained(scores, np.zeros(200)) is None and explained(np.zeros(200), number) is None
    assert explained(scores, np.arange(200).astype(str)) is None


def test_a_score_of_structure_alone_makes_no_warning():
    rng = np.random.default_rng(0)
    known, unknown = rng.normal(3, 1, 300), rng.normal(0, 1, 300)
    snr = np.array(["003", "005"])[rng.integers(2, size=600)]
    (entry,) = confounds(known, unknown, {"SNR": (snr[:300], snr[300:])})
    assert entry.warning is None and entry.structure > 0.5 and entry.in_known < 0.05
    assert entry.within == pytest.approx(entry.auroc, abs=0.02) and entry.alone is None


def test_a_score_that_follows_snr_makes_a_warning():
    rng = np.random.default_rng(0)
    noisy = rng.integers(2, size=600)
    scores = 4 * noisy + rng.normal(size=600) + np.repeat([0.5, 0], 300)
    snr = np.array(["003", "infinity"])[noisy]
    (entry,) = confounds(scores[:300], scores[300:], {"SNR": (snr[:300], snr[300:])})
    assert '"unknown" follows SNR' in entry.warning


def test_a_score_that_is_brightness_makes_a_warning():
    rng = np.random.default_rng(0)
    bright, dim = rng.normal(2, 1, 400), rng.normal(0, 1, 400)
    (entry,) = confounds(bright, dim, {"mean intensity": (bright, dim)})
    assert entry.warning and entry.alone == pytest.approx(auroc(bright, dim))


def test_a_factor_that_never_overlaps_makes_a_warning():
    rng = np.random.default_rng(0)
    names = np.array(["t1"] * 40), np.array(["t2"] * 40)
    (entry,) = confounds(rng.normal(9, 1, 40), rng.normal(0, 1, 40), {"tomogram": names})
    assert entry.within is None and "differs altogether" in entry.warning


def test_auroc_within_groups_is_the_mean_over_their_pairs():
    known, unknown = np.array([1.0, 5.0, 6.0]), np.array([0.0, 7.0])
    groups = np.array(["a", "b", "b"]), np.array(["a", "b"])
    assert auroc_within(known, unknown, *groups) == pytest.approx((1 * 1 + 0 * 2) / 3)


def test_blobs_see_the_size_of_a_particle_and_little_in_noise():
    side = 16
    place = torch.arange(side) - (side - 1) / 2
    distance = (place[:, None, None] ** 2 + place[:, None] ** 2 + place**2).sqrt()
    volumes = torch.stack([(distance < radius).float() for radius in (2.0, 3.0, 4.5, 6.0)])[:, None]
    mean, std = volumes.mean(dim=(1, 2, 3, 4), keepdim=True), volumes.std(dim=(1, 2, 3, 4), keepdim=True)
    best = blob_features((volumes - mean) / std).argmax(axis=1)
    assert list(best) == sorted(best) and best[0] < best[-1]
    noise = torch.randn(600, 1, side, side, side, generator=torch.Generator().manual_seed(0))
    assert blob_features(noise).std(axis=0) == pytest.approx(1, abs=0.15)
