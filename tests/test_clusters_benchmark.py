"""The benchmark of clusters: what it simulates and mixes, and what it says of it."""

import json

import numpy as np
import torch

from benchmarks import clusters


def test_clusters_are_judged_by_the_classes_that_are_commonest_in_them():
    found = np.repeat([0, 1, 2, -1], [30, 30, 30, 10])
    classes = np.concatenate(
        [np.repeat(4, 30), np.repeat(4, 20), np.repeat(2, 10), np.repeat(-1, 30), np.repeat(0, 10)]
    )
    figures = clusters.judged(found, classes)
    assert (figures["clusters"], figures["classes"], figures["large_classes"]) == (3, 1, 3)
    assert figures["in_none"] == 0.1 and figures["purity"] == (30 + 20 + 30) / 90


def test_a_mixture_lies_about_its_directions_with_a_background(tmp_path):
    embeddings, classes = clusters.mixture(tmp_path / "e.npy", 600)
    assert isinstance(embeddings, np.memmap) and embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    assert 0.02 < np.mean(classes == -1) < 0.09
    first = embeddings[classes == 0]
    cosines = first @ (first.mean(axis=0) / np.linalg.norm(first.mean(axis=0)))
    expected = clusters.CONCENTRATION / (256 + np.hypot(256, clusters.CONCENTRATION))  # of large dimensions
    assert abs(cosines.mean() - expected) < 0.05
    assert np.abs(embeddings[classes == 0] @ embeddings[classes == 1].T).mean() < 0.1


def test_a_watch_sees_the_memory_that_is_taken_and_the_time():
    with clusters.Watch() as watch:
        block = np.ones(2**24)
        while watch.own_mb < 100:
            block += 1
    assert 100 < watch.own_mb < 1000 and watch.seconds > 0 and watch.processor_seconds > 0


def test_the_benchmark_writes_its_tables(tmp_path):
    threads = torch.get_num_threads()
    clusters.main(clusters.Config(particles=40, classes=(2,), many=(300,), seeds=(0,), results=str(tmp_path / "r")))
    torch.set_num_threads(threads)
    content = json.loads((tmp_path / "r.json").read_text())
    assert [row["way"] for row in content["simulated"]] == ["HDBSCAN", "directly", "by centres"] * 2
    assert content["mixture"][0]["n"] == 300 and clusters.page(content) == (tmp_path / "r.md").read_text()
