"""Clusters in predict.py: columns of the table, content of predictions.json, and the words on the terminal."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from evaluation.factors import Followed
from evaluation.figures import plain
from evaluation.rejection import Calibration
from loader.columns import (
    CLUSTER,
    INPUT,
    NEAREST_CLUSTER,
    PARTICLE,
    POSITION,
    PREDICTION,
    RUNNER_UP_COSINE,
    SNR,
    SOURCE_FILE,
    TOMOGRAM,
    UNKNOWN,
)
from loader.prepare import Preprocessing
from prediction.clusters import clustered, in_words, particle_numbers, per_particle, snr_levels
from prediction.inputs import Inputs
from prediction.predicted import Predicted
from prediction.stream import Embedded
from report.clusters import clusters_text

SIZES = (60, 30, 40)  # of two new classes, and of the known one


@pytest.fixture
def given() -> tuple[Predicted, Embedded]:
    """Particles of two new classes, the second in one tomogram alone, then known ones; one new one is far from both."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], SIZES)
    embeddings = np.eye(16)[truth] + 0.03 * rng.normal(size=(len(truth), 16))
    embeddings[0] = -np.eye(16)[0] - 0.1 * np.eye(16)[1]
    embeddings = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)
    count = len(truth)
    tomograms = np.where(truth == 1, "t9", rng.choice(["t1", "t2", "t9"], count))
    places = {name: rng.uniform(0, 5000, count).round(1).astype(str) for name in POSITION}
    told = pd.DataFrame({INPUT: [f"{number}@s.mrcs" for number in range(count)], TOMOGRAM: tomograms, **places})
    told[[PARTICLE, SNR, SOURCE_FILE]] = ""
    table = told[[INPUT]].assign(**{PREDICTION: np.where(truth == 2, "known", UNKNOWN), RUNNER_UP_COSINE: 0.1})
    table[TOMOGRAM] = tomograms
    calibration = Calibration("max_cosine", 0.5, 0.05, 10, np.eye(16)[[2, 1]].astype(np.float32))
    checkpoint = {"classes": ["known", "other"], "calibration": calibration}
    inputs = Inputs(told, np.full(count, np.nan))
    embedded = Embedded(np.arange(count), embeddings, *rng.normal(size=(3, count)))
    return Predicted(table, embeddings, inputs, Preprocessing(32, 10.0), checkpoint), embedded


def test_each_unknown_particle_has_its_cluster_and_the_nearest_one_and_known_ones_have_none(given):
    predicted, embedded = given
    table = clustered(predicted, embedded).table
    assert [*table][2:] == [RUNNER_UP_COSINE, CLUSTER, NEAREST_CLUSTER, TOMOGRAM]
    assert (table[CLUSTER][1:60] == "cluster_1").mean() > 0.9 and (table[CLUSTER][60:90] == "cluster_2").mean() > 0.9
    assert table[CLUSTER][0] == "" and table[NEAREST_CLUSTER][0] == "cluster_2"
    assert (table[[CLUSTER, NEAREST_CLUSTER]][90:] == "").all(axis=None)
    assert CLUSTER not in predicted.table


def test_the_record_says_of_each_cluster_what_it_is_and_what_it_may_follow(given):
    predicted, embedded = given
    content = clustered(predicted, embedded).clusters
    assert [*plain(content)] == ["n", "particles", "in_none", "smallest", "by_centres", "seed", "found"]
    json.dumps(plain(content), allow_nan=False)
    first, second = content.found
    assert content.n == 90 and content.smallest == 10 and not content.by_centres
    assert content.in_none == 90 - first.n - second.n >= 1
    assert first.cluster == "cluster_1" and first.stable and 1 <= int(first.medoid.split("@")[0]) < 60
    assert second.nearest_class == "other" and second.nearest_cosine > 0.99
    (follows,) = second.may_follow
    assert follows.factor == "tomogram" and "100% of it" in follows.text and "t9" in follows.text


def test_what_a_cluster_follows_is_told_in_words():
    start = "it may follow the noise rather than structure: "
    pair = "of one of its particles and another unknown one, that of its own is "
    larger = Followed(0, "noise", 0.874, 0.01, 12.3456, 0.5)
    assert in_words(larger) == f"{start}{pair}larger in 87% of pairs (median 12.3, of the others 0.5)"
    smaller = replace(larger, effect=0.1)
    assert in_words(smaller) == f"{start}{pair}smaller in 90% of pairs (median 12.3, of the others 0.5)"
    some = Followed(1, "noise", 0.6, 0.01, 0.75, 0.125, ("a", "b", "c"), 9)
    assert in_words(some) == f"{start}75% of it, and 12% of the other unknown particles, are in a, b, c"
    assert in_words(replace(some, groups=tuple("abcd"))).endswith("are in 4 of 9")


def test_the_terminal_shows_the_clusters_and_what_they_may_follow(given):
    text = clusters_text(clustered(*given).clusters)
    head, columns, first, second, *said = text.splitlines()
    assert head.startswith("2 clusters among 90 unknown particles (") and "at least 10)" in head
    assert columns.split()[0] == "cluster" and first.startswith("cluster_1") and "@s.mrcs" in second
    assert said[-1].startswith("cluster_2: it may follow the tomogram rather than structure: ")


def test_a_cluster_that_is_not_stable_is_marked(given):
    content = clustered(*given).clusters
    first, second = content.found
    text = clusters_text(replace(content, found=[first, replace(second, stability=0.4, stable=False)]))
    assert "0.40, not stable" in text and text.startswith("2 clusters (1 not stable) among 90 unknown particles (")


