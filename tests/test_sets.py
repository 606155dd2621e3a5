"""The evaluation under the named sets: what it makes, what it leaves alone, and what it reports."""

import json
import math

import pytest
import torch

from benchmarks import sets, study
from common.cli import InputError
from loader.rows import read_split
from model import load_checkpoint


def config(trained, tmp_path, **options):
    places = {"work_dir": str(tmp_path / "work"), "results": str(tmp_path / "sets")}
    held_out = {"valid_unseen": ("complex03", "complex06"), "unseen": ("complex04", "complex05")}
    small = {"simulate_options": {"per_class": "8", "snr": "0.1 0.5 inf"}, "bootstrap": 2, "device": "cpu"}
    checkpoint = str(trained / "model_save" / "checkpoint.pt")
    return sets.Config(checkpoint, **{**places, **held_out, **small, **options})


def test_a_network_is_measured_under_each_set_on_particles_and_imaging_it_never_saw(trained, tmp_path, in_process):
    cfg = config(trained, tmp_path, sets=("benchmark", "other"), floors=True)
    sets.main(cfg)
    assert in_process == ["simulate.py", "csv_split.py", "open_set.py"] * 2
    known = load_checkpoint(cfg.checkpoint)["classes"]
    seen = {*read_split(trained / "csv_split" / "train.csv")["Quaternion"]}
    for name in cfg.sets:
        folder = tmp_path / "work" / name
        record = json.loads((folder / "data_" / "simulation.json").read_text())
        assert (record["set"], record["box"], record["voxel_size"], record["shape_seed"]) == (name, 16, 20.0, 9)
        assert record["classes"] == [*known, "complex03", "complex06"]  # none of unseen.csv
        test = read_split(folder / "evaluation" / "test.csv")
        assert len(test) == 3 * 8 * 3 and {*test["Actual Label"]} == {*known}
        assert not {*test["Quaternion"]} & seen and test["Particle"].str.startswith(f"{name}/").all()
        assert len(read_split(folder / "evaluation" / "unseen.csv")) == 0
    content = json.loads((tmp_path / "sets.json").read_text())
    assert list(content["sets"]) == ["benchmark", "other"] and content["sets"]["other"]["known"]["n"] == 72
    for found in content["sets"].values():
        figures = {**found["valid_unseen"], **found["known"]}
        values = [figures[key][0] for key in (*sets.UNSEEN, *sets.KNOWN) if key != "val"]
        assert all(0 <= value <= 1 for value in values) and "unseen" not in found
    table = (tmp_path / "sets.md").read_text()
    assert "## valid_unseen: complex03, complex06" in table and "| other | 72 / 48 |" in table
    floors = {name: [*found["valid_unseen"]["floors"]] for name, found in content["sets"].items()}
    assert all(names[:2] == ["untrained network", "intensity only"] for names in floors.values())
    assert "| pair AUC, untrained network | pair AUC, intensity only |" in table
    assert "--set other" in table and "## unseen" not in table
    sets.main(cfg)  # nothing is done again
    assert len(in_process) == 6


def test_unseen_classes_are_made_and_reported_in_the_final_evaluation_alone(trained, tmp_path, in_process):
    sets.main(config(trained, tmp_path, sets=("lab",), final=True))
    record = json.loads((tmp_path / "work" / "lab_final" / "data_" / "simulation.json").read_text())
    assert {"complex04", "complex05"} <= {*record["classes"]}
    content = json.loads((tmp_path / "sets.json").read_text())
    assert content["sets"]["lab"]["unseen"]["n"] == 48 and content["sets"]["lab"]["snr_convention"] == "lab"
    assert "## unseen: complex04, complex05" in (tmp_path / "sets.md").read_text()


def test_known_classes_are_not_held_out_and_sets_have_to_exist(trained, tmp_path):
    with pytest.raises(InputError, match="knows complex01; name held-out classes"):
        sets.main(config(trained, tmp_path, valid_unseen=("complex01",)))
    with pytest.raises(InputError, match="--sets easy: expected some of benchmark, lab"):
        sets.main(config(trained, tmp_path, sets=("easy",)))
    assert not (tmp_path / "work").exists()


def test_a_figure_stands_with_its_interval():
    assert study.format_interval([0.9123, [0.9, 0.921]]) == "0.912 [0.900, 0.921]"
    assert study.format_interval([None, None]) == "-" and study.format_interval([math.pi / 4, None]) == "0.785"


def test_a_checkpoint_that_tells_junk_has_a_column_for_it(trained, tmp_path, in_process):
    content = load_checkpoint(trained / "model_save" / "checkpoint.pt")
    directions = content["calibration"]["prototypes"]
    content["junk"] = {"particles": directions, "junk": -directions, "threshold": 0.0}
    (tmp_path / "model_save").mkdir()
    torch.save(content, tmp_path / "model_save" / "checkpoint.pt")
    cfg = config(tmp_path, tmp_path, sets=("benchmark",), simulate_options={"per_class": "8", "snr": "inf"})
    sets.main(cfg)
    found = json.loads((tmp_path / "sets.json").read_text())["sets"]["benchmark"]["known"]["junk"]
    table = (tmp_path / "sets.md").read_text()
    assert 0 <= found[0] <= 1 and f"| {found[0]:.3f} [" in table and "known particles against junk, AUROC |" in table
