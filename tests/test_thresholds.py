"""The benchmark of thresholds under other imaging: what each way compares with, and what is reported."""

import json

import numpy as np
import pytest
import torch

from benchmarks import thresholds
from benchmarks.thresholds import Volumes, halves, judged, nearest
from common.cli import InputError


def volumes(embeddings: np.ndarray, labels: np.ndarray, noise: np.ndarray | None = None) -> Volumes:
    noise = np.zeros(len(labels)) if noise is None else noise
    return Volumes(embeddings, labels, noise, np.arange(len(labels)) // 2)


def around(rng: np.random.Generator, n: int, spread: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings around two directions, and their classes."""
    labels = np.arange(n) % 2
    return np.eye(5)[labels] + spread * rng.standard_normal((n, 5)), labels


def test_halves_hold_no_particle_twice_and_every_class():
    rng = np.random.default_rng(0)
    found = volumes(rng.standard_normal((80, 3)), np.repeat(np.arange(4), 20))
    first, second = halves(found)
    assert not {*first.particles} & {*second.particles} and len(first.labels) + len(second.labels) == 80
    assert {*first.labels} == {*second.labels} == {0, 1, 2, 3}


def test_the_threshold_refuses_a_twentieth_of_what_it_was_set_on_at_every_level_of_noise():
    rng = np.random.default_rng(0)
    reference, calibration = (volumes(*around(rng, 400)) for _ in range(2))
    loud = np.repeat([0.2, 1.0], 200)
    calibration = Volumes(calibration.embeddings + loud[:, None] * 0.3, calibration.labels, loud, np.arange(400))
    score, _ = nearest(reference, calibration)
    assert np.mean(score(calibration)[:, 0] < 0) == pytest.approx(0.05, abs=0.003)
    by_noise, _ = nearest(reference, calibration, bins=2)
    for level in (0.2, 1.0):
        chosen = calibration.noise == level
        assert np.mean(by_noise(calibration.keep(chosen))[:, 0] < 0) == pytest.approx(0.05, abs=0.006)
    assert np.mean(score(calibration.keep(loud == 1.0))[:, 0] < 0) > 0.06


def test_a_cohort_takes_away_what_any_shape_has_in_common():
    """Shapes between the classes are as near as the classes to what lies there; then the score tells it as unknown."""
    rng = np.random.default_rng(1)
    reference, calibration = (volumes(*around(rng, 200, 0.1)) for _ in range(2))
    between = np.array([1.0, 1.0, 0, 0, 0]) + 0.1 * rng.standard_normal((40, 5))
    tested = volumes(np.vstack([around(rng, 40, 0.1)[0], between]), np.r_[np.arange(40) % 2, np.full(40, -1)])
    shapes = volumes(np.array([1.0, 1.0, 0, 0, 0]) + 0.1 * rng.standard_normal((20, 5)), np.zeros(20, dtype=int))
    plain = judged(tested, *nearest(reference, calibration))
    less = judged(tested, *nearest(reference, calibration, cohort=shapes))
    assert less["accuracy"] == plain["accuracy"] == 1 and (less["n"], less["n_unknown"]) == (40, 40)
    assert less["detected"] == [1, 1, 1, 1] and less["auroc"] >= plain["auroc"]


def test_every_way_is_judged_under_every_set(universal, trained, tmp_path, in_process, monkeypatch):
    for name, value in (("OWN", 2), ("SHAPES", 3), ("PER_SHAPE", 2), ("NOISE_BINS", 2)):
        monkeypatch.setattr(thresholds, name, value)
    plain = trained / "model_save" / "checkpoint.pt"
    places = {"work_dir": str(tmp_path / "work"), "results": str(tmp_path / "table"), "device": "cpu"}
    with pytest.raises(InputError, match="no record of the imaging"):
        thresholds.main(thresholds.Config(str(plain), **places))
    content = torch.load(universal, weights_only=True)
    options = {"sets": ("benchmark", "hard"), "simulate_options": {"snr": "0.5 inf"}, "per_class": 4, "poses": 8}
    cfg = thresholds.Config(str(universal), **places, **options)
    thresholds.main(cfg)
    assert in_process == ["simulate.py"] * 3
    sets = json.loads((tmp_path / "table.json").read_text())["sets"]
    known, unknown = len(content["classes"]), 2
    for found in sets.values():
        ways = list(found)
        assert len(ways) == 16 and all(one["refused"] == sorted(one["refused"]) for one in found.values())
        assert {one["n"] for one in found.values()} == {known * 4 * 2, known * 2 * 2}  # own particles take half away
        assert found[ways[0]]["n_unknown"] % unknown == 0
        assert len({one["auroc"] for one in found.values()}) > 3
    page = (tmp_path / "table.md").read_text()
    assert page.count("| any imaging; less a cohort |") == 10 and "the worst of those that rank" in page
    with pytest.raises(InputError, match="--sets, --per-class"):
        thresholds.main(thresholds.Config(str(universal), sets=("moon",), **places))
