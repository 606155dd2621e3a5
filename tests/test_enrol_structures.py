"""The benchmark of enrolment from structures: what it runs and what it reports."""

import json

import numpy as np
import pytest

from benchmarks import enrol_structures
from common.cli import InputError
from prediction import structures
from simulation import auxiliary, cohort


def test_structures_are_enrolled_from_files_and_their_particles_named(trained, tmp_path, in_process, monkeypatch):
    for module, name, value in (
        (structures, "POSES", 8),
        (structures, "SHAPES", 3),
        (structures, "PER_SHAPE", 4),
        (cohort, "POOL", 6),
        (auxiliary, "NEIGHBOURS", 3),
    ):
        monkeypatch.setattr(module, name, value)
    checkpoint = str(trained / "model_save" / "checkpoint.pt")
    places = {"work_dir": str(tmp_path / "work"), "results": str(tmp_path / "enrol"), "device": "cpu"}
    options = {"sets": ("benchmark",), "simulate_options": {"snr": "0.5 inf"}, "per_class": 3}
    cfg = enrol_structures.Config(checkpoint, enrolled=("complex03", "complex06"), **places, **options)
    enrol_structures.main(cfg)
    assert in_process == ["simulate.py", "enrol.py", "enrol.py"]
    content = json.loads((tmp_path / "enrol.json").read_text())
    assert list(content["imaging"]) == ["as in training", "tilts and defocus of the sets"]
    for found in content["imaging"].values():
        assert [one["name"] for one in found["classes"]] == ["complex03", "complex06"]
        figures = found["sets"]["benchmark"]
        assert (figures["n"], figures["n_strangers"]) == (2 * 3 * 2, 3 * 3 * 2)
        assert figures["top1"] == pytest.approx(np.mean([one["top1"] for one in figures["per_class"].values()]))
        assert figures["found"] <= min(figures["top1"], 1 - figures["refused"] + 1e-9)
    page = (tmp_path / "enrol.md").read_text()
    assert "| benchmark | 12, 18 |" in page and "## Enrolled under imaging: tilts and defocus of the sets" in page
    enrol_structures.main(cfg)  # nothing is done again
    assert len(in_process) == 3
    known = enrol_structures.Config(checkpoint, enrolled=("complex01",), **places)
    with pytest.raises(InputError, match="knows complex01; name other classes with --enrolled"):
        enrol_structures.main(known)