def test_few_unknown_particles_are_said_in_one_line_and_the_columns_are_there(given):
    predicted, embedded = given
    predicted.table[PREDICTION] = np.where(np.arange(len(predicted)) < 12, UNKNOWN, "known")
    found = clustered(predicted, embedded)
    assert (found.table[[CLUSTER, NEAREST_CLUSTER]] == "").all(axis=None)
    text = clusters_text(found.clusters)
    assert text == "clusters: none sought among 12 unknown particles; 20 are needed"


def test_particles_without_place_or_tomogram_are_compared_by_what_the_volumes_show(given):
    predicted, embedded = given
    predicted.inputs.table[[TOMOGRAM, *POSITION]] = ""
    embedded.noise[60:90] += 5
    first, second = clustered(predicted, embedded).clusters.found
    assert [each.factor for each in second.may_follow] == ["noise"]
    assert [each.factor for each in first.may_follow] == ["noise"]  # the lower


def test_of_a_cluster_of_larger_particles_it_is_said_what_is_larger_and_that_a_true_class_may_be_so(given):
    predicted, embedded = given
    embedded.brightness[60:90] += 5
    second = clustered(predicted, embedded).clusters.found[1]
    text = next(each.text for each in second.may_follow if each.factor == "brightness or size")
    assert "that of its own is larger in 100% of pairs (median" in text
    assert text.endswith("in which a true new class that is larger or smaller than the others differs too")
    assert not any("true new class" in each.text for each in second.may_follow if each.factor == "tomogram")


def test_copies_of_a_particle_are_in_one_cluster_and_no_evidence_of_their_own(given):
    predicted, embedded = given
    told = predicted.inputs.table
    told[PARTICLE] = [f"p{number // 3}" for number in range(len(told))]
    told[SNR] = np.array(["003", "005", "infinity"])[np.arange(len(told)) % 3]
    found = clustered(predicted, embedded)
    assert (found.clusters.n, found.clusters.particles) == (90, 30)
    of_copies = found.table[CLUSTER].to_numpy()[:90].reshape(30, 3)
    assert (of_copies == of_copies[:, :1]).all()
    assert [each.particles * 3 for each in found.clusters.found] == [each.n for each in found.clusters.found]
    assert not any(each.factor == "SNR level" for one in found.clusters.found for each in one.may_follow)
    assert "among 30 unknown particles, 90 volumes (" in clusters_text(found.clusters)


def test_a_cluster_of_one_snr_is_flagged(given):
    predicted, embedded = given
    predicted.inputs.table[SNR] = np.where(np.arange(len(predicted)) < 60, "005", "infinity")
    first, second = clustered(predicted, embedded).clusters.found
    text = "it may follow the SNR level rather than structure: of one of its particles and another unknown one, that of"
    assert next(each.text for each in second.may_follow if each.factor == "SNR level").startswith(text)
    assert "(median 0.05, of the others inf)" in next(e.text for e in first.may_follow if e.factor == "SNR level")


def test_snr_levels_that_are_no_numbers_are_groups(given):
    predicted, embedded = given
    predicted.inputs.table[SNR] = np.where(np.arange(len(predicted)) < 60, "low dose", "003")
    first = clustered(predicted, embedded).clusters.found[0]
    (text,) = [each.text for each in first.may_follow if each.factor == "SNR level"]
    assert "100% of it, and 3% of the other unknown particles, are in low dose" in text
    assert snr_levels(pd.Series(["", "003", "infinity"])).tolist() == [pytest.approx(np.nan, nan_ok=True), 0.03, np.inf]


def test_copies_at_several_snrs_that_lie_apart_make_no_clusters_of_their_own(given):
    """Each of 90 particles at two SNRs, whose embeddings lie far apart: by copies there would be four clusters."""
    predicted, embedded = given
    rng = np.random.default_rng(1)
    noisy = predicted.embeddings + 0.8 * np.eye(16, dtype=np.float32)[5] + 0.03 * rng.normal(size=(130, 16))
    noisy = (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)
    told = predicted.inputs.table.assign(**{PARTICLE: [f"p{number}" for number in range(130)]})
    both = pd.concat([told.assign(**{SNR: level}) for level in ("infinity", "003")], ignore_index=True)
    doubled = replace(
        predicted,
        table=pd.concat([predicted.table] * 2, ignore_index=True),
        embeddings=np.concatenate([predicted.embeddings, noisy]),
        inputs=Inputs(both, np.full(260, np.nan)),
    )
    shown = replace(embedded, brightness=np.tile(embedded.brightness, 2), noise=np.tile(embedded.noise, 2))
    found = clustered(doubled, shown)
    assert [each.particles for each in found.clusters.found] == [59, 30]
    assert [each.n for each in found.clusters.found] == [118, 60]
    assert found.table[CLUSTER][:130].tolist() == found.table[CLUSTER][130:].tolist()
    assert not any(each.factor == "SNR level" for one in found.clusters.found for each in one.may_follow)
    both[PARTICLE] = ""
    apart = clustered(doubled, shown).clusters.found
    assert len(apart) == 4
    assert all("SNR level" in [follows.factor for follows in each.may_follow] for each in apart[:2])


def test_particles_are_numbered_by_file_and_name_and_those_without_a_name_are_their_own():
    told = pd.DataFrame({PARTICLE: ["b", "", "a", "b", "", "a", "a"], SOURCE_FILE: [*"xxxxxx", "y"]})
    numbers = particle_numbers(told)
    assert numbers[0] == numbers[3] and numbers[2] == numbers[5] and sorted({*numbers}) == [0, 1, 2, 3, 4]
    assert per_particle(np.array([1.0, 2.0, 3.0, 5.0]), np.array([1, 0, 1, 1])).tolist() == [2.0, 3.0]
    assert per_particle(np.array(["t1", "t2", "t1"]), np.array([0, 1, 0])).tolist() == ["t1", "t2"]
